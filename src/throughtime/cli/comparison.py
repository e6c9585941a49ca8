"""What the commands that compare have in common: how they tell where they are, and where they keep what they found."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from throughtime.errors import RunError
from throughtime.files import write_whole

Settings = TypeVar("Settings", bound=Any)  # a dataclass
Tell = Callable[[float, str], None]  # share of the work done, and what was done last


@contextmanager
def told(first: str = "starting") -> Iterator[Tell]:
    """A bar with the time left on a terminal, a line for each piece of work elsewhere; both on stderr."""
    from throughtime.training.reporter import duration

    start = time.monotonic()

    def left(share: float) -> str:
        return f"about {duration((time.monotonic() - start) * (1 - share) / share)} left" if share else ""

    def line(share: float, what: str) -> None:
        at = f"{share:.0%}, {left(share)}: " if share else ""
        print(f"{at}{what}", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=None), TextColumn("{task.percentage:>3.0f}%  {task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task(first, total=1.0)

        def move(share: float, what: str) -> None:
            bar.update(task, completed=share, description=f"{what}  {left(share)}")

        yield move


def chosen(settings: Settings, given: dict[str, Any]) -> Settings:
    """The settings with what was given on the command line in place of the defaults."""
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def keep(out: Path, name: str, table: str, sentences: list[str], found: dict[str, Any]) -> None:
    """`name`.md, a table and what it says, and `name`.json in the folder.

    Raises: RunError naming what could not be written.
    """
    said = "\n".join(f"- {sentence}" for sentence in sentences)
    write_whole(out / f"{name}.md", f"{table}\n\n{said}\n".encode())
    write_whole(out / f"{name}.json", f"{json.dumps(found, indent=1)}\n".encode())


def prepare(out: Path) -> None:
    """Find out before minutes of work that they could not be kept.

    Raises: InputError without matplotlib, RunError where the folder cannot be written to.
    """
    from throughtime.flow.drawing import style

    style()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror}; choose another --out") from None
