"""Ctrl-C and SIGTERM: finish the step, save, say how to go on."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from throughtime.errors import ThroughtimeError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(ThroughtimeError):
    """Training was stopped from outside, and everything was saved. `status` is the exit status that says so."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number
        self.status = 128 + number


class Interrupts:
    """While entered, the first SIGINT or SIGTERM is noted in `received`; a second one acts as it always did.

    Outside the main thread, where Python takes no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            # None is a handler that C code installed: Python can neither call it nor put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
