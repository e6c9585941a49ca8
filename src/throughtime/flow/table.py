"""A measurement as a small table."""

from __future__ import annotations

import math

from throughtime.flow.result import Flow, LagCurve, LayerFlow


def table(flow: Flow) -> str:
    """One line for each layer and direction, under one that says what was measured."""
    ends = "1 step" if len(flow.ends) == 1 else f"{len(flow.ends)} steps"
    title = f"loss {flow.loss:.4g} over {flow.examples} x {flow.steps} steps; sent back from {ends}, in {flow.seconds:.1f} s"
    rows: list[tuple[str, ...]] = [("layer", "cell", "units", "half-life", "reach", "flat units", "denormal")]
    rows += [_row(each) for each in flow.layers.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([title, *(line.rstrip() for line in lines)])


def _row(layer: LayerFlow) -> tuple[str, ...]:
    curve = layer.lag_h
    flat = [gate.saturated for gate in layer.gates.values() if not math.isnan(gate.saturated)]
    return (
        layer.name,
        layer.cell,
        str(layer.units),
        half_life_words(curve),
        f"{curve.reach} steps" if curve.reach is not None else f"over {len(curve.lags) - 1}",
        f"{max(flat):.0%}" if flat else "",
        f"{layer.denormal_share:.1%}",
    )


def half_life_words(curve: LagCurve) -> str:
    """The half-life in a few words: "3.2 steps", "doubles in 5.0", "keeps", "gone at 2"."""
    steps = curve.half_life.steps
    if curve.gone is not None:
        return f"gone at {curve.gone}"
    if math.isnan(steps):
        return "unknown"
    if math.isinf(steps):
        return "keeps"
    return f"{steps:.3g} steps" if steps > 0 else f"doubles in {-steps:.3g}"
