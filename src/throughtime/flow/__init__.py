"""Gradient flow through time: `measure` it, `explain` it, and draw it with `Flow.plot` and `Flow.html`.

measurement/  the copy of the model, the recording of its states, and what is computed from them
explanation/  sentences, advice and the table
drawing/      figures, text heat maps and HTML pages
"""

from throughtime.flow.explanation.explain import explain
from throughtime.flow.measurement.influence import Influence, influence
from throughtime.flow.measurement.measure import measure
from throughtime.flow.measurement.reach import Reach, gradient_reach
from throughtime.flow.measurement.snapshot import LayerSnapshot, snapshot
from throughtime.flow.result import Flow, GateStatistics, HalfLife, LagCurve, LayerFlow, Products, Spectrum

__all__ = [
    "Flow",
    "GateStatistics",
    "HalfLife",
    "Influence",
    "LagCurve",
    "LayerFlow",
    "LayerSnapshot",
    "Products",
    "Reach",
    "Spectrum",
    "explain",
    "gradient_reach",
    "influence",
    "measure",
    "snapshot",
]
