"""A measurement as an HTML page: the explanation first, then tables, then figures with their captions."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from throughtime import __version__
from throughtime.files import write_whole
from throughtime.flow import drawing
from throughtime.flow.drawing import figures
from throughtime.flow.explanation.table import half_life_phrase
from throughtime.flow.result import NOTHING, Flow, HalfLife, LagCurve, LayerFlow

_TIME = (
    "The gradient of the whole loss at the state of each step, through all paths. A line that falls towards the left says that "
    "early steps get little gradient from later losses."
)
_LAG = (
    "The gradient of one step's loss at the states before it, by lag: the mean, the quartiles as a band, and the fit of the "
    "half-life as a thin line. A straight fall on this log axis is exponential decay, a straight rise exponential growth."
)
_SINGULAR = (
    "The largest singular values of the product of k Jacobians: how much k steps stretch a small change of the state. Below the "
    "dashed line at 1 it shrinks. Values too small for float64 beside the largest are left out."
)
_LYAPUNOV = (
    "The mean logarithm of the stretch per step in each direction, with two standard errors over examples. Above the dashed line "
    "at 0 a small change of the state grows from step to step, below it it decays."
)
_GATE = (
    "One column for each step, one row for each unit, sorted by its mean: the gates of the first example over its own input, "
    "{steps}; the means in the titles and the table are over all examples and steps. Columns that differ show units that react "
    "to the input; rows of one color, units that are constant."
)
_PARAMETERS = (
    "Norms on a log axis. A parameter whose gradient is many powers of ten below the others' hardly learns."
)
_CSS = """
:root { color-scheme: light dark; --ink: #1b1f23; --paper: #ffffff; --soft: #5a6370; --line: #d5d9de; --box: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #16181c; --soft: #a3acb8; --line: #3a4049; --box: #1f2329; }
}
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .about td { text-align: left; }
.explanation { background: var(--box); padding: .8rem 1.1rem; border-left: 4px solid #0072B2; white-space: pre-line; }
.note, figcaption { color: var(--soft); font-size: .9rem; }
code { white-space: nowrap; font-size: .92em; }
figure { margin: 1rem 0 1.6rem; } .wide { overflow-x: auto; } figure svg { max-width: 100%; height: auto; color: var(--ink); }
@media (max-width: 600px) { figure svg { max-width: none; min-width: 40rem; } }
pre { background: var(--box); padding: .6rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def write_report(flow: Flow, path: str | Path, about: Mapping[str, str] = NOTHING) -> None:
    """Write one HTML file that needs neither network nor script, whole or not at all; `about` as of `Flow.html`.

    Cost: a second or so for each layer. Raises: InputError without matplotlib, RunError for a path that cannot be written.
    """
    write_whole(path, report(flow, about).encode())


def report(flow: Flow, about: Mapping[str, str] = NOTHING) -> str:
    """The page itself."""
    body = ["<h1>Gradient flow through time</h1>", about_table(about)]
    body.append(f"<p class=explanation>{_options(flow.explain())}</p>")
    body.append(
        f"<p class=note>Loss {flow.loss:.4g}; {flow.steps:,} steps, {flow.examples} examples; gradients of the losses of steps "
        f"{', '.join(map(str, flow.ends))}; measured in {flow.seconds:.3g} s.</p>"
    )
    body += ["<h2>The layers</h2>", _layers(flow.layers.values())]
    if any(layer.weights for layer in flow.layers.values()):
        body += ["<h2>The recurrent weights</h2>", _weights(flow.layers.values())]
    if any(layer.gates for layer in flow.layers.values()):
        body += ["<h2>The gates</h2>", _gates(flow.layers.values())]
    with drawing.style():
        body += _figures(flow)
    return page("Gradient flow through time", "\n".join(body))


def _figures(flow: Flow) -> list[str]:
    parts = ["<h2>Gradients</h2>"]
    count = 0

    def add(width: float, height: float, caption: str, draw: Callable[[Any], Any]) -> None:
        fig = drawing.figure(width, height)
        draw(fig.subplots())
        put(fig, caption)

    def put(fig: Any, caption: str) -> None:
        nonlocal count
        svg = drawing.inline(fig, count)
        parts.append(
            f"<figure><div class=wide>{svg}</div><figcaption>{html.escape(caption)}</figcaption></figure>"
        )
        count += 1

    add(9, 3.6, _TIME, lambda axes: figures.over_time(axes, flow))
    add(9, 3.6, _LAG, lambda axes: figures.over_lag(axes, flow))
    for layer in flow.layers.values():
        if layer.products is not None:
            parts.append(f"<h2>{html.escape(layer.name)}: Jacobian products</h2>")
            add(9, 3.4, _SINGULAR, partial(figures.singular_values, layer=layer))
            if len(layer.products.lyapunov):
                add(9, 3.0, _LYAPUNOV, partial(figures.lyapunov, layer=layer))
        if layer.gates:
            parts.append(f"<h2>{html.escape(layer.name)}: gates over the input</h2>")
            fig = drawing.figure(9, figures.gate_height(flow) * len(layer.gates))
            figures.gates(fig, flow, layer)
            put(fig, _GATE.format(steps=figures.shown_steps(flow, layer)))
    if flow.parameters:
        parts.append("<h2>The parameters</h2>")
        height = 1.0 + 0.22 * len(flow.parameters)
        add(9, height, _PARAMETERS, lambda axes: figures.parameters(axes, flow))
    return parts


def _layers(layers: Iterable[LayerFlow]) -> str:
    head = (
        "layer",
        "cell",
        "units",
        "state",
        "half-life",
        "95 % interval, steps",
        "R²",
        "reach, steps",
        "denormal",
    )
    rows = []
    for layer in layers:
        for state, curve in (("h", layer.lag_h), ("c", layer.lag_c)):
            if curve is None:
                continue
            fit = curve.half_life
            rows.append(
                (
                    layer.name,
                    layer.cell,
                    str(layer.units),
                    state,
                    half_life_phrase(fit),
                    _interval(fit),
                    f"{fit.r_squared:.3f}",
                    _reach(curve),
                    f"{layer.denormal_fraction:.2%}" if state == "h" else "",
                )
            )
    return _table(head, rows)


def _weights(layers: Iterable[LayerFlow]) -> str:
    head = ("layer", "block", "spectral radius", "largest singular value", "smallest")
    rows = []
    for layer in layers:
        for block, found in layer.weights.items():
            values = found.singular_values
            rows.append(
                (
                    layer.name,
                    block,
                    f"{found.radius:.4g}",
                    f"{float(values[0]):.4g}",
                    f"{float(values[-1]):.3g}",
                )
            )
    return _table(head, rows)


def _gates(layers: Iterable[LayerFlow]) -> str:
    head = ("layer", "gate", "mean", "std", "mean slope", "std of slope", "saturated")
    rows = []
    for layer in layers:
        for name, gate in layer.gates.items():
            numbers = (gate.mean, gate.std, gate.slope_mean, gate.slope_std)
            rows.append((layer.name, name, *(f"{n:.3f}" for n in numbers), f"{gate.saturated:.1%}"))
    return _table(head, rows)


def _interval(fit: HalfLife) -> str:
    """The interval of the half-life or doubling time; where the slope's interval contains zero, the two ends differ in kind."""
    if math.isnan(fit.low) or math.isnan(fit.high) or not (math.isfinite(fit.low) or math.isfinite(fit.high)):
        return ""
    if fit.low > 0 > fit.high:
        return f"half-life over {fit.low:.3g} or doubling time over {-fit.high:.3g}"
    if fit.low > 0 and math.isinf(fit.high):
        return f"half-life over {fit.low:.3g}"
    if math.isinf(fit.low) and fit.high < 0:
        return f"doubling time over {-fit.high:.3g}"
    low, high = sorted((abs(fit.low), abs(fit.high)))
    return f"{low:.3g} to {high:.3g}"


def _options(text: str) -> str:
    """Text as HTML, in which no option of the command line is broken at its hyphens."""
    return re.sub(r"(?<![\w-])(--[a-z][\w-]*)", r"<code>\1</code>", html.escape(text))


def _reach(curve: LagCurve) -> str:
    if curve.reach is None:
        return f"beyond {int(curve.lags[-1])}"
    return f"{curve.reach} (to {curve.fraction:.0%})"


def about_table(about: Mapping[str, str]) -> str:
    """What was measured, by which version and when."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = {**about, "date": when, "throughtime": __version__}
    cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
    return f"<table class=about>{cells}</table>"


def page(title: str, body: str) -> str:
    """A whole HTML document around `body`, which is HTML already; the title is text."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style></head><body>\n{body}\n</body></html>\n"
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def row(cells: Iterable[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    return "<table>" + row(head, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"
