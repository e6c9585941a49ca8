"""A connection to a server that is asked until it answers, and what the clients of benchmarks/faults.py share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from throughtime.serve.wire import pack, unpack
from throughtime.sessions.stream import Stream

LATER = {"busy", "closed", "full", "store"}  # refusals after which the same request is sent again
GONE = (ConnectionClosed, InvalidHandshake, OSError, EOFError, asyncio.IncompleteReadError)
CREDIT = 256
ANSWER_S = 120.0  # after which a server that gives no answer has failed


@dataclass(eq=False, slots=True)
class Remote:
    """A session of the server, and the reference: a stream in this process that was fed the same."""

    name: str
    reference: Stream
    seq: int = 0
    expected: Any = None  # the answer to the last chunk
    last: str = ""
    touched: float = 0.0  # when the server last stored it, at the latest
    saved: tuple[bytes, Stream, int, Any, str] | None = None


@dataclass
class Report:
    """What happened."""

    did: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(
        default_factory=Counter
    )  # by cause, those that were provoked and those that were not
    chunks: int = 0
    mixed: list[str] = field(default_factory=list)  # answers that differ from the reference
    lost: list[str] = field(
        default_factory=list
    )  # sessions that the server does not know, or at another chunk
    waits: list[float] = field(
        default_factory=list
    )  # seconds from a chunk to its answer, while nothing was broken


class Lost(Exception):
    """A session is not what it should be. session: which one, where it is not the one that a client acts on."""

    def __init__(self, message: str, session: Remote | None = None) -> None:
        super().__init__(message)
        self.session = session


class Crowd:
    """All sessions, and what the clients of one server share.

    Args: port; fresh, a stream before its first step; alphabet, of the texts; expire_s, of the server.
    """

    def __init__(
        self, ports: list[int], fresh: Stream, alphabet: str, expire_s: float, seed: int = 0
    ) -> None:
        self.ports, self.fresh, self.alphabet, self.expire_s = ports, fresh, alphabet, expire_s
        self.draws = random.Random(seed)
        self.idle: list[Remote] = []
        self.report = Report()
        self.up = asyncio.Event()  # the server is there, as far as is known
        self.up.set()
        self.disturbed = 0.0  # when it last was not
        self.end = float("inf")

    def new(self) -> Remote:
        """A session that the server does not know yet."""
        return Remote(secrets.token_hex(8), self.fresh.fork())

    def take(self) -> Remote | None:
        """Any session that no client is busy with."""
        if not self.idle:
            return None
        place = self.draws.randrange(len(self.idle))
        self.idle[place], self.idle[-1] = self.idle[-1], self.idle[place]
        return self.idle.pop()

    def text(self) -> str:
        """The next chunk of a session."""
        return "".join(self.draws.choices(self.alphabet, k=self.draws.choice((1, 1, 2, 3, 8, 20))))


class Connection:
    """One socket at a time, to any of the servers, made anew where it breaks."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd, self.port = crowd, crowd.ports[number % len(crowd.ports)]
        self.socket: ClientConnection | None = None
        self.kept: dict[int, dict[str, Any]] = {}  # answers that came before they were waited for
        self.outs = self.tag = 0
        self.again = False  # the last request was sent more than once
        self.cause = ""  # of the last refusal

    async def ask(
        self, message: dict[str, Any], payload: bytes | None = None, forgiven: str = ""
    ) -> dict[str, Any]:
        """The answer to a request, sent until there is one; `again` says whether it was sent more than once."""
        self.again, began = False, time.monotonic()
        while True:
            try:
                answer = await self.receive(await self.send(message, payload))
                if answer.get("cause") not in LATER - {forgiven}:
                    return answer
            except GONE:
                self.abort()
            self.again = True
            await self.pause(began)

    async def send(self, message: dict[str, Any], payload: bytes | None = None) -> int:
        """Its tag."""
        if self.socket is None:
            await asyncio.wait_for(self.crowd.up.wait(), ANSWER_S)
            self.socket = await connect(
                f"ws://127.0.0.1:{self.port}/v1/stream", max_size=2**24, proxy=None, open_timeout=ANSWER_S
            )
            self.outs = 0
            await self.socket.send(json.dumps({"type": "credit", "credit": CREDIT}))
        self.tag += 1
        message = {**message, "request": self.tag}
        await self.socket.send(json.dumps(message) if payload is None else pack(message, payload))
        return self.tag

    async def receive(self, tag: int, *others: int) -> dict[str, Any]:
        """The answer to a request, those to `others` being kept for later."""
        if tag in self.kept:
            return self.kept.pop(tag)
        while True:
            assert self.socket is not None
            raw = await asyncio.wait_for(self.socket.recv(), ANSWER_S)
            if isinstance(raw, bytes):
                answer, payload = unpack(raw)
                answer["payload"] = payload
            else:
                answer = json.loads(raw)
            if answer["type"] == "error":
                self.cause = answer["cause"]
                self.crowd.report.refused[self.cause] += 1
            if answer["type"] == "out":
                self.outs += 1
                if self.outs == CREDIT // 2:
                    self.outs = 0
                    await self.socket.send(json.dumps({"type": "credit", "credit": CREDIT // 2}))
            if answer.get("request") == tag:
                return answer
            if answer.get("request") in others:
                self.kept[answer["request"]] = answer

    async def http(self, session: Remote, body: str, send: int | None = None) -> dict[str, Any] | None:
        """A chunk over HTTP; with `send`, only so many bytes of the body, and then the socket is killed."""
        await asyncio.wait_for(self.crowd.up.wait(), ANSWER_S)
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            head = (
                f"POST /v1/sessions/{session.name}/chunks HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n\r\n"
            )
            writer.write(head.encode() + body.encode()[:send])
            await writer.drain()
            if send is not None:
                await asyncio.sleep(0.001)
                writer.transport.abort()
                return None
            raw = await asyncio.wait_for(reader.read(), ANSWER_S)
            return json.loads(raw.partition(b"\r\n\r\n")[2]) if raw else None
        except (*GONE, ValueError):
            return None
        finally:
            if writer is not None:
                writer.close()

    def abort(self) -> None:
        """Kill the socket: nothing more is sent, what was received is lost."""
        if self.socket is not None:
            self.socket.transport.abort()
        self.socket, self.kept = None, {}
        self.port = self.crowd.draws.choice(self.crowd.ports)

    async def leave(self) -> None:
        """Close the connection as clients should."""
        if self.socket is not None:
            with contextlib.suppress(*GONE):
                await self.socket.close()
        self.socket, self.kept = None, {}

    async def pause(self, began: float) -> None:
        """Before a request is sent again. Raises: RuntimeError where that has gone on for too long."""
        if time.monotonic() - began > 2 * ANSWER_S:
            raise RuntimeError(f"no server has answered for {2 * ANSWER_S:.0f} s")
        self.crowd.report.did["sent again"] += 1
        await asyncio.sleep(self.crowd.draws.uniform(0.02, 0.1))
