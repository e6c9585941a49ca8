"""Processes that keep cores busy while something is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It ends with its parent, also where that is killed; Ctrl-C in the terminal is left to the parent.
_SPIN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
print(flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


@contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """Keep `count` processes spinning during the block; gives their process ids.

    They run plain Python without torch, at this process's priority, and are killed at the end, whatever ends the block.

    Raises: RuntimeError if one of them does not start, or ended before the block did: what was measured is then not what it says.
    """
    children: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            command = [sys.executable, "-I", "-S", "-c", _SPIN, str(os.getpid())]
            children.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
            )
        for child in children:
            assert child.stdout is not None
            if not child.stdout.readline():
                raise RuntimeError(f"expected {count} busy processes, but one of them did not start")
        yield [child.pid for child in children]
        if any(child.poll() is not None for child in children):
            raise RuntimeError(f"expected {count} busy processes to the end, but one of them ended before")
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
