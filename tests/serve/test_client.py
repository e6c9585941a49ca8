"""The Python client: the same answers as in this process, over connections that drop and servers that come back."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import httpx
import numpy as np
import pytest
import torch

import throughtime as tt
from throughtime.errors import InputError, SessionError
from throughtime.serve import Client, Limits, running
from throughtime.serve.refusals import Refused
from throughtime.sessions import SqliteStore


def test_a_session_answers_as_a_stream(server, trained):
    with tt.serve.Client(server) as client:
        session, stream = client.open("book"), trained.stream()
        assert session.model == "book"
        for text in ("the ", "quick", " brown"):
            assert session.feed(text) == stream.feed(text)
        saved, fork = session.snapshot(), session.fork()
        expected = stream.feed(" fox")
        assert session.feed(" fox") == fork.feed(" fox") == expected
        session.restore(saved)
        assert session.seq == 3
        assert session.feed(" fox") == expected
        assert client.open("book", state=saved).feed(" fox") == expected
        assert session.flush() == stream.flush()
        assert session.feed("x") == trained.stream().feed("x")
        session.reset()
        assert session.seq == 0
        assert session.feed("x") == trained.stream().feed("x")
        again = client.open(id=session.id, resume=True)
        assert again.seq == 1 and again.feed("y")
        again.close()
        with pytest.raises(SessionError) as caught:
            session.feed("z")
        assert caught.value.cause == "unknown"


def test_arrays_and_tensors_go_as_bytes(server, frames):
    x = np.random.default_rng(4).normal(size=(6, 2))
    expected = tt.load(frames).stream().feed(torch.tensor(x, dtype=torch.float32))
    with Client(server) as client:
        for each in (x, x.astype(np.float32), torch.tensor(x)):
            assert client.open("frames").feed(each) == expected


def test_refusals_are_the_same_errors(server):
    with Client(server) as client:
        with pytest.raises(InputError, match="Did you mean 'book'"):
            client.open("boook")
        with pytest.raises(InputError, match="one of book, words, frames"):
            client.open()
        with pytest.raises(InputError, match="a text, got"):
            client.open("book").feed([1, 2])
        mine = client.open("book", "mine")
        with pytest.raises(SessionError, match="open already") as caught:
            client.open("book", "mine")
        assert caught.value.cause == "busy"
        mine.seq = 7
        with pytest.raises(SessionError) as caught:
            mine.feed("x")
        assert caught.value.cause == "sequence"
        with pytest.raises(InputError, match=r"larger than|may have"):
            mine.feed("x" * 30_000)
        mine.close()
    with pytest.raises(InputError, match="address"):
        Client("somewhere")


class Relay:
    """Passes bytes to a server and back; the first connections are cut after so many answers each."""

    def __init__(self, url: str, cuts: list[int]) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.target, self.cuts = (host, int(port)), cuts
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = 0
        self.sockets = [self.listener]
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.sockets:
            self._shut(each)
        for thread in self.threads:
            thread.join(10)
        for each in self.sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            most = self.cuts[self.connections] if self.connections < len(self.cuts) else 10**9
            self.connections += 1
            server = socket.create_connection(self.target)
            self.sockets += [client, server]
            for each in ((client, server, 10**9), (server, client, most)):
                self.threads.append(threading.Thread(target=self._pass, args=each))
                self.threads[-1].start()

    def _pass(self, one: socket.socket, other: socket.socket, most: int) -> None:
        """Cuts both where the next bytes would be one too many."""
        try:
            while (data := one.recv(65536)) and most > 0:
                other.sendall(data)
                most -= 1
        except OSError:
            most = 0
        self._shut(one)
        self._shut(other)

    @staticmethod
    def _shut(each: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it is shut already
            each.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_drops_loses_and_repeats_nothing(server, trained):
    """A cut comes when an answer is on its way: the opening, the first credit, and then what was asked for."""
    text = "the quick brown fox jumps over the lazy dog, and then it sleeps"
    for cuts in ([2], [3], [4], [2, 3, 3, 4, 5], [1, 3, 6, 4, 3]):
        with Relay(server, cuts) as relay, Client(relay.url, timeout=10) as client:
            session, stream = client.open("book"), trained.stream()
            for place in range(0, len(text), 8):
                assert session.feed(text[place : place + 8]) == stream.feed(text[place : place + 8])
            fork = session.fork()
            assert fork.seq == session.seq == 8
            assert session.feed("x") == fork.feed("x") == stream.feed("x")
            session.close()
            assert relay.connections > len(cuts)


def test_a_server_that_is_not_there_is_said_after_some_attempts():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}", retries=1) as client,
        pytest.raises(SessionError, match="does not answer") as caught,
    ):
        client.open()
    assert caught.value.cause == "closed"


def test_threads_may_share_a_client(server, trained):
    expected = trained.stream().feed("the quick")
    with Client(server) as client:
        found: list[object] = []
        threads = [
            threading.Thread(target=lambda: found.append(client.open("book").feed("the quick")))
            for _ in range(8)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
    assert found == [expected] * 8


def test_a_token_is_needed_where_there_is_one(book):
    with running([book], token="long-and-secret") as url:
        with Client(url, token="long-and-secret") as client:
            assert client.open().feed("x")["symbols"] == ["x"]
        for token in (None, "another-secret"):
            with Client(url, token=token) as client, pytest.raises(Refused, match="token") as caught:
                client.open()
            assert caught.value.cause == "token"


def test_a_client_waits_for_a_server_that_comes_back(book, tmp_path, trained):
    limits = Limits(store=str(tmp_path / "s.db"))
    stream = trained.stream()
    with running([book], limits=limits) as url:
        client = Client(url)
        session = client.open()
        assert session.feed("the ") == stream.feed("the ")
    port, results = int(url.rpartition(":")[2]), []
    feeding = threading.Thread(target=lambda: results.append(session.feed("quick")))
    feeding.start()
    time.sleep(0.3)
    with running([book], limits=limits, port=port) as again:
        assert again == url
        feeding.join(20)
        assert results == [stream.feed("quick")]
        client.close()


class Slow(SqliteStore):
    """A store that takes its time while `wait` is set."""

    wait = 0.0

    def put_many(self, entries, seconds):
        time.sleep(self.wait)
        return super().put_many(entries, seconds)


def test_a_chunk_that_is_still_read_when_it_is_sent_again(book, trained, tmp_path):
    """The connection drops while the session is saved; the next one is told that it is busy, and waits."""
    store = Slow(tmp_path / "s.db")
    with running([book], store=store) as url, Client(url) as client:
        session, results = client.open(), []
        store.wait = 0.7
        feeding = threading.Thread(target=lambda: results.append(session.feed("the quick")))
        feeding.start()
        time.sleep(0.2)
        client._socket.socket.shutdown(socket.SHUT_RDWR)
        feeding.join(20)
        store.wait = 0.0
        assert results == [trained.stream().feed("the quick")]
        assert session.feed("x")
        assert 'throughtime_refused_total{cause="busy"}' in httpx.get(f"{url}/metrics").text
