"""A trained model in use: loading, prediction, sessions, sampling, generation."""

from throughtime.runtime.generate import generate
from throughtime.runtime.quantized import with_quantized_weights
from throughtime.runtime.sampling import draw, greedy, keep_top_k, keep_top_p, scale_by_temperature
from throughtime.runtime.session import Session, State
from throughtime.runtime.trained import Trained, load

__all__ = [
    "Session",
    "State",
    "Trained",
    "draw",
    "generate",
    "greedy",
    "keep_top_k",
    "keep_top_p",
    "load",
    "scale_by_temperature",
    "with_quantized_weights",
]
