"""The figures of a measurement: one function for each panel, and `plot` for all of them together."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from throughtime.flow import drawing
from throughtime.flow.explanation.table import half_life_phrase
from throughtime.flow.measurement.gates import SHOWN
from throughtime.flow.result import Flow, LagCurve, LayerFlow

_FLOOR = 40  # powers of ten that an axis shows at most
_LONGEST_SYMBOL = 8  # characters of a symbol that fits under a step


def over_time(axes: Any, flow: Flow) -> None:
    """|dL/dh_t| for every step."""
    lines = [(f"{name}  h", layer.gradient_h) for name, layer in flow.layers.items()]
    lines += [
        (f"{n}  c", layer.gradient_c) for n, layer in flow.layers.items() if layer.gradient_c is not None
    ]
    for index, (label, values) in enumerate(lines):
        axes.plot(
            range(len(values)),
            drawing.positive(values),
            label=label,
            **drawing.line_style(index, len(values)),
        )
    _log(axes, [values for _, values in lines])
    axes.set(
        title="Gradient of the whole loss, by step", xlabel="step t", ylabel="gradient norm, |dL/dstate_t|"
    )
    axes.legend()


def over_lag(axes: Any, flow: Flow) -> None:
    """|dL_T/dh_{T-k}| with quartiles, and the line of the half-life."""
    curves = [(f"{name}  h", layer.lag_h) for name, layer in flow.layers.items()]
    curves += [(f"{name}  c", layer.lag_c) for name, layer in flow.layers.items() if layer.lag_c is not None]
    seen: list[Tensor] = []  # the axis must contain all lines
    for index, (label, curve) in enumerate(curves):
        lags, line = curve.lags.tolist(), drawing.line_style(index, len(curve.lags))
        axes.plot(
            lags,
            drawing.positive(curve.mean),
            label=f"{label}: {half_life_phrase(curve.half_life)}",
            **line,
        )
        low, high = drawing.positive(curve.low), drawing.positive(curve.high)
        axes.fill_between(lags, low, high, color=line["color"], alpha=0.15, linewidth=0)
        seen += [curve.mean, curve.low, curve.high]
        if (fitted := _fitted(curve)) is not None:
            seen.append(torch.tensor(fitted[1], dtype=torch.float64))
            axes.plot(*fitted, color=line["color"], linewidth=0.8, alpha=0.9)
    _log(axes, seen)
    axes.set(
        title="Gradient of one step's loss, by lag",
        xlabel="lag k (steps)",
        ylabel="gradient norm, |dL_T/dstate_{T-k}|",
    )
    axes.legend()


def singular_values(axes: Any, layer: LayerFlow) -> None:
    """The largest singular values of the Jacobian product."""
    products = layer.products
    assert products is not None
    lags, count = products.lags.tolist(), products.singular_values.shape[1]
    for index in range(count):
        values = products.singular_values[:, index]
        # One family of lines in an order: lightness shows it, not the hue.
        shade = drawing.COLORS[0]
        label = {
            0: "largest",
            count - 1: f"the {count}th largest" if count > 3 else "the smallest shown",
        }.get(index)
        axes.plot(
            lags,
            drawing.positive(values),
            color=shade,
            alpha=1 - 0.4 * index / max(1, count - 1),
            linestyle=drawing.LINES[min(index, 3)],
            linewidth=1.8 if index in (0, count - 1) else 1.0,
            label=label,
            marker="o" if len(lags) < 16 else None,
        )
    axes.axhline(1, color=drawing.COLORS[1], linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlim(0.9 * lags[0], 1.1 * lags[-1])
    _plain(axes.xaxis)
    _log(axes, [products.singular_values])
    axes.set(
        title=f"{layer.name}: product of k Jacobians",
        xlabel="lag k (steps)",
        ylabel="singular value",
    )
    axes.legend()


def lyapunov(axes: Any, layer: LayerFlow) -> None:
    """The Lyapunov spectrum."""
    products = layer.products
    assert products is not None
    values = [v if math.isfinite(v) else math.nan for v in products.lyapunov.tolist()]
    errors = [2 * e if math.isfinite(e) else 0.0 for e in products.lyapunov_error.tolist()]
    axes.errorbar(range(1, len(values) + 1), values, yerr=errors, fmt="o", color=drawing.COLORS[0], capsize=3)
    axes.axhline(0, color=drawing.COLORS[1], linewidth=0.8, linestyle="--")
    axes.set(title=f"{layer.name}: Lyapunov spectrum", xlabel="number", ylabel="exponent (nats per step)")
    axes.xaxis.get_major_locator().set_params(integer=True)


def gate(axes: Any, flow: Flow, layer: LayerFlow, name: str) -> Any:
    """One gate of one layer as a heat map over the first example: units, sorted by their mean, against steps."""
    statistics = layer.gates[name]
    own = statistics.first is not None
    values = (statistics.first if statistics.first is not None else statistics.over_time[:SHOWN]).T  # [H, T]
    values = values[values.mean(dim=1).argsort(descending=True)]
    signed = bool((values < 0).any())
    image = axes.imshow(
        values.numpy(force=True),
        aspect="auto",
        interpolation="nearest",
        cmap=drawing.HEAT,
        vmin=-1 if signed else 0,
        vmax=max(1.0, float(values.max())) if math.isfinite(float(values.max())) else 1,
    )
    axes.grid(False)
    symbols = [drawing.drawable(symbol) for symbol in flow.symbols[: values.shape[1]]]
    longest = max(map(len, symbols), default=0)
    if 0 < longest <= _LONGEST_SYMBOL and not layer.reverse:
        turned = 90 if longest > 1 else 0
        axes.set_xticks(
            range(len(symbols)), symbols, family=drawing.symbol_fonts(), fontsize=7, rotation=turned
        )
        axes.tick_params(axis="x", length=0)
        what = "input"
    else:
        what = "step t"
    whose = "first example" if own else "mean over the examples"
    axes.set_xlabel(f"{what} ({whose}, {shown_steps(flow, layer)})")
    axes.set(
        title=f"{layer.name}: {name}, mean {statistics.mean:.2f}, {statistics.saturated:.0%} saturated",
        ylabel="unit",
    )
    return image


def shown_steps(flow: Flow, layer: LayerFlow) -> str:
    """The steps that a gate's map shows."""
    total = len(next(iter(layer.gates.values())).over_time)
    return f"steps 1 to {min(SHOWN, total)} of {total}" if total > SHOWN else f"all {total} steps"


