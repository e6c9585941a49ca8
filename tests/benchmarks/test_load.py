"""Busy processes: they spin, and they end whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed: it is run from a checkout

from benchmarks.load import busy  # noqa: E402


def exists(pid: int) -> bool:
    """Whether a process is there; one that has ended and waits for its parent counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ended(pids: list[int], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(exists, pids)):
        time.sleep(0.01)
    return not any(map(exists, pids))


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are watched through /proc")
class TestBusy:
    def test_they_spin_and_end_with_the_block(self):
        with busy(2) as pids:
            before = [processor_time(pid) for pid in pids]
            end = time.monotonic() + 60
            while time.monotonic() < end and min(map(processor_time, pids)) < max(before) + 0.05:
                time.sleep(0.01)
            assert min(map(processor_time, pids)) >= max(before) + 0.05
        assert len(set(pids)) == 2
        assert not any(map(exists, pids))

    @pytest.mark.parametrize("what", [KeyboardInterrupt, ZeroDivisionError])
    def test_they_end_when_the_block_is_left_by(self, what):
        pids = []

        def block():
            with busy(2) as started:
                pids.extend(started)
                assert all(map(exists, pids))
                raise what

        with pytest.raises(what):
            block()
        assert len(pids) == 2
        assert not any(map(exists, pids))

    def test_none_is_none(self):
        with busy(0) as pids:
            assert pids == []

    def test_one_that_ends_before_the_block_is_an_error(self):
        pids = []

        def block():
            with busy(2) as started:
                pids.extend(started)
                os.kill(pids[0], signal.SIGKILL)
                assert ended(pids[:1])

        with pytest.raises(RuntimeError, match="one of them ended before"):
            block()
        assert not any(map(exists, pids))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_they_end_with_a_parent_that_is_killed(self, number):
        script = """
import time
from benchmarks.load import busy
with busy(2) as pids:
    print(*pids, flush=True)
    time.sleep(600)
"""
        parent = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        with parent:
            pids = [int(word) for word in parent.stdout.readline().split()]
            assert len(pids) == 2 and all(map(exists, pids))
            parent.send_signal(number)
            parent.wait(20)
        assert ended(pids)

    def test_a_library_they_do_not_need_is_not_loaded(self):
        with busy(1) as (pid,):
            assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
