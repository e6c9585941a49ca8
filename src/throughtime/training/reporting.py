"""How a training is reported: a progress bar on a terminal, plain lines elsewhere, TensorBoard."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from throughtime.errors import InputError
from throughtime.training.evaluation import Evaluation


class TrainingStart(NamedTuple):
    """What is about to be trained."""

    unit: str  # of a target: character, word, text
    budget: str  # in words
    strategy: str  # in words
    parameters: int
    device: str
    processes: int
    path: Path  # of the run
    resumed_at: int  # the step that training continues from; 0 at a start


class TrainingStep(NamedTuple):
    """Progress, a few times a second. Loss and norm are the last step's."""

    step: int
    spent: float  # fraction of the budget
    epoch: float
    targets: int  # so far
    loss: float  # per target
    loss_words: str  # as one reads it
    lr: float
    gradient_norm: float  # before clipping
    targets_per_second: float
    seconds: float
    seconds_left: float | None
    watched: str = ""  # the last measurement of the gradient through time, in a few words


class TrainingResult(NamedTuple):
    """What came of it."""

    step: int
    epoch: float
    targets: int
    seconds: float
    loss: float  # of the last record, per target of the training data
    evaluation: Evaluation | None  # the last one
    best: Evaluation | None  # the best one
    path: Path
    results: dict[str, dict[str, Any]] = {}  # noqa: RUF012 -- split -> model or baseline -> metrics, of the final table


class Reporter(Protocol):
    """Called by `train` on the first process; changes nothing."""

    def start(self, start: TrainingStart) -> None: ...

    def step(self, step: TrainingStep) -> None: ...

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        """An evaluation on the validation data; `best` if it is the best so far."""
        ...

    def sample(self, text: str) -> None:
        """A text that the model generated."""
        ...

    def message(self, text: str) -> None: ...

    def finish(self, result: TrainingResult | None) -> None:
        """The end; None if it came by an error or an interruption. Always called."""
        ...


class Silent:
    """Reports nothing."""

    def start(self, start: TrainingStart) -> None: ...

    def step(self, step: TrainingStep) -> None: ...

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None: ...

    def sample(self, text: str) -> None: ...

    def message(self, text: str) -> None: ...

    def finish(self, result: TrainingResult | None) -> None: ...


class Terminal:
    """Progress on a stream: a bar on a terminal, else plain lines, one at once and then one every ten seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from throughtime.progress import ProgressBar

        self._bar = ProgressBar("training", stream or sys.stdout, delay=0.0)
        self._unit = "target"

    def start(self, start: TrainingStart) -> None:
        self._unit = start.unit
        self._bar.__enter__()
        if start.resumed_at:
            self.message(f"continuing from step {start.resumed_at}")

    def step(self, step: TrainingStep) -> None:
        watched = f", {step.watched}" if step.watched else ""
        text = (
            f"step {step.step}, epoch {step.epoch:.2f}: {step.loss_words}, gradient {step.gradient_norm:.3g}{watched}, "
            f"{step.targets_per_second:,.0f} {self._unit}s/s"
        )
        self._bar.update(step.spent, text, step.seconds_left)

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        self.message(f"step {step}, validation: {evaluation}{', the best so far' if best else ''}")

    def sample(self, text: str) -> None:
        self.message(text)

    def message(self, text: str) -> None:
        self._bar.message(text)

    def finish(self, result: TrainingResult | None) -> None:
        self._bar.__exit__(None, None, None)


class TensorBoard:
    """Writes event files into a folder, of the run or another; `tensorboard --logdir FOLDER` shows them.

    Raises: InputError when the package tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        require_tensorboard()
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))
        self._step = 0

    def start(self, start: TrainingStart) -> None: ...

    def step(self, step: TrainingStep) -> None:
        self._step = step.step
        for name in ("loss", "lr", "gradient_norm", "targets_per_second", "epoch"):
            self._writer.add_scalar(f"training/{name}", getattr(step, name), step.step)

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        for name, value in evaluation.values.items():
            self._writer.add_scalar(f"validation/{name}", value, step)

    def sample(self, text: str) -> None:
        self._writer.add_text("sample", text, self._step)

    def message(self, text: str) -> None: ...

    def finish(self, result: TrainingResult | None) -> None:
        self._writer.close()


class Several:
    """Calls several reporters in turn."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def start(self, start: TrainingStart) -> None:
        for reporter in self._reporters:
            reporter.start(start)

    def step(self, step: TrainingStep) -> None:
        for reporter in self._reporters:
            reporter.step(step)

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        for reporter in self._reporters:
            reporter.evaluation(step, evaluation, best)

    def sample(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.sample(text)

    def message(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.message(text)

    def finish(self, result: TrainingResult | None) -> None:
        for reporter in self._reporters:
            reporter.finish(result)


def require_tensorboard() -> None:
    """Raise InputError unless the package tensorboard is there; cheap, so that it can be asked first."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "tensorboard is not installed: pip install 'throughtime[tensorboard]', or leave the option out"
        )
