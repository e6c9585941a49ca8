"""Signals and closed pipes are noted, and the training saves before it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from throughtime.training.interrupt import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_a_second_one_acts(number: int) -> None:
    seen: list[int] = []
    before = signal.signal(number, lambda found, frame: seen.append(found))
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)
            assert (interrupts.received, seen) == (number, [])
            os.kill(os.getpid(), number)
            assert seen == [number]
        with Interrupts() as interrupts:
            pass
        os.kill(os.getpid(), number)  # as before once it is left
        assert interrupts.received == 0 and seen == [number, number]
    finally:
        signal.signal(number, before)


def test_under_nohup_a_hangup_stays_ignored() -> None:
    code = (
        "import os, signal\n"
        "from throughtime.training.interrupt import Interrupts\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as nohup does
        "with Interrupts() as interrupts:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print(interrupts.received)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


class Fails:
    """A reporter whose stream fails."""

    name = "fails"

    def __init__(self, code: int) -> None:
        self.code, self.calls = code, 0

    def message(self, text: str) -> None:
        self.calls += 1
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.EPIPE, errno.EIO])
def test_a_closed_pipe_is_noted_once(code: int) -> None:
    fails, interrupts = Fails(code), Interrupts()
    report = interrupts.guard(fails)
    report.message("one")
    assert interrupts.received == signal.SIGPIPE
    report.message("two")
    assert fails.calls == 1 and report.name == "fails"


def test_another_failure_of_a_reporter_is_one() -> None:
    interrupts = Interrupts()
    report = interrupts.guard(Fails(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        report.message("one")
    assert interrupts.received == 0


def test_a_signal_that_came_before_the_pipe_closed_stays() -> None:
    interrupts = Interrupts()
    interrupts.received = signal.SIGTERM
    interrupts.guard(Fails(errno.EPIPE)).message("one")
    assert interrupts.received == signal.SIGTERM
