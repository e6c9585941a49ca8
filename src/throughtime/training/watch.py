"""Watching the gradient through time while training: a short measurement every so many steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from throughtime.data.batch import Batch
from throughtime.errors import InputError
from throughtime.training.clipping import gradients

if TYPE_CHECKING:
    from throughtime.flow import LayerSnapshot

# Steps between measurements where the configuration does not say: one costs as much as two or three steps on a CPU, and as
# many as an accelerator makes in the time that a loop over the steps of a window takes in Python.
ON_CPU, ELSEWHERE = 200, 2000


class Watch:
    """Measures every `every` steps, never where that is 0; keeps the last result for the progress line and a spike's report.

    Measuring changes nothing: the training that is watched ends in the bits of the one that is not.
    """

    def __init__(
        self,
        every: int | None,
        model: nn.Module,
        loss: Callable[[Any, Batch], Tensor],
        device: torch.device,
    ) -> None:
        self.every = (ON_CPU if device.type == "cpu" else ELSEWHERE) if every is None else every
        self.words = ""
        """Of the last measurement, for the progress line: "half-life 7.1 steps"."""
        self.step = 0  # of the last measurement
        self.refusal: str | None = None
        """Why there is nothing to measure in this model, once that is known."""
        self._model, self._loss, self._device = model, loss, device

    def measure(self, step: int, batch: Batch, state: Any, norm: float) -> dict[str, Any] | None:
        """Measure between a step's gradient and its update: the record for the history, or None if there is nothing to measure.

        Args: state, before the batch; norm, of the gradient before clipping.

        The record: norm before and norm_clipped after clipping; by layer what `throughtime.flow.LayerSnapshot.record` says;
        watch_seconds, what the measurement took.
        """
        from throughtime.flow import snapshot

        start = time.perf_counter()
        try:
            layers = snapshot(self._model, self._loss, batch.to(self._device), state)
        except InputError as error:
            self.refusal = str(error)
            return None
        self.step, self.words = step, words(layers)
        return {
            "norm": norm,
            "norm_clipped": float(get_total_norm(gradients(self._model.parameters()))),
            "layers": {name: each.record() for name, each in layers.items()},
            "watch_seconds": time.perf_counter() - start,
        }

    def state_dict(self) -> dict[str, Any]:
        """The last measurement."""
        return {"words": self.words, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.words, self.step = state["words"], state["step"]


def words(layers: dict[str, LayerSnapshot]) -> str:
    """The longest half-life among the layers, in a few words, or how far the gradient reaches; "" where neither is known."""
    known = [each for each in layers.values() if each.text not in ("unknown", "uneven")]
    if not known:
        uneven = [each for each in layers.values() if each.text == "uneven"]
        farthest = max(uneven, key=lambda each: each.reach or each.lags + 1, default=None)
        if farthest is None:
            return ""
        return (
            f"gradient reach {farthest.reach} steps"
            if farthest.reach
            else f"gradient reach over {farthest.lags} steps"
        )
    # A gradient that vanished halves faster than any; one that keeps its size has rate 0, one that grows a negative one.
    longest = min(known, key=lambda each: math.inf if math.isnan(each.rate) else each.rate)
    text = longest.text
    if text.startswith("gone at "):
        return f"gradient zero after {text.removeprefix('gone at ')} steps"
    if text.startswith("doubles"):
        return f"gradient {text} steps"
    if text in ("keeps", "no trend"):
        return "gradient keeps its size" if text == "keeps" else "gradient without a trend"
    about = "about " if longest.r_squared < 0.5 else ""  # a straight line fits badly
    return f"half-life {about}{text}"
