"""A trained model in use: loading, prediction, sessions, sampling, generation."""

from throughtime.decoding.sampling import draw, greedy, keep_top_k, keep_top_p, scale_by_temperature
from throughtime.kernels.native.generation.generator import State
from throughtime.runtime.generate import Generation, generate
from throughtime.runtime.music import piano_roll, roll_text, save_music
from throughtime.runtime.native import clear_generation_cache
from throughtime.runtime.quantized import with_quantized_weights
from throughtime.runtime.session import Session
from throughtime.runtime.trained import Trained, load

__all__ = [
    "Generation",
    "Session",
    "State",
    "Trained",
    "clear_generation_cache",
    "draw",
    "generate",
    "greedy",
    "keep_top_k",
    "keep_top_p",
    "load",
    "piano_roll",
    "roll_text",
    "save_music",
    "scale_by_temperature",
    "with_quantized_weights",
]
