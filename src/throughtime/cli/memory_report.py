"""A loss beside the losses that mean something: of who knows nothing, and of who remembers all."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from throughtime.training.bar import Bar
from throughtime.training.evaluation import Evaluation
from throughtime.training.reporter import Lines, Progress, Reporter, Summary, duration

if TYPE_CHECKING:
    from throughtime.tasks import MemoryTask
    from throughtime.training import TrainingConfig


def reporter_beside(task: MemoryTask, stream: TextIO | None = None) -> Reporter:
    """A progress bar on a terminal, plain lines elsewhere."""
    stream = stream or sys.stdout
    return _Bar(task, stream) if stream.isatty() else _Lines(task, stream)


class _Lines(Lines):
    """Lines with the baseline in them."""

    def __init__(self, task: MemoryTask, stream: TextIO) -> None:
        super().__init__(stream)
        self._task = task

    def step(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._seconds
        left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
        watched = f", {progress.watched}" if progress.watched else ""
        self.message(
            f"step {progress.step}: {_loss(self._task, progress.loss)}, gradient {progress.gradient_norm:.3g}{watched}{left}"
        )

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        self.message(_evaluation(self._task, step, evaluation, best))


class _Bar(Bar):
    """A bar with the baseline in it."""

    def __init__(self, task: MemoryTask, stream: TextIO) -> None:
        super().__init__(stream)
        self._beside = task

    def step(self, progress: Progress) -> None:
        if self._task is None:
            return
        left = "" if progress.seconds_left is None else f"  {duration(progress.seconds_left)} left"
        text = f"{_loss(self._beside, progress.loss)}  |g| {progress.gradient_norm:.2g}{left}"
        self._rich.update(self._task, completed=progress.spent, description=text)

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        self.message(_evaluation(self._beside, step, evaluation, best))


def before(task: MemoryTask, training: TrainingConfig, path: Path) -> str:
    """Task, what its losses mean, model, the gradient's way and folder, a line each."""
    from throughtime import bptt
    from throughtime.training.budget import Budget
    from throughtime.training.processes import Processes

    processes = Processes(training.device)
    config = task.model
    parameters = sum(parameter.numel() for parameter in task.build().parameters())
    sizes = " + ".join(str(size) for size in config.sizes)
    rows = [
        (
            "task",
            f"{task.name}, T = {task.config.length}: {task.steps} steps a sequence; loss: {task.measure}",
        ),
        ("losses", levels(task)),
        ("model", f"{config.cell} of {sizes} units: {parameters:,} parameters"),
        ("BPTT", bptt.parse(training.bptt).describe()),
        (
            "training",
            f"{Budget.of(training)}, batch {training.batch * processes.world}, {training.optimizer} at "
            f"{training.lr:g}, {training.schedule}, clip {training.clip}",
        ),
        ("runs on", str(processes.device)),
        ("run", str(path)),
    ]
    return "\n".join(f"{name:<9} {text}" for name, text in rows)


def after(task: MemoryTask, summary: Summary) -> str:
    """The final loss, what it means, and where the run is."""
    loss = summary.best.loss if summary.best is not None else summary.loss
    return "\n".join(
        [
            f"validation: {loss:.4f} {task.measure} ({levels(task)}); {summary.step:,} steps in {duration(summary.seconds)}",
            verdict(task, loss),
            f"The run is in {summary.path}.",
        ]
    )


def levels(task: MemoryTask) -> str:
    """The losses that mean something, in words."""
    return ", ".join(f"{value:.4f} {known}" for known, value in task.levels().items())


def verdict(task: MemoryTask, loss: float) -> str:
    """Which of the levels the loss is nearest to, and how much of the way to the optimum is done."""
    known = min(task.levels().items(), key=lambda level: abs(level[1] - loss))[0]
    share = (task.baseline - loss) / (task.baseline - task.optimum)
    if loss > 1.05 * task.baseline:
        return "That is worse than knowing nothing: train for more steps, or with a smaller --lr or clip."
    return f"That is nearest to {known}: {max(0.0, share):.0%} of the way from knowing nothing to remembering all."


def _loss(task: MemoryTask, loss: float) -> str:
    return f"loss {loss:.4f} (knowing nothing {task.baseline:.4f}, optimum {task.optimum:.4g})"


def _evaluation(task: MemoryTask, step: int, evaluation: Evaluation, best: bool) -> str:
    return f"step {step}, validation: {_loss(task, evaluation.loss)}{', the best so far' if best else ''}"
