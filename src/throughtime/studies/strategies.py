"""Full, truncated and randomized BPTT on the same problems: the problems, and the sizes of the comparison.

Two problems: characters of a text, where most of what helps lies a few steps back, and a generated task with a long delay.
Every update reads the same sequences of T steps whatever the strategy, which decides where the gradient is cut inside them:
the number of updates and the data are equal, and only the gradient differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from throughtime.bptt import parse
from throughtime.data import find_dataset
from throughtime.errors import InputError
from throughtime.models import ModelConfig
from throughtime.options import Settings, option
from throughtime.tasks import AddingTask, CopyTask, EchoTask, GeneratedTask, Task, TextTask

TIME_MACHINE = "time_machine/timemachine.txt"
# Class, length and window of each generated task: the window is shorter than the delay.
_GENERATED: dict[str, tuple[type[GeneratedTask], int, int]] = {
    "adding": (AddingTask, 70, 10),
    "copy": (CopyTask, 10, 10),
    "echo": (EchoTask, 40, 5),
}


@dataclass(frozen=True)
class Problem:
    """Data, a model and its training, the same for every strategy."""

    name: str
    title: str
    task: Task
    model: ModelConfig
    length: int  # T, steps of one update's sequences
    batch: int
    steps: int  # updates
    lr: float  # of Adam
    clip: str
    strategies: tuple[str, ...]
    loss_name: str
    levels: dict[str, float]  # losses that can be reached, by what is remembered; none are known for a text


@dataclass(frozen=True)
class StrategySettings(Settings):
    """Problems, strategies, steps and sizes of the comparison.

    Raises: InputError for a value that cannot be used, or a strategy that does not exist.
    """

    section: ClassVar[str] = "bptt"

    window: int = option(35, "Steps on the text between cuts, on average where they are random.", low=1)
    data: str | None = option(None, "A text; default: The Time Machine, or the text that ships inside.")
    limit: int | None = option(None, "Use only the first characters of the text.", low=1)
    cell: str = option("gru", "Recurrent layer.", choices=("rnn", "gru", "lstm"))
    task: str = option("copy", "The task with a long delay.", choices=("none", *_GENERATED))
    length: int | None = option(None, "Length of the task; default: suits its default window.", low=1)
    task_window: int | None = option(
        None, "Steps on the task between cuts; default: less than its delay.", low=1
    )
    strategies: tuple[str, ...] = option(
        ("full", "truncated:W", "randomized:W", "polynomial:W"), "BPTT strategies; W stands for the window."
    )
    text_steps: int = option(400, "Updates of each training on the text.", low=1)
    task_steps: int = option(1500, "Updates of each training on the task.", low=1)
    text_hidden: int = option(128, "Units on the text.", low=1)
    task_hidden: int = option(64, "Units on the task.", low=1)
    batch: int = option(32, "Sequences of an update.", low=1)
    seeds: int = option(2, "Trainings of each strategy.", low=1)
    draws: int = option(300, "Random gradients that bias and variance are estimated from.", low=4)
    warmup: float = option(
        0.25,
        "Fraction of the updates, with the full gradient, before gradients are compared.",
        above=0,
        high=1,
    )
    evaluations: int = option(20, "Evaluations on the held-out data in one training.", low=1)
    timing_seconds: float = option(5.0, "Seconds to time the updates on one problem.", above=0)
    memory_updates: int = option(
        10, "Updates in which the peak memory is measured: random cuts may lie far apart.", low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strategies or len(set(self.strategies)) != len(self.strategies):
            raise InputError(f"strategies must be at least one, each once, got {list(self.strategies)}")
        for problem in self.problems():
            for spec in problem.strategies:
                parse(spec)

    def problems(self) -> tuple[Problem, ...]:
        """The text, and the task unless that is "none".

        Raises: InputError for a length that the task does not have.
        """
        return (self._text(), *([] if self.task == "none" else [self._generated()]))

    def _text(self) -> Problem:
        title, files = _text_files(self.data)
        return Problem(
            name="text",
            title=title,
            task=TextTask(data=files, normalize="letters", limit=self.limit),
            model=ModelConfig(cell=self.cell, hidden=self.text_hidden, embedding="onehot"),
            length=4 * self.window,
            batch=self.batch,
            steps=self.text_steps,
            lr=5e-3,
            clip="norm:1",
            strategies=self._with_window(self.window),
            loss_name="cross-entropy in nats per character",
            levels={},
        )

    def _generated(self) -> Problem:
        kind, length, window = _GENERATED[self.task]
        task = kind(length=self.length or length, validation=1000)
        return Problem(
            name=self.task,
            title=f"{self.task}, {task.steps} steps",
            task=task,
            model=ModelConfig(cell=self.cell, hidden=self.task_hidden, embedding="onehot"),
            length=task.steps,
            batch=self.batch,
            steps=self.task_steps,
            lr=1e-2,
            clip="norm:1",
            strategies=self._with_window(self.task_window or window),
            loss_name=task.loss_name,
            levels=task.levels,
        )

    def _with_window(self, window: int) -> tuple[str, ...]:
        return tuple(spec.replace("W", str(window)) for spec in self.strategies)


def _text_files(path: str | None) -> tuple[str, tuple[str, ...]]:
    """A title and the files; no file is the text that ships inside."""
    if path is not None:
        return Path(path).name, (path,)
    try:
        return "The Time Machine", (str(find_dataset(TIME_MACHINE)),)
    except InputError:  # public data that need not be there
        return "Python's language reference", ()


QUICK_STRATEGIES = StrategySettings(
    limit=20_000, text_steps=40, task_steps=60, text_hidden=32, task_hidden=32, seeds=1, draws=40,
    evaluations=8, timing_seconds=1.0, memory_updates=3,
)  # fmt: skip
