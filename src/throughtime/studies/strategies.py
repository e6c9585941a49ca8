"""Full, truncated and randomised BPTT on the same problems: what is compared, and how large it is.

Two problems: characters of a natural text, where most of what helps lies a few steps back, and a task whose sequences must
be remembered. Every update reads the same sequences of T steps whatever the strategy, which decides where inside them the
gradient is cut: the number of updates and the data are equal, and only the gradient differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughtime.bptt import parse
from throughtime.data import find_dataset
from throughtime.errors import InputError, one_of
from throughtime.models import ModelConfig
from throughtime.tasks import MemoryConfig, MemoryTask, TextConfig, TextTask

TIME_MACHINE = "time_machine/timemachine.txt"
_TASKS = ("none", "adding", "copy", "echo")
# Length and window of each task: the window is shorter than what must be remembered.
_SIZES = {"adding": (70, 10), "copy": (10, 10), "echo": (40, 5)}


@dataclass(frozen=True)
class Problem:
    """Sequences, a model and its training, the same for every strategy."""

    name: str
    title: str
    data: TextConfig | MemoryConfig
    model: ModelConfig
    length: int  # T, the steps of one update's sequences
    batch: int
    steps: int  # updates
    lr: float  # of Adam
    clip: str
    strategies: tuple[str, ...]

    def task(self) -> TextTask | MemoryTask:
        """The data, the model and the loss. Cost: reads the text."""
        if isinstance(self.data, TextConfig):
            return TextTask.create(self.data, self.model)
        return MemoryTask(self.data, self.model)

    @property
    def measure(self) -> str:
        """What the loss is, in words."""
        if isinstance(self.data, TextConfig):
            return "nats a character"
        return MemoryTask(self.data, self.model).measure

    @property
    def levels(self) -> dict[str, float]:
        """The losses that mean something, by name; none are known for a text."""
        return {} if isinstance(self.data, TextConfig) else MemoryTask(self.data, self.model).levels()


@dataclass(frozen=True)
class Settings:
    """How long, how often, how large.

    Raises: InputError for a value that cannot be used, or a strategy that does not exist.
    """

    window: int = 35  # steps on the text: of a window, and on average between random cuts
    data: str | None = None  # a text; None: The Time Machine, or what ships inside where that is not there
    limit: int | None = None  # of the text, only so many characters
    cell: str = "gru"
    task: str = "copy"
    length: int | None = None  # of the task; None: as many as its default window asks for
    task_window: int | None = None  # steps on the task; None: shorter than what it asks to be remembered
    strategies: tuple[str, ...] = ("full", "truncated:W", "randomized:W", "polynomial:W")  # W: the window
    text_steps: int = 400
    task_steps: int = 1500
    text_hidden: int = 128
    task_hidden: int = 64
    batch: int = 32
    seeds: int = 2
    draws: int = 300  # of the gradient
    early: float = (
        0.25  # share of the updates, with the full gradient, after which the gradients are compared
    )
    looks: int = 20  # at the held-out data, in one training
    timing: float = 5.0  # seconds for timing the updates on one problem
    memory: int = 10  # updates in which the peak of the memory is looked for: random cuts may lie far apart

    def __post_init__(self) -> None:
        one_of("task", self.task, _TASKS)
        one_of("cell", self.cell, ("rnn", "gru", "lstm"))
        for name in (
            "window",
            "task_window",
            "length",
            "text_steps",
            "task_steps",
            "text_hidden",
            "task_hidden",
        ):
            _positive(name, getattr(self, name))
        for name in ("batch", "seeds", "looks", "memory"):
            _positive(name, getattr(self, name))
        if self.draws < 4:
            raise InputError(f"draws must be at least 4, for a spread to be measured, got {self.draws}")
        if not 0 < self.early <= 1:
            raise InputError(f"early must be a share above 0, at most 1, got {self.early}")
        if not self.strategies or len(set(self.strategies)) != len(self.strategies):
            raise InputError(f"strategies must be at least one, each once, got {list(self.strategies)}")
        for problem in self.problems():
            for spec in problem.strategies:
                parse(spec)

    def problems(self) -> tuple[Problem, ...]:
        """The text, and the task unless that is "none".

        Raises: InputError for a length that the task does not have.
        """
        return (self._text(), *([] if self.task == "none" else [self._task()]))

    def _text(self) -> Problem:
        title, files = _book(self.data)
        return Problem(
            name="text",
            title=title,
            data=TextConfig(data=files, normalize="letters", limit=self.limit),
            model=ModelConfig(cell=self.cell, hidden=self.text_hidden, embedding="onehot"),
            length=4 * self.window,
            batch=self.batch,
            steps=self.text_steps,
            lr=5e-3,
            clip="norm:1",
            strategies=self._with_window(self.window),
        )

    def _task(self) -> Problem:
        length, window = _SIZES[self.task]
        length = self.length or length
        config = MemoryConfig(problem=self.task, length=length, validation=1000)
        steps = MemoryTask(config).steps
        return Problem(
            name=self.task,
            title=f"{self.task}, {steps} steps",
            data=config,
            model=ModelConfig(cell=self.cell, hidden=self.task_hidden, embedding="onehot"),
            length=steps,
            batch=self.batch,
            steps=self.task_steps,
            lr=1e-2,
            clip="norm:1",
            strategies=self._with_window(self.task_window or window),
        )

    def _with_window(self, window: int) -> tuple[str, ...]:
        return tuple(spec.replace("W", str(window)) for spec in self.strategies)


def _book(path: str | None) -> tuple[str, tuple[str, ...]]:
    """A title, and the files; none is the text that ships inside."""
    if path is not None:
        return Path(path).name, (path,)
    try:
        return "The Time Machine", (str(find_dataset(TIME_MACHINE)),)
    except InputError:  # public data that need not be there
        return "Python's language reference", ()


def _positive(name: str, value: Any) -> None:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1, got {value}")


QUICK = Settings(
    limit=20_000, text_steps=40, task_steps=60, text_hidden=32, task_hidden=32, seeds=1, draws=40, looks=8, timing=1.0, memory=3
)  # fmt: skip
