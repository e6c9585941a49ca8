"""Generated text on stdout as it is generated."""

from __future__ import annotations

import io
import sys
from types import TracebackType


class Stream:
    """Writes text to stdout at once, part by part, and adds nothing to it in a pipe or a file.

    On a terminal a line end follows the last part, so that the prompt begins its own line. A terminal that cannot show
    a character gets "?"; a pipe or a file always gets UTF-8.
    """

    def __enter__(self) -> Stream:
        self._terminal = sys.stdout.isatty()
        self._last = ""
        if isinstance(sys.stdout, io.TextIOWrapper):
            if self._terminal:
                sys.stdout.reconfigure(errors="replace")
            else:
                sys.stdout.reconfigure(encoding="utf-8", errors="replace", newline="")
        return self

    def write(self, text: str) -> None:
        """Show some text."""
        sys.stdout.write(text)
        sys.stdout.flush()
        self._last = text or self._last

    def flush(self) -> None:
        """Every write is flushed already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal and not self._last.endswith("\n"):
            sys.stdout.write("\n")
