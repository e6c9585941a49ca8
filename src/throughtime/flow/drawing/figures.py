"""The pictures of a measurement, each drawn onto given axes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from throughtime.flow import drawing
from throughtime.flow.gates import SHOWN
from throughtime.flow.result import Flow, LagCurve, LayerFlow

_FLOOR = 40  # powers of ten that an axis shows at most


def over_time(axes: Any, flow: Flow) -> None:
    """|dL/dh_t| for every step."""
    lines = [(f"{name}  h", layer.gradient_h) for name, layer in flow.layers.items()]
    lines += [
        (f"{n}  c", layer.gradient_c) for n, layer in flow.layers.items() if layer.gradient_c is not None
    ]
    for index, (label, values) in enumerate(lines):
        axes.plot(
            range(len(values)), drawing.positive(values), label=label, **drawing.look(index, len(values))
        )
    _log(axes, [values for _, values in lines])
    axes.set(
        title="Gradient of the whole loss", xlabel="step t", ylabel="size of the gradient, |dL/dstate_t|"
    )
    axes.legend()


def over_lag(axes: Any, flow: Flow) -> None:
    """|dL_T/dh_{T-k}| with quartiles, and the line of the half-life."""
    curves = [(f"{name}  h", layer.lag_h) for name, layer in flow.layers.items()]
    curves += [(f"{name}  c", layer.lag_c) for name, layer in flow.layers.items() if layer.lag_c is not None]
    seen: list[Tensor] = []  # no line is cut off by the axis
    for index, (label, curve) in enumerate(curves):
        lags, look = curve.lags.tolist(), drawing.look(index, len(curve.lags))
        axes.plot(
            lags,
            drawing.positive(curve.mean),
            label=f"{label}: {drawing.half_life_text(curve.half_life)}",
            **look,
        )
        low, high = drawing.positive(curve.low), drawing.positive(curve.high)
        axes.fill_between(lags, low, high, color=look["color"], alpha=0.15, linewidth=0)
        seen += [curve.mean, curve.low, curve.high]
        if (line := _fitted(curve)) is not None:
            seen.append(torch.tensor(line[1], dtype=torch.float64))
            axes.plot(*line, color=look["color"], linewidth=0.8, alpha=0.9)
    _log(axes, seen)
    axes.set(
        title="Gradient of one step's loss",
        xlabel="lag k, in steps back",
        ylabel="gradient of the last loss, |dL_T/dstate_{T-k}|",
    )
    axes.legend()


def singular_values(axes: Any, layer: LayerFlow) -> None:
    """The largest singular values of the Jacobian product."""
    products = layer.products
    assert products is not None
    lags, count = products.lags.tolist(), products.singular_values.shape[1]
    for index in range(count):
        values = products.singular_values[:, index]
        # One family of lines: its order is its meaning, so lightness tells it and not the hue.
        shade = drawing.COLOURS[0]
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
    axes.axhline(1, color=drawing.COLOURS[1], linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlim(0.9 * lags[0], 1.1 * lags[-1])
    _plain(axes.xaxis)
    _log(axes, [products.singular_values])
    axes.set(
        title=f"{layer.name}: product of k Jacobians",
        xlabel="lag k, in steps back",
        ylabel="stretch (singular value)",
    )
    axes.legend()


def lyapunov(axes: Any, layer: LayerFlow) -> None:
    """The Lyapunov spectrum."""
    products = layer.products
    assert products is not None
    values = [v if math.isfinite(v) else math.nan for v in products.lyapunov.tolist()]
    errors = [2 * e if math.isfinite(e) else 0.0 for e in products.lyapunov_error.tolist()]
    axes.errorbar(
        range(1, len(values) + 1), values, yerr=errors, fmt="o", color=drawing.COLOURS[0], capsize=3
    )
    axes.axhline(0, color=drawing.COLOURS[1], linewidth=0.8, linestyle="--")
    axes.set(
        title=f"{layer.name}: Lyapunov spectrum", xlabel="number", ylabel="growth per step (exponent, nats)"
    )
    axes.xaxis.get_major_locator().set_params(integer=True)


def gate(axes: Any, flow: Flow, layer: LayerFlow, name: str) -> Any:
    """One gate of one layer as a heat map over the first example's text: units, sorted by their mean, against steps."""
    statistics = layer.gates[name]
    own = statistics.first is not None  # not in a measurement that an earlier version kept
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
    symbols = [drawing.shown(symbol) for symbol in flow.symbols[: values.shape[1]]]
    if symbols and max(map(len, symbols)) == 1 and not layer.reverse:
        axes.set_xticks(range(len(symbols)), symbols, family="monospace", fontsize=7)
        axes.tick_params(axis="x", length=0)
        what = "the text that is read"
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
    """How many of the steps a gate's map shows."""
    total = len(next(iter(layer.gates.values())).over_time)
    return f"steps 1 to {min(SHOWN, total)} of {total}" if total > SHOWN else f"all {total} steps"


def gates(drawn: Any, flow: Flow, layer: LayerFlow) -> None:
    """All gates of one layer on one figure, one under the other and of one width."""
    for axes, name in zip(drawn.subplots(len(layer.gates), 1, squeeze=False)[:, 0], layer.gates, strict=True):
        drawn.colorbar(gate(axes, flow, layer, name), ax=axes, pad=0.01)


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
            color=drawing.COLOURS[index],
            label=label,
        )
    axes.set_xscale("log")
    drawing.powers(axes.xaxis)
    axes.set_yticks(places.tolist(), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set(title="Parameters", xlabel="size (norm)")
    axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))  # never over a point


def _fitted(curve: LagCurve) -> tuple[list[float], list[float]] | None:
    """Two points of the fitted line, laid through the middle of what it was fitted on."""
    fit = curve.half_life
    if not math.isfinite(fit.low + fit.high) and not math.isfinite(fit.steps):
        return None
    rate = math.log(2) / fit.steps if fit.steps else math.nan
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
        # Within one power of ten, only these ticks tell a size.
        _plain(axes.yaxis)
    axes.set_ylim(10 ** (low - 0.05 * (high - low)), 10 ** (high + 0.05 * (high - low)))


def _plain(axis: Any) -> None:
    """1, 2, 5, 10, 20 in plain figures."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
