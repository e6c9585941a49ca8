"""A bar for work that takes longer than one looks at a still screen."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE = 1.0  # seconds
_EVERY = 10.0  # seconds from one line to the next where stderr is no terminal


class Waiting:
    """Shows `done of total` on stderr once a second has passed, and takes the bar away at the end.

    Where stderr is no terminal, work that takes longer tells in a line now and then what is done, and the time left.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Progress | None = None

    def __enter__(self) -> Waiting:
        self._start = self._said = time.monotonic()
        return self

    def __call__(self, done: int, total: int) -> None:
        """So many parts of so many are done."""
        now = time.monotonic()
        if not sys.stderr.isatty():
            if now - self._said >= _EVERY and 0 < done < total:
                self._said = now
                left = (now - self._start) * (total - done) / done
                words = f"{self._what}: {done / total:.0%} done, about {left:.0f} s left"
                print(words, file=sys.stderr, flush=True)
            return
        if self._bar is None:
            if now - self._start < _PATIENCE:
                return
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
