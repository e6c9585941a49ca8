"""Who is told how a training goes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NamedTuple, Protocol, TextIO

from throughtime.training.evaluation import Evaluation


class Plan(NamedTuple):
    """What is about to happen."""

    unit: str  # of a target: character, word, token
    budget: str  # in words
    strategy: str  # in words
    window: int  # steps of text in one optimiser step
    batch: int  # sequences side by side, all processes together
    steps_per_epoch: int
    parameters: int
    device: str
    processes: int
    path: Path  # of the run
    resumed_at: int  # the step that training goes on from; 0 at a start


class Progress(NamedTuple):
    """How it stands, a few times a second. Measured in the last step."""

    step: int
    spent: float  # share of the budget
    epoch: float
    tokens: int  # targets so far
    loss: float  # nats per target
    lr: float
    gradient_norm: float  # before clipping
    tokens_per_second: float
    seconds: float
    seconds_left: float | None
    watched: str = ""  # what was last seen of the gradient's way through time, in a few words


class Summary(NamedTuple):
    """What came of it."""

    step: int
    epoch: float
    tokens: int
    seconds: float
    loss: float  # of the last record, nats per target of the training data
    evaluation: Evaluation | None  # the last one
    best: Evaluation | None  # the one with the lowest loss
    path: Path


class Reporter(Protocol):
    """Told by `train` on the first process; changes nothing."""

    def start(self, plan: Plan) -> None: ...

    def step(self, progress: Progress) -> None: ...

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        """A loss on the validation data; `best` if it is the lowest so far."""
        ...

    def sample(self, text: str) -> None:
        """Something that the model wrote."""
        ...

    def message(self, text: str) -> None: ...

    def finish(self, summary: Summary | None) -> None:
        """The end; None if it came by an error or an interruption. Always called."""
        ...


class Silent:
    """Says nothing."""

    def start(self, plan: Plan) -> None: ...

    def step(self, progress: Progress) -> None: ...

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None: ...

    def sample(self, text: str) -> None: ...

    def message(self, text: str) -> None: ...

    def finish(self, summary: Summary | None) -> None: ...


class Lines:
    """Plain lines, for a log file or a pipe: one at once, then one every `seconds`."""

    def __init__(self, stream: TextIO | None = None, seconds: float = 10.0) -> None:
        self._stream, self._seconds = stream, seconds
        self._unit = "token"
        self._next = 0.0

    def start(self, plan: Plan) -> None:
        self._unit = plan.unit
        if plan.resumed_at:
            self.message(f"going on from step {plan.resumed_at}")

    def step(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._seconds
            left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
            watched = f", {progress.watched}" if progress.watched else ""
            self.message(
                f"step {progress.step}, epoch {progress.epoch:.2f}: {figures(progress.loss, self._unit)}, "
                f"gradient {progress.gradient_norm:.3g}{watched}, {progress.tokens_per_second:,.0f} {self._unit}s/s{left}"
            )

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        self.message(
            f"step {step}, validation: {figures(evaluation.loss, self._unit)}{', the best so far' if best else ''}"
        )

    def sample(self, text: str) -> None:
        self.message(text)

    def message(self, text: str) -> None:
        print(text, file=self._stream or sys.stdout, flush=True)

    def finish(self, summary: Summary | None) -> None: ...


class Several:
    """Tells several reporters."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def start(self, plan: Plan) -> None:
        for reporter in self._reporters:
            reporter.start(plan)

    def step(self, progress: Progress) -> None:
        for reporter in self._reporters:
            reporter.step(progress)

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        for reporter in self._reporters:
            reporter.evaluation(step, evaluation, best)

    def sample(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.sample(text)

    def message(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.message(text)

    def finish(self, summary: Summary | None) -> None:
        for reporter in self._reporters:
            reporter.finish(summary)


def reporter_for(stream: TextIO | None = None) -> Reporter:
    """A progress bar on a terminal, plain lines elsewhere."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return Lines(stream)
    from throughtime.training.bar import Bar

    return Bar(stream)


def figures(loss: float, unit: str) -> str:
    """A loss as one reads it: with bits per character, or with the perplexity of words and tokens."""
    evaluation = Evaluation(loss, 1)
    if unit == "character":
        return f"loss {loss:.3f}, {evaluation.bits:.3f} bits per character"
    return f"loss {loss:.3f}, perplexity {evaluation.perplexity:.2f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 1h02m, 3m20s, 12s."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"
