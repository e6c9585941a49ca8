"""How much of a training is done."""

from __future__ import annotations

from dataclasses import dataclass

from throughtime.training.config import TrainingConfig
from throughtime.training.task import Windows


@dataclass(frozen=True)
class Budget:
    """Optimiser steps, times through the data, or minutes."""

    kind: str
    amount: float

    @classmethod
    def of(cls, config: TrainingConfig) -> Budget:
        """The budget of a configuration."""
        return cls(*config.budget)

    def spent(self, step: int, streams: Windows, seconds: float) -> float:
        """The share that is spent after `step` steps, at most 1."""
        if self.kind == "steps":
            done = float(step)
        elif self.kind == "epochs":
            done = epochs(streams)
        else:
            done = seconds / 60
        return min(1.0, done / self.amount)

    def seconds_left(self, spent: float, seconds: float) -> float | None:
        """How long the rest takes, judged by `seconds` for what is `spent`; None before anything is."""
        if self.kind == "minutes":
            return max(0.0, self.amount * 60 - seconds)
        return seconds * (1 - spent) / spent if spent > 0 else None

    def __str__(self) -> str:
        number = f"{self.amount:g}"
        return f"{number} {self.kind.removesuffix('s') if number == '1' else self.kind}"


def epochs(streams: Windows) -> float:
    """Times through the data so far."""
    return streams.epochs_done + streams.windows_done / len(streams)
