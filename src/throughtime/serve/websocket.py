"""WebSocket /v1/stream: many sessions over one connection, with credits, traces and resumption; messages: docs/serve.md."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from concurrent.futures import Future
from typing import Any

from starlette.websockets import WebSocket

from throughtime.errors import InputError
from throughtime.serve.gate import PROTOCOL, address
from throughtime.serve.hub import Hub
from throughtime.serve.refusals import Refused
from throughtime.serve.wire import checked_id, dumps, loads, pack, snapshot_bytes, unpack, whole

REQUESTS = ("open", "chunk", "flush", "reset", "snapshot", "restore", "fork", "close")
_POLICY = 1008  # why a connection is closed, as RFC 6455 numbers it
_LAST_S = 5.0  # seconds for the last message to a client that is closed
_TRACES = 8  # that wait at most
_Message = dict[str, Any]


async def stream(websocket: WebSocket) -> None:
    """Serve one connection until it ends."""
    await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope.get("subprotocols", ()) else None)
    await Connection(websocket, websocket.app.state.hub).run()


class _Lane:
    """The requests of one session on a connection, which are answered in order."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[_Message, Any]] = deque()
        self.outs = 0  # outputs that wait for credit or for the socket
        self.reading: Future[Any] | None = None  # the chunk under way
        self.seq = 0  # its number
        self.wake = asyncio.Event()  # something waits, or was sent


