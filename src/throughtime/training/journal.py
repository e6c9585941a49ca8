"""What is told of a training: to the reporter a few times a second, to history.jsonl every few steps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from throughtime.runs import Run
from throughtime.training.evaluation import Evaluation
from throughtime.training.meter import Meter
from throughtime.training.reporter import Progress, Reporter
from throughtime.training.spikes import Diverged
from throughtime.training.spikes_guard import Guard

REPORTS = 0.2  # seconds between reports: often enough for the eye, too rare to cost anything


class Position(NamedTuple):
    """Where a training stands after a step."""

    step: int
    epoch: float
    spent: float  # share of the budget
    seconds: float
    seconds_left: float | None
    lr: float  # of the step


class Journal:
    """Tells the reporter and, on the process that writes, the history. Owns the meter, and has the guard judge what it reads."""

    def __init__(self, run: Run, report: Reporter, guard: Guard, writes: bool) -> None:
        self.report, self.meter, self.guard = report, Meter(), guard
        self.loss = math.nan  # of the last record
        self._run, self._writes = run, writes
        self._told = self._recorded = (0, 0.0)  # targets and seconds when it was last done

    def read(self, seconds: float) -> bool:
        """Read the steps that are pending and have them judged; whether the weights went back to earlier ones.

        Raises: Diverged for a spike that ends the training, and for a loss or a norm that is no number.
        """
        back = False
        for step in self.meter.read():
            event = self.guard.judge(step)
            if step.finite and not (event and event.back):  # a step that was taken back belongs to no average
                self.meter.take(step)
            if event is None:
                continue
            place = step.place
            epoch = place.epoch - 1 + place.window / place.windows
            where = {"kind": "spike", "step": step.step, "epoch": epoch, "tokens": step.tokens}
            self._write(where | event.record | {"seconds": seconds})
            if event.stops:
                raise Diverged(event.text)
            self.report.message(event.text)
            back = back or event.back
        return back

    def tell(self, at: Position, *, now: bool) -> None:
        """Report progress, `now` or if the last report is old enough."""
        if not now and at.seconds - self._told[1] < REPORTS:
            return
        self.read(at.seconds)
        progress = Progress(
            step=at.step,
            spent=at.spent,
            epoch=at.epoch,
            tokens=self.meter.tokens,
            loss=self.meter.loss,
            lr=at.lr,
            gradient_norm=self.meter.norm,
            tokens_per_second=self._speed(self._told, at),
            seconds=at.seconds,
            seconds_left=at.seconds_left,
            watched=self.guard.watch.words,
        )
        self._told = self.meter.tokens, at.seconds
        self.report.step(progress)

    def record(self, at: Position) -> None:
        """Write the averages since the last record, if there is a step to average."""
        self.read(at.seconds)
        if self.meter.steps == 0:
            return
        values = self.meter.record()
        self.loss = values["loss"]
        self._append(
            "training", at, values | {"lr": at.lr, "tokens_per_second": self._speed(self._recorded, at)}
        )
        self._recorded = self.meter.tokens, at.seconds

    def watched(self, at: Position, values: dict[str, Any]) -> None:
        """Write what a look at the gradient's way through time has found."""
        self._append("watch", at, values)

    def evaluated(self, at: Position, evaluation: Evaluation, best: bool) -> None:
        """Write and report a loss on the validation data."""
        perplexity = evaluation.perplexity if math.isfinite(evaluation.perplexity) else None
        values = {"loss": evaluation.loss, "perplexity": perplexity, "bits": evaluation.bits}
        self._append("evaluation", at, values | {"count": evaluation.count})
        self.report.evaluation(at.step, evaluation, best)

    def state_dict(self) -> dict[str, Any]:
        """What the next records depend on."""
        return {"meter": self.meter.state_dict(), "loss": self.loss}

    def load_state_dict(self, state: dict[str, Any], seconds: float) -> None:
        """Go on from `state_dict`, taken after so many seconds; the records after it are dropped."""
        self.meter.load_state_dict(state["meter"])
        self.loss = state["loss"]
        self._told = self._recorded = self.meter.tokens, seconds

    def _append(self, kind: str, at: Position, values: dict[str, Any]) -> None:
        where = {"kind": kind, "step": at.step, "epoch": at.epoch, "tokens": self.meter.tokens}
        self._write(where | values | {"seconds": at.seconds})

    def _write(self, record: dict[str, Any]) -> None:
        if self._writes:
            self._run.append_history(record)

    def _speed(self, since: tuple[int, float], at: Position) -> float:
        return (self.meter.tokens - since[0]) / max(at.seconds - since[1], 1e-6)
