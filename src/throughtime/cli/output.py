"""Text to stdout as it comes."""

from __future__ import annotations

import io
import sys
from types import TracebackType


class Stream:
    """stdout for text that appears piece by piece: every piece is seen at once, and nothing is added to a pipe.

    A terminal gets a line end after the last piece, so that the prompt does not stand in the text. A terminal
    that cannot show a character gets "?"; a pipe or a file always gets UTF-8.
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