def gates(fig: Any, flow: Flow, layer: LayerFlow) -> None:
    """All gates of one layer on one figure, one below the other and of one width."""
    for axes, name in zip(fig.subplots(len(layer.gates), 1, squeeze=False)[:, 0], layer.gates, strict=True):
        fig.colorbar(gate(axes, flow, layer, name), ax=axes, pad=0.01)


def parameters(axes: Any, flow: Flow) -> None:
    """Norms of the parameters and of their gradients."""
    names = list(flow.parameters)
    places = torch.arange(len(names), dtype=torch.float64)
    for index, (label, marker) in enumerate((("parameter", "o"), ("its gradient", "x"))):
        values = torch.tensor([flow.parameters[name][index] for name in names], dtype=torch.float64)
        axes.plot(
            drawing.positive(values),
            places.tolist(),
            linestyle="none",
            marker=marker,
            markersize=6,
            color=drawing.COLORS[index],
            label=label,
        )
    axes.set_xscale("log")
    drawing.powers(axes.xaxis)
    axes.set_yticks(places.tolist(), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set(title="Parameters", xlabel="norm")
    axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))  # never over a point


def _fitted(curve: LagCurve) -> tuple[list[float], list[float]] | None:
    """Two points of the fitted line, through the middle of the fitted points; None where there is no trend."""
    fit = curve.half_life
    if not (fit.decays or fit.grows or math.isinf(fit.steps)):
        return None
    rate = math.log(2) / fit.steps if fit.steps else math.nan  # 0 for inf steps
    good = (curve.mean > 0) & curve.mean.isfinite() & (curve.lags > 0)  # as the fit itself
    lags, logs = curve.lags[good].double()[: fit.lags], curve.mean[good].double().log()[: fit.lags]
    if len(lags) < 2 or not math.isfinite(rate):
        return None
    offset = float((logs + rate * lags).mean())
    first, last = float(lags[0]), float(lags[-1])
    return [first, last], [math.exp(offset - rate * first), math.exp(offset - rate * last)]


