"""Sessions over a WebSocket: messages, credit, cancelling, resuming, and what does not belong on one."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed

import throughtime as tt
from throughtime.serve import Limits, running

INBOUND = 32


def refused(message, cause):
    assert (message["type"], message.get("cause")) == ("error", cause), message
    assert "\n" not in message["message"]
    return message


def test_a_session_answers_as_a_stream(socket, trained):
    stream, id = trained.stream(), socket.open()
    for seq, text in enumerate(("the qu", "ick", " b"), start=1):
        out = socket.ask(type="chunk", session=id, seq=seq, data=text)
        assert out == {"type": "out", "session": id, "seq": seq, "answer": stream.feed(text)}
    assert socket.ask(type="chunk", session=id, seq=3, data="?")["answer"] == out["answer"]
    refused(socket.ask(type="chunk", session=id, seq=9, data="x"), "sequence")
    saved = socket.ask(type="snapshot", session=id)
    assert (saved["type"], saved["to"], saved["session"]) == ("ready", "snapshot", id)
    fork = socket.ask(type="fork", session=id, new=f"{id}.fork", request="f")
    assert fork == {
        "type": "ready", "to": "fork", "session": id, "model": "book", "seq": 3, "steps": 11, "new": f"{id}.fork", "request": "f",
    }  # fmt: skip
    expected = stream.feed("rown")
    assert socket.ask(type="chunk", session=fork["new"], seq=4, data="rown")["answer"] == expected
    flushed = socket.ask(type="flush", session=id, seq=4)
    assert flushed["answer"] == {**flushed["answer"], "symbols": []}
    assert socket.ask(type="restore", payload=saved["payload"], session=id)["seq"] == 3
    assert socket.ask(type="chunk", session=id, seq=4, data="rown")["answer"] == expected
    opened = socket.ask(type="open", payload=saved["payload"], model="book")
    assert socket.ask(type="chunk", session=opened["session"], seq=4, data="rown")["answer"] == expected
    assert socket.ask(type="reset", session=id)["seq"] == 0
    assert socket.ask(type="close", session=id) == {"type": "ready", "to": "close", "session": id}
    refused(socket.ask(type="chunk", session=id, seq=1, data="x"), "unknown")
    refused(socket.ask(type="open", session=opened["session"], model="book"), "busy")


def test_numbers_as_bytes(socket, frames):
    x = np.random.default_rng(2).normal(size=(5, 2)).astype(np.float32)
    id = socket.open(model="frames")
    out = socket.ask(type="chunk", payload=x, session=id, seq=1)
    assert out["answer"] == tt.load(frames).stream().feed(torch.from_numpy(x))
    refused(socket.ask(type="chunk", payload=x[:, :1].copy(), session=id, seq=2), "input")
    refused(socket.ask(type="restore", payload=x, session=id), "input")


def test_no_more_outputs_than_credit(socket, trained):
    id = socket.open(credit=2)
    assert socket.ask(type="credit", credit=0)["outputs"] == 2
    for seq in range(1, 6):
        socket.send(type="chunk", session=id, seq=seq, data="the ")
    assert [socket.take()["seq"] for _ in range(2)] == [1, 2]
    with pytest.raises(TimeoutError):
        socket.take(0.3)
    given = socket.ask(type="credit", credit=1)
    assert given == {"type": "credit", "chunks": INBOUND - 3, "outputs": 1}
    assert socket.take()["seq"] == 3
    with pytest.raises(TimeoutError):
        socket.take(0.2)
    # Other answers need no credit; what starts the session anew waits for its outputs.
    socket.send(type="reset", session=id)
    other = socket.ask(type="open", model="book")
    assert other["to"] == "open"
    socket.send(type="credit", credit=2)
    found = [socket.take() for _ in range(4)]
    assert [each["type"] for each in found] == ["credit", "out", "out", "ready"]
    stream = trained.stream()
    answers = [stream.feed("the ") for _ in range(5)]
    assert [each["answer"] for each in found[1:3]] == answers[3:]


def test_too_many_unanswered_requests_close_the_connection(server, trained, connect):
    with connect(server) as socket, connect(server) as other:
        id = socket.open(credit=0)
        for seq in range(1, INBOUND + 1):
            socket.send(type="chunk", session=id, seq=seq, data="a", ack=0)
        with pytest.raises(TimeoutError):
            socket.take(0.2)
        socket.send(type="chunk", session=id, seq=INBOUND + 1, data="a")
        refused(socket.take(), "quota")
        with pytest.raises(ConnectionClosed) as caught:
            socket.take()
        assert caught.value.rcvd.code == 1008
        for _ in range(200):  # the last of its chunks may still be read
            resumed = other.ask(type="open", session=id, resume=True, credit=100)
            if resumed.get("cause") != "busy":
                break
            time.sleep(0.05)
        assert resumed["seq"] == INBOUND
        # None of the answers is lost: the client says which it has.
        found = [
            other.ask(type="chunk", session=id, seq=seq, data="a", ack=0)["answer"]
            for seq in range(1, INBOUND + 1)
        ]
        stream = trained.stream()
        assert found == [stream.feed("a") for _ in range(INBOUND)]
        other.ask(
            type="chunk", session=id, seq=INBOUND + 1, data="a"
        )  # without ack the client has all before
        refused(other.ask(type="chunk", session=id, seq=INBOUND, data="a"), "sequence")


def test_a_slow_reader_blocks_nobody(server, trained, connect):
    with connect(server) as slow, connect(server) as quick:
        held, id = slow.open(credit=0), quick.open()
        for seq in range(1, 21):
            slow.send(type="chunk", session=held, seq=seq, data="the quick brown fox")
        stream = trained.stream()
        for seq in range(1, 21):
            assert quick.ask(type="chunk", session=id, seq=seq, data="the")["answer"] == stream.feed("the")
        slow.send(type="credit", credit=20)
        assert slow.take()["type"] == "credit"
        stream = trained.stream()
        for seq in range(1, 21):
            out = slow.take()
            assert (out["seq"], out["answer"]) == (seq, stream.feed("the quick brown fox"))


def test_traces_are_sent_to_who_asks_and_dropped_for_who_is_behind(server, trained, http, connect):
    with connect(server) as socket:
        id = socket.open(trace=True)
        socket.send(type="chunk", session=id, seq=1, data="the")
        assert socket.take()["type"] == "out"
        trace = socket.take()
        stream = trained.stream()
        stream.feed("the")
        assert (trace["type"], trace["session"], trace["seq"]) == ("trace", id, 1)
        assert {name: pytest.approx(float(value.abs().max())) for name, value in stream.state.items()} == {
            name: each["max"] for name, each in trace["state"].items()
        }

        def dropped():
            lines = http.get("/metrics").text.splitlines()
            return sum(
                float(line.split()[-1])
                for line in lines
                if line.startswith("throughtime_traces_dropped_total")
            )

        before, behind = dropped(), socket.ask(type="open", model="book", trace=True)["session"]
        credit = socket.ask(type="credit", credit=0)["outputs"]
        for _ in range(credit):  # use it up
            socket.send(type="chunk", session=id, seq=1, data="the")
            assert [socket.take()["type"] for _ in range(2)] == ["out", "trace"]
            if socket.ask(type="credit", credit=0)["outputs"] == 0:
                break
        for seq in range(1, 4):
            socket.send(type="chunk", session=behind, seq=seq, data="the")
        with pytest.raises(TimeoutError):
            socket.take(0.3)
        assert dropped() == before + 3
        socket.send(type="credit", credit=3)
        assert [socket.take()["type"] for _ in range(4)] == ["credit", "out", "out", "out"]
        assert socket.ask(type="open", session=behind, resume=True)["seq"] == 3


def test_a_chunk_that_waits_can_be_cancelled(server, connect):
    """Chunks behind a long one have not begun when the cancel message is read."""
    with connect(server) as socket:
        id = socket.open()
        socket.send(type="chunk", session=id, seq=1, data="the quick brown fox " * 900)
        for seq in (2, 3, 4):
            socket.send(type="chunk", session=id, seq=seq, data="x", request=seq)
        socket.send(type="cancel", session=id, seq=3)
        found = [socket.take() for _ in range(5)]
        outs = [each["seq"] for each in found if each["type"] == "out"]
        cancelled = [each["seq"] for each in found if each.get("cause") == "cancelled"]
        (ready,) = (each for each in found if each["type"] == "ready")
        assert (outs, cancelled, ready["cancelled"]) == ([1, 2], [3, 4], [3, 4])
        assert socket.ask(type="chunk", session=id, seq=3, data="y")["answer"]["symbols"] == ["y"]


def test_a_dropped_connection_is_resumed(server, trained, connect):
    stream = trained.stream()
    answers = [stream.feed(text) for text in ("the ", "quick ", "brown ", "fox")]
    with connect(server) as first:
        id = first.open()
        first.ask(type="chunk", session=id, seq=1, data="the ")
        first.send(type="chunk", session=id, seq=2, data="quick ")
        first.socket.socket.close()  # without a word
    with connect(server) as second:
        for _ in range(100):
            ready = second.ask(type="open", session=id, resume=True, credit=10)
            if ready["type"] == "ready":  # busy while the chunk is read
                break
        assert ready["seq"] in (1, 2)
        for seq, text in enumerate(("quick ", "brown ", "fox"), start=2):
            out = second.ask(type="chunk", session=id, seq=seq, data=text)
            assert (out["seq"], out["answer"]) == (seq, answers[seq - 1])
        refused(second.ask(type="open", session="never opened", resume=True), "input")
        refused(second.ask(type="open", session="never-opened", resume=True), "unknown")


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("", "input"),
        ("[]", "input"),
        ("{}", "input"),
        ('{"type": "opem"}', "input"),
        ('{"type": ["open"]}', "input"),
        ('{"type": "chunk"}', "input"),
        ('{"type": "chunk", "session": "../x", "seq": 1}', "input"),
        ('{"type": "chunk", "session": "x"}', "input"),
        ('{"type": "chunk", "session": "x", "seq": 1.5}', "input"),
        ('{"type": "chunk", "session": "x", "seq": 1, "ack": "0"}', "input"),
        ('{"type": "chunk", "session": "nobody", "seq": 1}', "unknown"),
        ('{"type": "open", "model": "none"}', "not_found"),
        ('{"type": "open", "model": "book", "credit": -1}', "input"),
        ('{"type": "credit", "credit": "many"}', "input"),
        ('{"type": "cancel"}', "input"),
        ('{"type": "restore", "session": "x"}', "input"),
        (b"", "input"),
        (b"\0\0\0\0", "input"),
        (b"\xff\xff\xff\xff{}", "input"),
        (b"\x02\0\0\0{}abc", "input"),
        (b'\x13\0\0\0{"dtype": "float16"}', "input"),
        ('{"a":' * 3900, "input"),
        ("\ud83d\ude00 no json", "input"),
    ],
)
def test_a_message_that_is_none_is_refused_and_the_connection_goes_on(socket, message, cause):
    socket.socket.send(
        message.encode("utf-16", "surrogatepass").decode("utf-16") if isinstance(message, str) else message
    )
    refused(socket.take(), cause)
    assert socket.open()


def test_random_bytes_end_nothing_but_their_connection(server, http, connect):
    draws = random.Random(3)
    id = http.post("/v1/sessions", json={"model": "book"}).json()["id"]
    kinds = [
        "open",
        "chunk",
        "flush",
        "reset",
        "snapshot",
        "restore",
        "fork",
        "cancel",
        "credit",
        "close",
        "x",
    ]
    values = [None, True, -1, 0, 1, 2**80, 1.5, "", "x", id, [], {}, [[1, 2]], "\0", float("1e400")]
    for _ in range(3):
        with connect(server) as socket:
            for _ in range(60):
                message = {
                    key: draws.choice(values)
                    for key in ("seq", "data", "credit", "ack", "model", "snapshot", "resume", "shape")
                }
                message |= {"type": draws.choice(kinds), "session": draws.choice([f"{id}x", "r", None, 7])}
                text = json.dumps(message)
                if draws.random() < 0.3:
                    text = text[: draws.randrange(len(text))]
                raw = text.encode()
                head = draws.choice([len(raw), draws.randrange(2**32), 0]).to_bytes(4, "little")
                try:
                    socket.socket.send(
                        text if draws.random() < 0.5 else head + raw + draws.randbytes(draws.randrange(20))
                    )
                except ConnectionClosed:
                    break
            socket.socket.socket.close()
    assert http.get("/healthz").status_code == 200
    assert http.get(f"/v1/sessions/{id}").json()["seq"] == 0  # no message named it whole
    text = http.get("/metrics").text
    assert 'throughtime_refused_total{cause="input"}' in text
    assert 'cause="internal"' not in text


def test_a_message_that_is_too_large_closes_its_connection(server, connect):
    with connect(server) as socket:
        socket.open()
        socket.socket.send("x" * 20_001)
        with pytest.raises(ConnectionClosed) as caught:
            socket.take()
        assert caught.value.rcvd.code == 1009


def test_connections_are_counted(book, connect):
    limits = Limits(max_connections=3, client_connections=2)
    with running([book], limits=limits) as url, connect(url), connect(url):
        with pytest.raises(Exception, match="429") as caught:
            connect(url)
        assert json.loads(caught.value.response.body)["error"]["code"] == "quota"
