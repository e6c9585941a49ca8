"""What every test has: one thread, one seed, and the folder of the larger data sets when there is one."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

# One thread: sums are taken in one order, so a result does not depend on the machine's number of cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_seed() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def data_dir() -> Path:
    """The folder that THROUGHTIME_DATA names; a test that needs it is skipped, with the reason, where it is not set."""
    folder = os.environ.get("THROUGHTIME_DATA", "")
    if not folder:
        pytest.skip(
            "THROUGHTIME_DATA is not set: this test needs a data set that does not ship with the library"
        )
    path = Path(folder)
    assert path.is_dir(), f"THROUGHTIME_DATA must name a folder, got {folder!r}"
    return path


class KeyServer:
    """A real valkey-server or redis-server on a free port, which writes each change to disk before it answers."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder, self.port = program, folder, free_port()
        self.url = f"valkey://:secret@127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "daemonize": "no",
            "appendonly": "yes", "appendfsync": "always", "logfile": self.folder / "log",
            "requirepass": "secret",
        }  # fmt: skip
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen([self.program, *words], stdin=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"AUTH secret\r\nPING\r\n")
                    found = b""
                    while found.count(b"\r\n") < 2 and (more := connection.recv(100)):
                        found += more
                    if found == b"+OK\r\n+PONG\r\n":  # another answer while it reads its file
                        return
            except OSError:
                pass
            assert time.monotonic() < until, f"{self.program} did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def key_server(tmp_path: Path) -> Iterator[KeyServer]:
    """Skips where neither program is installed."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        pytest.skip("neither valkey-server nor redis-server is installed (Debian has both): nothing to test")
    pytest.importorskip(
        "valkey", reason="the package valkey is not installed: pip install 'throughtime[valkey]'"
    )
    folder = tmp_path / "key_server"
    folder.mkdir()
    server = KeyServer(program, folder)
    server.start()
    yield server
    server.kill()
