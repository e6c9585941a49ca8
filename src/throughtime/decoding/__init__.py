"""From a step of a model to symbols: greedy, sampling, beam search, CTC. Works on any `step(state, symbols) -> logits, state`."""

from throughtime.decoding.sampling import draw
from throughtime.decoding.search import Hypothesis, Limits, beam, greedy, sample
from throughtime.decoding.state import Step, select

__all__ = ["Hypothesis", "Limits", "Step", "beam", "draw", "greedy", "sample", "select"]