class Connection:
    """One client: reads its requests, runs those of each session in order, and sends answers as fast as credit and socket allow.

    At most `inbound` requests are unanswered: outputs that wait for credit are among them, so a slow client holds no
    more than these, and no other connection waits for it.
    """

    def __init__(self, websocket: WebSocket, hub: Hub) -> None:
        self.websocket, self.hub = websocket, hub
        self.client = address(websocket.scope)
        self.credit = 0
        self.unanswered = 0
        self.lanes: dict[str, _Lane] = {}
        self.traced: set[str] = set()
        self.controls: deque[tuple[str | bytes, bool]] = deque()  # (message, whether it answers a request)
        self.outs: deque[tuple[str, _Lane]] = deque()
        self.traces: deque[str] = deque()
        self.ready = asyncio.Event()  # something can be sent
        self.drained = asyncio.Event()  # something was sent
        self.tasks: set[asyncio.Task[None]] = set()
        self.end: tuple[int, str] | None = None  # why the connection is to be closed

    async def run(self) -> None:
        """Until the client goes, or is closed."""
        self._control({"type": "credit", "chunks": self.hub.limits.inbound, "outputs": 0})
        writer, reader = asyncio.create_task(self._write()), asyncio.create_task(self._read())
        try:
            await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
            if self.end is not None:  # what was said last is sent, where the client still reads
                await asyncio.wait((writer,), timeout=_LAST_S)
        finally:
            for task in (reader, writer, *self.tasks):
                task.cancel()
            await asyncio.gather(reader, writer, *self.tasks, return_exceptions=True)
            for lane in self.lanes.values():
                if lane.reading is not None:
                    lane.reading.cancel()

    async def _read(self) -> None:
        """Take requests, until the client goes or sends too many."""
        while self.end is None:
            while len(self.controls) >= self.hub.limits.outbound:
                self.drained.clear()
                await self.drained.wait()
            received = await self.websocket.receive()
            if received["type"] != "websocket.receive":
                return
            message: _Message = {}
            try:
                message, payload = self._parsed(received)
                self._take(message, payload)
            except Exception as error:
                self._error(error, message)

    def _parsed(self, received: Any) -> tuple[_Message, Any]:
        """A message, and its payload where it is a binary one."""
        text, data = received.get("text"), received.get("bytes")
        if len(text or data or b"") > self.hub.limits.max_message:
            raise Refused(
                "large", f"a message may have {self.hub.limits.max_message} bytes, got {len(text or data)}"
            )
        return unpack(data) if data is not None else (loads(text), None)

    def _take(self, message: _Message, payload: Any) -> None:
        """Begin a request. Raises: InputError for a message that is none."""
        kind, name = message.get("type"), message.get("session")
        if kind == "credit":
            self._add_credit(message)
            self._control(
                {
                    "type": "credit",
                    "chunks": self.hub.limits.inbound - self.unanswered,
                    "outputs": self.credit,
                }
            )
            return
        if kind not in (*REQUESTS, "cancel"):
            raise InputError(
                f"type must be one of {', '.join((*REQUESTS, 'cancel', 'credit'))}, got {kind!r:.40}"
            )
        if kind == "open" and name is None:
            name = message["session"] = secrets.token_urlsafe(12)
        name = checked_id(name)
        if kind == "cancel":
            self._cancel(name, message)
            return
        if self.unanswered >= self.hub.limits.inbound:
            most = self.hub.limits.inbound
            refused = Refused(
                "quota",
                f"{most} requests are unanswered, as many as inbound: wait for answers, and give credit",
            )
            self.end = (_POLICY, str(refused))
            raise refused
        if kind == "open":
            self._add_credit(message)
        self.unanswered += 1
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = _Lane()
            task = asyncio.create_task(self._serve(name, lane))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        lane.waiting.append((message, payload))
        lane.wake.set()

    def _add_credit(self, message: _Message) -> None:
        self.credit = min(self.credit + whole(message.get("credit", 0), "credit"), 2**31)
        self.ready.set()

    def _cancel(self, name: str, message: _Message) -> None:
        """Give up the chunks of a session, from a number on, that have not begun: each is answered with an error."""
        first = whole(message.get("seq", 0), "seq")
        lane, given_up, kept = self.lanes.get(name), [], deque[tuple[_Message, Any]]()
        if lane is not None:
            for each in lane.waiting:
                asked = each[0]
                seq = asked.get("seq")
                if asked["type"] in ("chunk", "flush") and isinstance(seq, int) and seq >= first:
                    given_up.append(seq)
                    self._error(
                        Refused("cancelled", f"chunk {seq} of session {name!r} was cancelled"), asked, True
                    )
                else:
                    kept.append(each)
            lane.waiting = kept
            if lane.reading is not None and lane.seq >= first and lane.reading.cancel():
                given_up.insert(0, lane.seq)
        self._ready("cancel", name, message, {"cancelled": given_up}, False)

    async def _serve(self, name: str, lane: _Lane) -> None:
        """Answer the requests of a session, until there are none."""
        while lane.waiting or lane.outs:
            if not lane.waiting or (lane.outs and lane.waiting[0][0]["type"] not in ("chunk", "flush")):
                # What starts a session anew is answered after the outputs from before.
                lane.wake.clear()
                await lane.wake.wait()
                continue
            message, payload = lane.waiting.popleft()
            try:
                await self._answer(name, lane, message, payload)
            except Exception as error:
                self._error(error, message, True)
        del self.lanes[name]

    async def _answer(self, name: str, lane: _Lane, message: _Message, payload: Any) -> None:
        """One request."""
        hub, kind = self.hub, message["type"]
        if kind in ("chunk", "flush"):
            await self._chunk(name, lane, message, message.get("data") if payload is None else payload)
            return
        if kind == "open":
            if message.get("resume"):
                about = await hub.call(hub.about, name)
            else:
                state = _state(message, payload)
                about = await hub.call(hub.open, message.get("model"), name, state, self.client)
            (self.traced.add if message.get("trace") else self.traced.discard)(name)
        elif kind == "reset":
            about = await hub.call(hub.reset, name)
        elif kind == "restore":
            state = _state(message, payload)
            if state is None:
                raise InputError("restore needs a snapshot, as the payload of a binary message, or in base64")
            about = await hub.call(hub.restore, name, state)
        elif kind == "fork":
            found = await hub.call(hub.fork, name, message.get("new"), self.client)
            about = {**found, "id": name, "new": found["id"]}
        elif kind == "snapshot":
            data = await hub.call(hub.snapshot, name)
            self.controls.append(
                (pack(_with_request(message, {"type": "ready", "to": kind, "session": name}), data), True)
            )
            self.ready.set()
            return
        else:
            await hub.call(hub.end, name)
            self.traced.discard(name)
            about = {}
        self._ready(kind, name, message, about, True)

    async def _chunk(self, name: str, lane: _Lane, message: _Message, data: Any) -> None:
        lane.seq, final = whole(message.get("seq"), "seq"), message["type"] == "flush"
        lane.reading = await self.hub.call(self.hub.submit, name, lane.seq, data, final, message.get("ack"))
        try:
            found = await asyncio.wrap_future(lane.reading)
        except asyncio.CancelledError:
            if lane.reading.cancelled() and not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise Refused("cancelled", f"chunk {lane.seq} of session {name!r} was cancelled") from None
            raise
        finally:
            lane.reading = None
        out = dumps(
            _with_request(message, {"type": "out", "session": name, "seq": lane.seq, "answer": found})
        )
        lane.outs += 1
        self.outs.append((out, lane))
        self.ready.set()
        if name in self.traced:
            await self._trace(name, lane.seq)

    async def _trace(self, name: str, seq: int) -> None:
        """How large a session's state is; left out where the client is behind."""
        if self.credit < len(self.outs) or len(self.traces) + len(self.controls) >= _TRACES:
            self.hub.counts.add("throughtime_traces_dropped_total")
            return
        self.traces.append(
            dumps(
                {
                    "type": "trace",
                    "session": name,
                    "seq": seq,
                    "state": await self.hub.call(self.hub.trace, name),
                }
            )
        )
        self.ready.set()

    async def _write(self) -> None:
        """Send what may be sent: answers first, outputs as credit allows, traces when nothing else waits."""
        while True:
            if self.controls:
                message, answers = self.controls.popleft()
                self.unanswered -= answers
            elif self.outs and self.credit:
                message, lane = self.outs.popleft()
                self.credit -= 1
                self.unanswered -= 1
                lane.outs -= 1
                lane.wake.set()
            elif self.traces:
                message = self.traces.popleft()
            elif self.end is not None:
                await self.websocket.close(self.end[0], self.end[1][:120])
                return
            else:
                self.ready.clear()
                await self.ready.wait()
                continue
            if isinstance(message, bytes):
                await self.websocket.send_bytes(message)
            else:
                await self.websocket.send_text(message)
            self.drained.set()

    def _control(self, message: _Message, answers: bool = False) -> None:
        self.controls.append((dumps(message), answers))
        self.ready.set()

    def _ready(self, to: str, name: str, message: _Message, about: dict[str, Any], answers: bool) -> None:
        known: _Message = {
            key: about[key] for key in ("model", "seq", "steps", "new", "cancelled") if key in about
        }
        self._control(_with_request(message, {"type": "ready", "to": to, "session": name, **known}), answers)

    def _error(self, error: Exception, message: _Message, answers: bool = False) -> None:
        found = self.hub.refused(error)
        about = {key: message[key] for key in ("session", "seq") if isinstance(message.get(key), (str, int))}
        self._control(
            _with_request(
                message, {"type": "error", **about, "cause": found.cause, "message": found.message}
            ),
            answers,
        )


def _with_request(message: _Message, answer: _Message) -> _Message:
    """An answer with the tag of its request, where it had one."""
    tag = message.get("request")
    return {**answer, "request": tag} if isinstance(tag, (str, int)) else answer


def _state(message: _Message, payload: Any) -> bytes | None:
    """The snapshot that came with a message."""
    if payload is not None:
        if not isinstance(payload, bytes):
            raise InputError("the payload must be a snapshot, with dtype 'bytes', got numbers")
        return payload
    return None if message.get("snapshot") is None else snapshot_bytes(message["snapshot"])
