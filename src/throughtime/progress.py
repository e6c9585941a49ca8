"""The progress display of everything that takes long: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressBar:
    """`with ProgressBar("measuring") as progress: progress(3, 10)` shows what is done, the rate and the time left.

    On a terminal it is one line that is removed at the end. It fits the width: the text in the middle is cut, the
    percentage and the time left never are. Elsewhere it is a plain line now and then.

    Args:
        what: the name of the work.
        stream: default stderr.
        delay: seconds before anything is shown, so that short work shows nothing; with 0 the display begins at once.
        interval: seconds between two plain lines, at least.
    """

    def __init__(
        self, what: str, stream: TextIO | None = None, *, delay: float = 1.0, interval: float = 10.0
    ) -> None:
        self._what, self._delay, self._interval = what, delay, interval
        self._stream = sys.stderr if stream is None else stream
        self._bar: Progress | None = None
        self._start = self._next = 0.0

    def __enter__(self) -> ProgressBar:
        self._start = time.monotonic()
        self._next = self._start + self._delay
        self._terminal = _is_terminal(self._stream)
        if self._terminal and not self._delay:
            self._bar = self._open()
        return self

    def __call__(self, done: int, total: int) -> None:
        """So many parts of so many are done."""
        seconds = time.monotonic() - self._start
        rate = f", {done / seconds:,.3g}/s" if done and seconds > 0 else ""
        self.update(done / total if total else 1.0, f"{done:,} of {total:,}{rate}")

    def update(self, fraction: float, text: str = "", left: float | None = None) -> None:
        """Show progress.

        Args: fraction, of the work that is done, 0 to 1; text, what else to say, one line; left, seconds to go,
            estimated from the time since the start where it is None.
        """
        now = time.monotonic()
        fraction = min(1.0, max(0.0, fraction))
        if left is None and fraction > 0:
            left = (now - self._start) * (1 - fraction) / fraction
        remaining = "" if left is None else f"{duration(left)} left"
        text = " ".join(text.splitlines())
        if self._terminal:
            if self._bar is None:
                if now < self._next:
                    return
                self._bar = self._open()
            description = f"{self._what}  {text}" if text else self._what
            task = self._bar.tasks[0].id
            self._bar.update(task, completed=fraction, description=description, left=remaining)
        elif now >= self._next and fraction < 1:
            self._next = now + self._interval
            about = f", about {remaining}" if remaining else ""
            self.message(f"{self._what}: {fraction:.0%} done{about}{': ' if text else ''}{text}")

    def message(self, text: str) -> None:
        """Print a text that stays, above the bar."""
        if self._bar is not None:
            from rich.text import Text

            # Text, not str: what a model generates may look like markup.
            self._bar.console.print(Text(text), soft_wrap=True)
        elif self._stream is not None:  # Python has no stderr where it was closed
            print(text, file=self._stream, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            bar, self._bar = self._bar, None
            bar.stop()

    def _open(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(file=self._stream, force_terminal=True)
        bar = Progress(
            BarColumn(bar_width=max(8, min(40, console.width // 8))),
            TextColumn("{task.percentage:>3.0f}%", markup=False, table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            expand=True,
            # Other prints go above the bar, but never into another stream than their own.
            redirect_stdout=self._stream is sys.stdout,
            redirect_stderr=self._stream is sys.stderr,
        )
        bar.add_task(self._what, total=1.0, left="")
        bar.start()
        return bar


def duration(seconds: float) -> str:
    """Seconds for a reader: 12s, 3m20s, 1h02m, 5d01h."""
    if not seconds < 1e10:  # also NaN and infinity
        return "years"
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
