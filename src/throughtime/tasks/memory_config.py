"""Which task with a known memory, and how long. Imports no torch, so that a help text can read the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from throughtime.errors import InputError, one_of

PROBLEMS = ("adding", "copy", "echo")


@dataclass(frozen=True)
class MemoryConfig:
    """The data of a task with a known memory; see `throughtime.data.adding`, `copying` and `echo`.

    Raises: InputError, on one line, for a value that cannot be used.
    """

    section: ClassVar[str] = "memory"

    problem: str = "adding"
    """One of `PROBLEMS`."""
    length: int = 100
    """T: the steps of a sequence (adding, echo), or the steps between hearing and saying (copy)."""
    validation: int = 2000
    """Sequences to validate with, always the same, never trained on."""
    examples: int = 100_000
    """Sequences that are called an epoch; none is ever seen twice."""

    def __post_init__(self) -> None:
        one_of("problem", self.problem, PROBLEMS)
        for name in ("length", "validation", "examples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
