"""Ctrl-C, SIGTERM, SIGHUP and a closed pipe: finish the step, save, say how to resume."""

from __future__ import annotations

import errno
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, TypeVar, cast

from throughtime.errors import ThroughtimeError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
T = TypeVar("T")


class Interrupted(ThroughtimeError):
    """Training was stopped from outside, and everything was saved. `status` is the exit status, 128 + the signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number
        self.status = 128 + number


class Interrupts:
    """While entered, the first SIGINT, SIGTERM or SIGHUP is noted in `received`; a second one acts as it always did.

    SIGHUP stays ignored where it was, as under nohup. Outside the main thread, where Python receives no signals,
    nothing is changed.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def guard(self, report: T) -> T:
        """The same reporter, but a closed pipe or terminal is an interruption by SIGPIPE instead of an error.

        The first call that fails with it sets `received`; further calls do nothing, as nobody reads them.
        """
        return cast(T, _Guarded(report, self))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            # None is a handler that C code installed: Python can neither call it nor restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}


class _Guarded:
    def __init__(self, report: Any, interrupts: Interrupts) -> None:
        self._report, self._interrupts, self._closed = report, interrupts, False

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._report, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._closed:
                return None
            try:
                return attribute(*args, **kwargs)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal is gone
                    raise
                self._closed = True
                self._interrupts.received = self._interrupts.received or signal.SIGPIPE
                return None

        return call
