"""What happened to the gradient on its way back through time: `measure` it, let it `explain` itself."""

from throughtime.flow.explain import explain
from throughtime.flow.influence import Influence, influence
from throughtime.flow.measure import measure
from throughtime.flow.reach import Reach, gradient_reach
from throughtime.flow.result import Flow, GateStatistics, HalfLife, LagCurve, LayerFlow, Products, Spectrum

__all__ = [
    "Flow",
    "GateStatistics",
    "HalfLife",
    "Influence",
    "LagCurve",
    "LayerFlow",
    "Products",
    "Reach",
    "Spectrum",
    "explain",
    "gradient_reach",
    "influence",
    "measure",
]
