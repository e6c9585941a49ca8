"""A trained model at work: sessions, sampling, generation."""

from throughtime.runtime.generate import generate
from throughtime.runtime.rounded import with_rounded_weights
from throughtime.runtime.sampling import draw, greedy, keep_top_k, keep_top_p, scale_by_temperature
from throughtime.runtime.session import Session, State

__all__ = [
    "Session",
    "State",
    "draw",
    "generate",
    "greedy",
    "keep_top_k",
    "keep_top_p",
    "scale_by_temperature",
    "with_rounded_weights",
]
