"""A measurement as a page to read: the verdict first, then tables, then pictures and what each of them means."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from throughtime.files import write_whole
from throughtime.flow import drawing, panels
from throughtime.flow.page import page
from throughtime.flow.plot import gate_height
from throughtime.flow.result import Flow, HalfLife, LagCurve, LayerFlow

_TIME = (
    "The gradient of the whole loss at the state of each step, all ways back to it together. A line that falls towards "
    "the left says that early steps are told little of what went wrong later."
)
_LAG = (
    "The gradient of one step's loss, by how many steps back it is looked at: the mean, the quartiles as a band, and as a thin "
    "line the fit of its half-life. A straight fall on this log axis is a gradient that vanishes; a rise is one that explodes."
)
_SINGULAR = (
    "How much k steps stretch the most stretched directions of the state. Below the dashed line at 1 they shrink. A curve that "
    "rises first and falls later is growth that does not last. Values too small for float64 beside the largest are left out."
)
_LYAPUNOV = (
    "The mean logarithm of the stretch in each direction per step, with two standard errors over examples. Above the dashed line "
    "at 0 a small change grows from step to step, below it it is forgotten."
)
_GATE = (
    "One column for each step, one row for each unit, sorted by its mean there: the first example's own gates over its own text, "
    "{steps}; "
    "the means in the titles and the table are over all examples and steps. Columns that differ show a unit that reacts to the "
    "text; rows of one colour, units that always do the same."
)
_PARAMETERS = (
    "Norms on a log axis. A parameter whose gradient lies many powers of ten below the others' hardly learns."
)


def write_report(flow: Flow, path: str | Path) -> None:
    """Write one HTML file that needs neither network nor script, whole or not at all.

    Cost: a second or so for each layer. Raises: InputError without matplotlib, RunError for a path that cannot be written.
    """
    write_whole(path, report(flow).encode())


def report(flow: Flow) -> str:
    """The page itself."""
    body = ["<h1>Where the gradient goes</h1>", f"<p class=verdict>{_options(flow.explain())}</p>"]
    body.append(
        f"<p class=note>Loss {flow.loss:.4g}; {flow.steps:,} steps, {flow.examples} examples; single losses sent back from steps "
        f"{', '.join(map(str, flow.ends))}; measured in {flow.seconds:.3g} s.</p>"
    )
    body += ["<h2>The layers</h2>", _layers(flow.layers.values())]
    if any(layer.weights for layer in flow.layers.values()):
        body += ["<h2>The recurrent weights</h2>", _weights(flow.layers.values())]
    if any(layer.gates for layer in flow.layers.values()):
        body += ["<h2>The gates</h2>", _gates(flow.layers.values())]
    with drawing.style():
        body += _pictures(flow)
    return page("Where the gradient goes", "\n".join(body))


def _pictures(flow: Flow) -> list[str]:
    parts = ["<h2>The gradient on its way back</h2>"]
    count = 0

    def add(width: float, height: float, meaning: str, draw: Callable[[Any], Any]) -> None:
        drawn = drawing.figure(width, height)
        draw(drawn.subplots())
        put(drawn, meaning)

    def put(drawn: Any, meaning: str) -> None:
        nonlocal count
        svg = drawing.inline(drawn, count)
        parts.append(
            f"<figure><div class=wide>{svg}</div><figcaption>{html.escape(meaning)}</figcaption></figure>"
        )
        count += 1

    add(9, 3.6, _TIME, lambda axes: panels.over_time(axes, flow))
    add(9, 3.6, _LAG, lambda axes: panels.over_lag(axes, flow))
    for layer in flow.layers.values():
        if layer.products is not None:
            parts.append(f"<h2>{html.escape(layer.name)}: the product of its Jacobians</h2>")
            add(9, 3.4, _SINGULAR, partial(panels.singular_values, layer=layer))
            if len(layer.products.lyapunov):
                add(9, 3.0, _LYAPUNOV, partial(panels.lyapunov, layer=layer))
        if layer.gates:
            parts.append(f"<h2>{html.escape(layer.name)}: its gates over the text</h2>")
            drawn = drawing.figure(9, gate_height(flow) * len(layer.gates))
            panels.gates(drawn, flow, layer)
            put(drawn, _GATE.format(steps=panels.shown_steps(flow, layer)))
    if flow.parameters:
        parts.append("<h2>The parameters</h2>")
        height = 1.0 + 0.22 * len(flow.parameters)
        add(9, height, _PARAMETERS, lambda axes: panels.parameters(axes, flow))
    return parts


def _layers(layers: Iterable[LayerFlow]) -> str:
    head = (
        "layer",
        "cell",
        "units",
        "state",
        "half-life",
        "95 % interval, steps",
        "fit R²",
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
                    drawing.half_life_text(fit),
                    _interval(fit),
                    f"{fit.quality:.3f}",
                    _reach(curve),
                    f"{layer.denormal_share:.2%}" if state == "h" else "",
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
    head = ("layer", "gate", "mean", "spread", "mean slope", "spread of slope", "saturated")
    rows = []
    for layer in layers:
        for name, gate in layer.gates.items():
            numbers = (gate.mean, gate.spread, gate.slope_mean, gate.slope_spread)
            rows.append((layer.name, name, *(f"{n:.3f}" for n in numbers), f"{gate.saturated:.1%}"))
    return _table(head, rows)


def _interval(fit: HalfLife) -> str:
    """In words, as an end of the other sign is no number of steps between the two: it lies beyond infinitely many."""
    if math.isnan(fit.low) or math.isnan(fit.high) or not (math.isfinite(fit.low) or math.isfinite(fit.high)):
        return ""
    if fit.low > 0 > fit.high:
        if fit.steps > 0:
            return f"halves in {fit.low:.3g} to no end: it may grow"
        return f"doubles in {-fit.high:.3g} to no end: it may fall"
    if fit.low > 0 and math.isinf(fit.high):
        return f"halves in {fit.low:.3g} to no end"
    if math.isinf(fit.low) and fit.high < 0:
        return f"doubles in {-fit.high:.3g} to no end"
    low, high = sorted((abs(fit.low), abs(fit.high)))
    return f"{low:.3g} to {high:.3g}"


def _options(text: str) -> str:
    """Text as HTML, in which no option of the command line is torn at its hyphens."""
    return re.sub(r"(?<![\w-])(--[a-z][\w-]*)", r"<code>\1</code>", html.escape(text))


def _reach(curve: LagCurve) -> str:
    if curve.reach is None:
        return f"beyond {int(curve.lags[-1])}"
    return f"{curve.reach} (to {curve.share:.0%})"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def row(cells: Iterable[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    return "<table>" + row(head, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"
