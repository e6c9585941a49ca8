"""A measurement as a table, and half-lives in a few words."""

from __future__ import annotations

import math

from throughtime.flow.result import Flow, HalfLife, LagCurve, LayerFlow


def table(flow: Flow) -> str:
    """One line for each layer and direction, below a line about the measurement itself."""
    ends = "1 step" if len(flow.ends) == 1 else f"{len(flow.ends)} steps"
    title = (
        f"loss {flow.loss:.4g} over {flow.examples} x {flow.steps} steps; "
        f"gradient of the loss of {ends}, measured in {flow.seconds:.1f} s"
    )
    rows: list[tuple[str, ...]] = [("layer", "cell", "units", "half-life", "reach", "saturated", "denormal")]
    rows += [_row(each) for each in flow.layers.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([title, *(line.rstrip() for line in lines)])


def _row(layer: LayerFlow) -> tuple[str, ...]:
    curve = layer.lag_h
    saturated = [gate.saturated for gate in layer.gates.values() if not math.isnan(gate.saturated)]
    return (
        layer.name,
        layer.cell,
        str(layer.units),
        half_life_words(curve),
        f"{curve.reach} steps" if curve.reach is not None else f"over {len(curve.lags) - 1}",
        f"{max(saturated):.0%}" if saturated else "",
        f"{layer.denormal_fraction:.1%}",
    )


def half_life_words(curve: LagCurve) -> str:
    """The half-life in a few words: "3.2 steps", "doubles in 5.0", "keeps", "uneven", "gone at 2", "unknown".

    A half-life is stated only where the 95 % interval of the slope excludes zero; else the curve keeps its size or is uneven.
    """
    fit = curve.half_life
    if curve.gone is not None:
        return f"gone at {curve.gone}"
    if math.isnan(fit.steps):
        return "unknown"
    if fit.decays:
        return f"{fit.steps:.3g} steps"
    if fit.grows:
        return f"doubles in {-fit.steps:.3g}"
    return "keeps" if keeps_size(curve) else "uneven"


def half_life_phrase(fit: HalfLife) -> str:
    """The same for a legend: "half-life 3.2 steps", "doubling time 5 steps"."""
    if math.isnan(fit.steps) or fit.lags < 2:
        return "no half-life can be fitted"
    if math.isinf(fit.steps):
        return "keeps its size"
    if fit.decays or fit.grows:
        return f"{'half-life' if fit.decays else 'doubling time'} {abs(fit.steps):.3g} steps"
    return "no single half-life"


def keeps_size(curve: LagCurve) -> bool:
    """Whether the gradient stays between half and twice its size at lag 0 at every lag."""
    relative = curve.mean / curve.mean[0]
    return bool(((relative >= 0.5) & (relative <= 2)).all())
