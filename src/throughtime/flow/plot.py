"""A whole measurement as one picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from throughtime.flow import drawing, panels
from throughtime.flow.result import Flow


def plot(flow: Flow, path: str | Path | None = None) -> Any:
    """Everything that was measured, as a matplotlib figure (extra `plot`).

    From above: the gradient over time and over lag; for each layer and direction the Jacobian product's singular values, the
    Lyapunov spectrum, and its gates over the text; the parameters' norms. What was not measured is left out.
    Written to `path`, as PNG, SVG or PDF by its suffix, if one is given.
    Raises: InputError without matplotlib, or for a path that cannot be written.
    """
    with drawing.style():
        rows = _rows(flow)
        drawn = drawing.figure(11, sum(height for height, _ in rows))
        parts = drawn.subfigures(len(rows), 1, height_ratios=[height for height, _ in rows], squeeze=False)
        for part, (_, cells) in zip(parts[:, 0], rows, strict=True):
            every = part.subplots(1, len(cells), squeeze=False)[0]
            for axes, draw in zip(every, cells, strict=True):
                draw(axes)
    if path is not None:
        drawing.save(drawn, path)
    return drawn


def gate_height(flow: Flow) -> float:
    """Of one heat map, in inches."""
    return 2.4 if flow.symbols else 2.2


def _rows(flow: Flow) -> list[tuple[float, list[Any]]]:
    """Each row's height in inches and what is drawn in it, from left to right."""
    rows: list[tuple[float, list[Any]]] = [
        (3.4, [lambda axes: panels.over_time(axes, flow), lambda axes: panels.over_lag(axes, flow)])
    ]
    for layer in flow.layers.values():
        if layer.products is not None:
            spectrum: list[Any] = [partial(panels.singular_values, layer=layer)]
            if len(layer.products.lyapunov):
                spectrum.append(partial(panels.lyapunov, layer=layer))
            rows.append((3.0, spectrum))
        height = gate_height(flow)
        rows += [(height, [partial(_gate, flow=flow, layer=layer, name=name)]) for name in layer.gates]
    if flow.parameters:
        rows.append((1.0 + 0.2 * len(flow.parameters), [lambda axes: panels.parameters(axes, flow)]))
    return rows


def _gate(axes: Any, flow: Flow, layer: Any, name: str) -> None:
    axes.figure.colorbar(panels.gate(axes, flow, layer, name), ax=axes, pad=0.01)
