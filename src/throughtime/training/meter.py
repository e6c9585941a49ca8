"""What every step says: loss and gradient norm, read from the device and averaged for the history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.training.evaluation import perplexity
from throughtime.training.spikes import Measured, Place


@dataclass(frozen=True, slots=True)
class Reading:
    """One step's measurements, still on the device."""

    loss: Tensor  # nats per target
    norm: Tensor  # of the gradient, before clipping
    clipped: Tensor  # bool
    count: int
    place: Place


class Meter:
    """Collects the steps since the last record.

    Readings are taken from the device together, when `read` is called: each reading on its own would make an
    accelerator wait for Python in every step.
    """

    _norm_max: float

    def __init__(self) -> None:
        self.tokens = 0
        self.step = 0
        self.loss = math.nan
        """Of the last step that was read."""
        self.norm = math.nan
        self._pending: list[Reading] = []
        self._start()

    def add(self, reading: Reading) -> None:
        """Take note of a step."""
        self._pending.append(reading)

    def read(self) -> list[Measured]:
        """Read what is pending; who asked judges it, and gives back to `take` what the averages are to hold."""
        pending, self._pending = self._pending, []
        if not pending:
            return []
        if len(pending) == 1:  # what `stack` does, without its cost: this is every step on a CPU
            rows = [[float(value) for value in (pending[0].loss, pending[0].norm, pending[0].clipped)]]
        else:
            stacked = torch.stack([torch.stack([r.loss, r.norm, r.clipped.to(r.loss)]) for r in pending])
            rows = stacked.tolist()
        found = []
        for (loss, norm, clipped), reading in zip(rows, pending, strict=True):
            self.step += 1
            self.tokens += reading.count
            step = Measured(self.step, self.tokens, loss, norm, bool(clipped), reading.count, reading.place)
            found.append(step)
        return found

    def take(self, step: Measured) -> None:
        """Put a step into the averages."""
        self.loss, self.norm = step.loss, step.norm
        self._steps += 1
        self._clipped += step.clipped
        self._norm_sum += step.norm
        self._norm_max = max(self._norm_max, step.norm)
        self._loss_sum += step.loss * step.targets
        self._count += step.targets

    def record(self) -> dict[str, Any]:
        """The averages since the last record, for the history. Starts the next.

        loss in nats per target; perplexity exp(loss), null if that is no number; bits = loss / log 2; gradient_norm the
        mean of the norms before clipping, gradient_norm_max their largest; clipped the share of steps that clipping changed.
        """
        loss = self._loss_sum / self._count
        ppl = perplexity(loss)
        values = {
            "loss": loss,
            "perplexity": ppl if math.isfinite(ppl) else None,
            "bits": loss / math.log(2),
            "gradient_norm": self._norm_sum / self._steps,
            "gradient_norm_max": self._norm_max,
            "clipped": self._clipped / self._steps,
        }
        self._start()
        return values

    @property
    def steps(self) -> int:
        """Steps read since the last record."""
        return self._steps

    def state_dict(self) -> dict[str, Any]:
        """All numbers, exactly."""
        names = (
            "tokens",
            "step",
            "loss",
            "norm",
            "_steps",
            "_clipped",
            "_norm_sum",
            "_norm_max",
            "_loss_sum",
            "_count",
        )
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)

    def _start(self) -> None:
        self._steps, self._count = 0, 0
        self._clipped, self._loss_sum = 0.0, 0.0
        self._norm_sum, self._norm_max = 0.0, 0.0
