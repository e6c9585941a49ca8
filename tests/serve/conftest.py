"""Small runs, a server of them in a thread, and clients of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect as connect_to

import throughtime as tt
from throughtime.cli import main
from throughtime.serve import Limits, running
from throughtime.serve.wire import pack, unpack

LINE = "the quick brown fox jumps over the lazy dog, and then it sleeps.\n"
SECONDS = 20  # that any answer may take


def train(folder: Path, task: str, *options: str) -> Path:
    common = [
        "--hidden",
        "13",
        "--batch",
        "3",
        "--steps",
        "30",
        "--lr",
        "0.02",
        "--device",
        "cpu",
        "--no-baselines",
    ]
    assert main(["train", task, *common, *options, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of characters."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "book.txt").write_text(LINE * 40)
    return train(
        folder / "book",
        "text",
        "--data",
        str(folder / "book.txt"),
        "--embedding",
        "5",
        "--bptt",
        "truncated:7",
    )


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of words: another model."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "words.txt").write_text(LINE * 40)
    options = ("--tokens", "word", "--embedding", "5", "--bptt", "truncated:7")
    return train(folder / "words", "text", "--data", str(folder / "words.txt"), *options)


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of numbers, a label for each step."""
    folder = tmp_path_factory.mktemp("serve")
    rows = ["sequence,x,y,label"]
    draws = np.random.default_rng(0)
    for sequence in range(12):
        for step, (x, y) in enumerate(draws.normal(size=(9, 2))):
            rows.append(f"{sequence},{x:.3f},{y:.3f},{'up' if x > 0 or step == 0 else 'down'}")
    (folder / "steps.csv").write_text("\n".join(rows) + "\n")
    return train(folder / "frames", "frames", "--data", str(folder / "steps.csv"))


@pytest.fixture(scope="module")
def server(book: Path, words: Path, frames: Path) -> Iterator[str]:
    """The address of a server of all of them, for tests that leave it as it was."""
    with running(
        [book, words, frames], limits=Limits(max_message=20_000, max_tokens=300, max_records=5)
    ) as url:
        yield url


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx.Client]:
    """An HTTP client of that server."""
    with httpx.Client(base_url=server, timeout=SECONDS) as client:
        yield client


@pytest.fixture(scope="session")
def trained(book: Path) -> Any:
    """The model of characters in this process."""
    return tt.load(book)


@pytest.fixture
def socket(server: str) -> Iterator[Socket]:
    """A connection to that server."""
    with Socket(server) as connected:
        yield connected


@pytest.fixture(scope="session")
def connect() -> type[Socket]:
    """What connects to an address, to be closed with its block."""
    return Socket


class Socket:
    """A WebSocket that speaks messages."""

    def __init__(self, url: str, **options: Any) -> None:
        address = url.replace("http", "ws", 1) + "/v1/stream"
        self.socket = connect_to(
            address, compression=None, proxy=None, close_timeout=1, **options
        ).__enter__()
        assert self.take()["type"] == "credit"

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, payload: Any = None, **message: Any) -> None:
        self.socket.send(json.dumps(message) if payload is None else pack(message, payload))

    def take(self, timeout: float = SECONDS) -> dict[str, Any]:
        message = self.socket.recv(timeout)
        if isinstance(message, bytes):
            header, payload = unpack(message)
            return {**header, "payload": payload}
        return json.loads(message)

    def ask(self, payload: Any = None, **message: Any) -> dict[str, Any]:
        self.send(payload, **message)
        return self.take()

    def open(self, **message: Any) -> str:
        found = self.ask(type="open", **{"model": "book", "credit": 1000, **message})
        assert found["type"] == "ready", found
        return found["session"]
