"""The record of a training: to the reporter a few times a second, to history.jsonl every few steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from throughtime.runs import Run
from throughtime.training.evaluation import Evaluation
from throughtime.training.guard import Guard
from throughtime.training.reporting import Reporter, TrainingStep
from throughtime.training.spikes import Diverged, StepNumbers
from throughtime.training.step import Reading

REPORTS = 0.2  # seconds between reports: often enough for the eye, too rare to cost anything


class Position(NamedTuple):
    """Where a training stands after a step."""

    step: int
    epoch: float
    spent: float  # fraction of the budget
    seconds: float
    seconds_left: float | None
    lr: float  # of the step


class Meter:
    """Averages the steps since the last record.

    Readings are taken from the device together, when `read` is called: each reading on its own would make an
    accelerator wait for Python in every step.
    """

    _SAVED = (
        "targets",
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

    _norm_max: float

    def __init__(self) -> None:
        self.targets = 0
        self.step = 0
        self.loss = math.nan
        """Of the last step that was read."""
        self.norm = math.nan
        self._pending: list[Reading] = []
        self._start()

    def add(self, reading: Reading) -> None:
        """Add a step to the pending ones."""
        self._pending.append(reading)

    def read(self) -> list[StepNumbers]:
        """Read pending steps; the caller passes accepted ones to `take`."""
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
            self.targets += reading.count
            found.append(
                StepNumbers(self.step, self.targets, loss, norm, bool(clipped), reading.count, reading.place)
            )
        return found

    def take(self, step: StepNumbers) -> None:
        """Add a step to the averages."""
        self.loss, self.norm = step.loss, step.norm
        self._steps += 1
        self._clipped += step.clipped
        self._norm_sum += step.norm
        self._norm_max = max(self._norm_max, step.norm)
        self._loss_sum += step.loss * step.targets
        self._count += step.targets

    def record(self) -> dict[str, Any]:
        """The averages since the last record, for the history; starts the next.

        loss per target; gradient_norm the mean of the norms before clipping, gradient_norm_max their largest; clipped the
        fraction of steps that clipping changed.
        """
        values = {
            "loss": self._loss_sum / self._count,
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
        return {name: getattr(self, name) for name in self._SAVED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for name in self._SAVED:
            setattr(self, name, state[name])

    def _start(self) -> None:
        self._steps, self._count = 0, 0
        self._clipped, self._loss_sum = 0.0, 0.0
        self._norm_sum, self._norm_max = 0.0, 0.0


class Journal:
    """Calls the reporter and, on the process that writes, appends to the history. The guard judges each step that it reads.

    Args: describe_loss, a loss as one reads it; writes, whether this process writes.
    """

    def __init__(
        self, run: Run, report: Reporter, guard: Guard, describe_loss: Callable[[float], str], writes: bool
    ) -> None:
        self.report, self.meter, self.guard = report, Meter(), guard
        self.loss = math.nan  # of the last record
        self._run, self._describe_loss, self._writes = run, describe_loss, writes
        self._reported = self._recorded = (0, 0.0)  # targets and seconds when it was last done

    def read(self, seconds: float) -> bool:
        """Read the pending steps and have them judged; whether the weights were rolled back.

        Raises: Diverged for a spike that ends the training, and for a loss or a norm that is not finite.
        """
        back = False
        for step in self.meter.read():
            event = self.guard.judge(step)
            if step.finite and not (
                event and event.back
            ):  # a step that was rolled back belongs to no average
                self.meter.take(step)
            if event is None:
                continue
            place = step.place
            epoch = place.epoch - 1 + place.batch / place.batches
            where = {"kind": "spike", "step": step.step, "epoch": epoch, "targets": step.targets_so_far}
            self._write(where | event.record | {"seconds": seconds})
            if event.stops:
                raise Diverged(event.text)
            self.report.message(event.text)
            back = back or event.back
        return back

    def progress(self, at: Position, *, now: bool) -> None:
        """Report progress, `now` or if the last report is old enough."""
        if not now and at.seconds - self._reported[1] < REPORTS:
            return
        self.read(at.seconds)
        step = TrainingStep(
            step=at.step,
            spent=at.spent,
            epoch=at.epoch,
            targets=self.meter.targets,
            loss=self.meter.loss,
            loss_words=self._describe_loss(self.meter.loss),
            lr=at.lr,
            gradient_norm=self.meter.norm,
            targets_per_second=self._speed(self._reported, at),
            seconds=at.seconds,
            seconds_left=at.seconds_left,
            watched=self.guard.watch.words,
        )
        self._reported = self.meter.targets, at.seconds
        self.report.step(step)

    def record(self, at: Position) -> None:
        """Write the averages since the last record, if there is a step to average."""
        self.read(at.seconds)
        if self.meter.steps == 0:
            return
        values = self.meter.record()
        self.loss = values["loss"]
        speed = {"lr": at.lr, "targets_per_second": self._speed(self._recorded, at)}
        self._append("training", at, values | speed)
        self._recorded = self.meter.targets, at.seconds

    def watched(self, at: Position, values: dict[str, Any]) -> None:
        """Write a measurement of the gradient through time."""
        self._append("watch", at, values)

    def evaluated(self, at: Position, evaluation: Evaluation, best: bool) -> None:
        """Write and report an evaluation on the validation data."""
        values = {
            "loss": evaluation.loss,
            "count": evaluation.count,
            "metrics": evaluation.values,
            "best": best,
        }
        self._append("evaluation", at, values)
        self.report.evaluation(at.step, evaluation, best)

    def state_dict(self) -> dict[str, Any]:
        """What the next records depend on."""
        return {"meter": self.meter.state_dict(), "loss": self.loss}

    def load_state_dict(self, state: dict[str, Any], seconds: float) -> None:
        """Continue from `state_dict`, taken after so many seconds; the records after it are dropped."""
        self.meter.load_state_dict(state["meter"])
        self.loss = state["loss"]
        self._reported = self._recorded = self.meter.targets, seconds

    def _append(self, kind: str, at: Position, values: dict[str, Any]) -> None:
        where = {"kind": kind, "step": at.step, "epoch": at.epoch, "targets": self.meter.targets}
        self._write(where | values | {"seconds": at.seconds})

    def _write(self, record: dict[str, Any]) -> None:
        if self._writes:
            self._run.append_history(record)

    def _speed(self, since: tuple[int, float], at: Position) -> float:
        return (self.meter.targets - since[0]) / max(at.seconds - since[1], 1e-6)
