"""Watching the gradient's way through time while training: every so many steps a short look."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from throughtime.errors import InputError
from throughtime.training.clipping import gradients
from throughtime.training.evaluation import to_device
from throughtime.training.task import Task, Window

if TYPE_CHECKING:
    from throughtime.flow import LayerSnapshot

# Steps between looks where the configuration does not say: a look costs as much as two or three steps on a CPU, and as
# many as an accelerator makes in the time that a loop over the steps of a window takes in Python.
ON_CPU, ELSEWHERE = 200, 2000


class Watch:
    """Looks every `every` steps, never where that is 0; what it saw last is what the progress line and a spike's report say.

    Looking changes nothing: the training that is watched ends in the bits of the one that is not.
    """

    def __init__(self, every: int | None, model: nn.Module, task: Task, device: torch.device) -> None:
        self.every = (ON_CPU if device.type == "cpu" else ELSEWHERE) if every is None else every
        self.words = ""
        """Of the last look, for the progress line: "half-life 7.1 steps"."""
        self.step = 0  # of the last look
        self.refusal: str | None = None
        """Why there is nothing to see in this model, once that is known."""
        self._model, self._task, self._device = model, task, device

    def due(self, step: int) -> bool:
        """Whether to look in this step."""
        return self.every > 0 and step % self.every == 0 and self.refusal is None

    def look(self, step: int, window: Window, state: Any, norm: float) -> dict[str, Any] | None:
        """Look between a step's gradient and its update: the record for the history, or None if there is nothing to see.

        Args: state, before the window; norm, of the gradient before clipping.

        The record: norm before and norm_clipped after clipping; by layer half_life (steps; negative where the gradient doubles,
        null where it keeps its size or it cannot be said), its words and the fit's quality, reach and the last lag, mean phi' and
        the share of saturated units by gate; watch_seconds, what the look took.
        """
        from throughtime.data.batch import Batch
        from throughtime.flow import snapshot

        start = time.perf_counter()
        try:
            inputs, targets = to_device((window.inputs, window.targets), self._device)
            batch = Batch(inputs, targets)
            layers = snapshot(
                self._model, lambda outputs, b: self._task.loss(outputs, b.targets), batch, state
            )
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
        """What was seen last."""
        return {"words": self.words, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.words, self.step = state["words"], state["step"]


def words(layers: dict[str, LayerSnapshot]) -> str:
    """What the longest memory among the layers is, in a few words; "" where none can be said."""
    known = [each for each in layers.values() if each.text not in ("unknown", "uneven")]
    if not known:
        reaches = [
            (each.reach or each.lags + 1, each.reach is None)
            for each in layers.values()
            if each.text == "uneven"
        ]
        steps, beyond = max(reaches, default=(0, False))
        return f"gradient reach {'over ' * beyond}{steps - beyond} steps" if steps else ""
    # A gradient that is gone halves faster than any; one that keeps its size has rate 0, one that grows a negative one.
    longest = min(known, key=lambda each: each.rate if each.rate == each.rate else float("inf"))
    says = longest.text
    if says.startswith("gone at "):
        return f"gradient gone after {says.removeprefix('gone at ')} steps"
    if says.startswith("doubles"):
        return f"gradient {says} steps"
    about = "about " if longest.r_squared < 0.5 else ""  # a straight line fits badly
    return "gradient keeps its size" if says == "keeps" else f"half-life {about}{says}"
