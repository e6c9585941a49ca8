"""Servers that are stopped and killed: the next one on the same store goes on to the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from throughtime.serve import Limits, running

SECONDS = 120  # that a start may take on a busy machine


class Server:
    """`throughtime serve` in a process of its own."""

    def __init__(self, run: Path, *options: str) -> None:
        command = [sys.executable, "-m", "throughtime", "serve", str(run), "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        watch = threading.Timer(SECONDS, self.process.kill)
        watch.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        watch.cancel()
        assert line.startswith("throughtime: book at http://127.0.0.1:"), (line, self.process.stderr)
        self.url = line.split()[3].removesuffix("/v1,")

    def end(self, number: int) -> tuple[int, str]:
        """Its status, and what it said, after a signal."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said


@contextmanager
def serving(run: Path, *options: str) -> Iterator[Server]:
    server = Server(run, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate(timeout=SECONDS)


def test_sessions_outlive_their_servers(book, trained, connect, tmp_path):
    texts = ["the ", "quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog"]
    stream = trained.stream()
    answers = [stream.feed(text) for text in texts]
    store = ("--store", str(tmp_path / "sessions.db"))

    def feed(socket, seq):
        out = socket.ask(type="chunk", session="s", seq=seq, data=texts[seq - 1])
        assert (out.get("seq"), out.get("answer")) == (seq, answers[seq - 1])

    with serving(book, *store) as server, connect(server.url) as socket:
        assert socket.open(session="s") == "s"
        for seq in (1, 2, 3):
            feed(socket, seq)
        assert server.end(signal.SIGTERM) == (0, "throughtime: stopped, 1 session saved\n")
        with pytest.raises(ConnectionClosed) as caught:
            socket.take()
        assert caught.value.rcvd.code == 1012
    with serving(book, *store) as server, connect(server.url) as socket:
        assert socket.ask(type="open", session="s", resume=True, credit=99)["seq"] == 3
        feed(socket, 3)
        feed(socket, 4)
        feed(socket, 5)
        socket.send(
            type="chunk", session="s", seq=6, data=texts[5]
        )  # killed before it is read, meanwhile or afterwards
        status, _ = server.end(signal.SIGKILL)
        assert status == -signal.SIGKILL
    with serving(book, *store) as server, connect(server.url) as socket:
        ready = socket.ask(type="open", session="s", resume=True, credit=99)
        assert ready["seq"] in (5, 6)
        feed(socket, ready["seq"])
        for seq in range(6, len(texts) + 1):
            feed(socket, seq)
        assert server.end(signal.SIGINT) == (0, "throughtime: stopped, 1 session saved\n")


def test_a_completion_under_way_ends_when_the_server_stops(book):
    """The server does not wait for the rest of it, and says so."""
    asked = {"prompt": "the", "max_tokens": 1_000_000, "stream": True}
    begun, rest = threading.Event(), list[str]()

    def read(url: str) -> None:
        with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=SECONDS) as answer:
            for line in answer.iter_lines():
                rest.append(line)
                begun.set()

    with running([book], limits=Limits(max_tokens=1_000_000)) as url:
        reading = threading.Thread(target=read, args=(url,))
        reading.start()
        assert begun.wait(SECONDS)
    reading.join(SECONDS)
    assert '"code":"closed"' in [line for line in rest if line][-1]


def test_a_completion_that_nobody_reads_ends(book):
    asked = {"prompt": "the", "max_tokens": 1_000_000, "stream": True}
    limits = Limits(max_tokens=1_000_000, workers=1)
    with running([book], limits=limits) as url, httpx.Client(base_url=url, timeout=SECONDS) as http:
        for _ in range(2):
            with http.stream("POST", "/v1/completions", json=asked) as answer:
                assert next(answer.iter_lines()).startswith("data: ")
        short = http.post("/v1/completions", json={**asked, "max_tokens": 2, "stream": False})
        assert short.json()["usage"]["completion_tokens"] == 2
        assert "throughtime_jobs 0\n" in http.get("/metrics").text
