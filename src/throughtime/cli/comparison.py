"""What the commands that compare have in common: how they tell where they are, and where they keep what they found."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from throughtime.errors import InputError, RunError

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


def prepare(out: Path) -> None:
    """Find out before minutes of work that they could not be kept.

    Raises: InputError without matplotlib, RunError where the folder cannot be written to.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError(
            'the picture of --out needs matplotlib, which is not installed: pip install "throughtime[plot]"'
        ) from None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror}; choose another --out") from None