def _log(axes: Any, values: list[Tensor]) -> None:
    """A log axis for what is positive, of at least one power of ten and at most forty."""
    every = torch.cat([v.double().flatten() for v in values]) if values else torch.zeros(0)
    every = every[(every > 1e-290) & (every < 1e290)]
    axes.set_yscale("log")
    drawing.powers(axes.yaxis)
    if not len(every):
        axes.set_ylim(0.1, 10)
        return
    low, high = math.log10(float(every.min())), math.log10(float(every.max()))
    low = max(low, high - _FLOOR)
    if high - low < 1:
        low, high = (low + high) / 2 - 0.5, (low + high) / 2 + 0.5
        # Within one power of ten, only these ticks show a size.
        _plain(axes.yaxis)
    axes.set_ylim(10 ** (low - 0.05 * (high - low)), 10 ** (high + 0.05 * (high - low)))


def _plain(axis: Any) -> None:
    """1, 2, 5, 10, 20 in plain figures."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def plot(flow: Flow, path: str | Path | None = None) -> Any:
    """A whole measurement as a matplotlib figure (extra `plot`).

    From the top: the gradient by step and by lag; for each layer and direction the Jacobian product's singular values, the
    Lyapunov spectrum, and its gates over the input; the parameters' norms. What was not measured is left out.
    Written to `path`, as PNG, SVG or PDF by its suffix, if there is one.
    Raises: InputError without matplotlib, or for a path that cannot be written.
    """
    with drawing.style():
        rows = _rows(flow)
        fig = drawing.figure(11, sum(height for height, _ in rows))
        parts = fig.subfigures(len(rows), 1, height_ratios=[height for height, _ in rows], squeeze=False)
        for part, (_, cells) in zip(parts[:, 0], rows, strict=True):
            every = part.subplots(1, len(cells), squeeze=False)[0]
            for axes, draw in zip(every, cells, strict=True):
                draw(axes)
    if path is not None:
        drawing.save(fig, path)
    return fig


def gate_height(flow: Flow) -> float:
    """Of one heat map, in inches."""
    return 2.4 if flow.symbols else 2.2


def _rows(flow: Flow) -> list[tuple[float, list[Any]]]:
    """Each row's height in inches and its panels, from left to right."""
    rows: list[tuple[float, list[Any]]] = [
        (3.4, [lambda axes: over_time(axes, flow), lambda axes: over_lag(axes, flow)])
    ]
    for layer in flow.layers.values():
        if layer.products is not None:
            spectrum: list[Any] = [partial(singular_values, layer=layer)]
            if len(layer.products.lyapunov):
                spectrum.append(partial(lyapunov, layer=layer))
            rows.append((3.0, spectrum))
        height = gate_height(flow)
        rows += [
            (height, [partial(_gate_with_scale, flow=flow, layer=layer, name=name)]) for name in layer.gates
        ]
    if flow.parameters:
        rows.append((1.0 + 0.2 * len(flow.parameters), [lambda axes: parameters(axes, flow)]))
    return rows


def _gate_with_scale(axes: Any, flow: Flow, layer: Any, name: str) -> None:
    axes.figure.colorbar(gate(axes, flow, layer, name), ax=axes, pad=0.01)
