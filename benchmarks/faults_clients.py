"""Clients that do to a server what networks do, and check every answer; see benchmarks/faults.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.faults_connection import GONE, LATER, Connection, Lost, Remote

# What a client does next, and how often in 1,000 times.
ACTIONS = {
    "feed": 640, "feed over HTTP": 60, "chunk sent twice": 50, "chunk left out": 40, "socket killed": 40,
    "half a request": 20, "bad data": 20, "cancelled": 20, "slow reader": 10, "moved to a new socket": 20,
    "snapshot": 30, "restore": 20, "fork": 10, "reset": 10, "close and open": 10,
}  # fmt: skip


class Client(Connection):
    """Does one thing after the other; a crowd has many clients."""

    async def work(self) -> None:
        """Act on sessions until the crowd's end."""
        actions: dict[str, Callable[[Remote], Awaitable[None]]] = {
            "feed": self.feed, "feed over HTTP": self.over_http, "chunk sent twice": self.twice,
            "chunk left out": self.left_out, "socket killed": self.killed, "half a request": self.half,
            "bad data": self.bad, "cancelled": self.cancelled, "slow reader": self.slow,
            "moved to a new socket": self.moved, "snapshot": self.snapshot, "restore": self.restore,
            "fork": self.fork, "reset": self.reset, "close and open": self.replaced,
        }  # fmt: skip
        crowd = self.crowd
        while time.monotonic() < crowd.end:
            session = crowd.take()
            if session is None:
                await asyncio.sleep(0.01)
                continue
            (what,) = crowd.draws.choices(list(ACTIONS), list(ACTIONS.values()))
            await self.guarded(what, session, actions[what])
        await self.leave()

    async def guarded(self, what: str, session: Remote, action: Callable[[Remote], Awaitable[None]]) -> None:
        """One action; the session comes back, or another in its place where it was lost."""
        crowd = self.crowd
        try:
            await action(session)
            crowd.report.did[what] += 1
        except Lost as error:
            lost = error.session or session
            unused = time.monotonic() - lost.touched
            if "expired" in str(error) and unused > 0.8 * crowd.expire_s:
                crowd.report.did["expired, as nobody drew it"] += 1
            else:
                crowd.report.lost.append(f"{what}, unused for {unused:.1f} s: {error}")
            if lost is session:
                session = crowd.new()
                await self.open(session)
        crowd.idle.append(session)

    # What is asked of the server

    async def open(self, session: Remote, state: bytes | None = None) -> None:
        message = {"type": "open", "session": session.name}
        answer = await self.ask(message, state, forgiven="busy")
        if answer["type"] == "error" and not self.again:
            raise Lost(answer["message"])
        session.touched = time.monotonic()

    async def feed(self, session: Remote) -> None:
        self.prepare(session)
        began, port = time.monotonic(), self.port
        answer = await self.ask(self.chunk(session))
        if not self.again and port == self.port and began > self.crowd.disturbed:
            self.crowd.report.waits.append(time.monotonic() - began)
        self.check(session, answer)

    async def over_http(self, session: Remote) -> None:
        self.prepare(session)
        began = time.monotonic()
        while True:
            found = await self.http(session, json.dumps({"seq": session.seq, "data": session.last}))
            if found is not None:
                error = found.get("error", {})
                self.cause = error.get("code", "")
                if self.cause not in LATER:
                    break
            await self.pause(began)
        self.check(session, {**error, "cause": self.cause} if error else found)

    async def twice(self, session: Remote) -> None:
        self.prepare(session)
        chunk = self.chunk(session)
        with contextlib.suppress(*GONE):
            first, second = await self.send(chunk), await self.send(chunk)
            for tag in (first, second):
                answer = await self.receive(tag)
                if answer.get("cause") not in LATER:
                    self.check(session, answer)
            return
        self.check(session, await self.ask(chunk))

    async def left_out(self, session: Remote) -> None:
        ahead = session.seq + self.crowd.draws.randint(2, 9)
        await self.refusal({"type": "chunk", "session": session.name, "seq": ahead, "data": "x"}, "sequence")
        await self.feed(session)

    async def bad(self, session: Remote) -> None:
        await self.refusal(
            {"type": "chunk", "session": session.name, "seq": session.seq + 1, "data": 17}, "input"
        )
        await self.feed(session)

    async def killed(self, session: Remote) -> None:
        self.prepare(session)
        with contextlib.suppress(*GONE):
            await self.send(self.chunk(session))
            await asyncio.sleep(self.crowd.draws.choice((0.0, 0.001, 0.01)))
            self.abort()
        self.check(session, await self.ask(self.chunk(session)))

    async def half(self, session: Remote) -> None:
        body = json.dumps({"seq": session.seq + 1, "data": "never complete"})
        await self.http(session, body, send=self.crowd.draws.randint(1, len(body) - 1))
        await self.feed(session)

    async def cancelled(self, session: Remote) -> None:
        self.prepare(session)
        chunk = self.chunk(session)
        with contextlib.suppress(*GONE):
            tag = await self.send(chunk)
            other = await self.send({"type": "cancel", "session": session.name, "seq": session.seq})
            answer = await self.receive(tag, other)
            if answer["type"] == "out" or answer["cause"] not in {*LATER, "cancelled"}:
                self.check(session, answer)
            await self.receive(other, tag)
        self.check(session, await self.ask(chunk))  # read now, or given again

    async def slow(self, session: Remote) -> None:
        """Sends chunks of several sessions and reads no answer for a while."""
        crowd = self.crowd
        several = [session, *(each for _ in range(11) if (each := crowd.take()))]
        for each in several:
            self.prepare(each)
        tags = {}
        try:
            with contextlib.suppress(*GONE):
                for each in several:
                    tags[await self.send(self.chunk(each))] = each
                assert self.socket is not None
                self.socket.transport.pause_reading()
                await asyncio.sleep(crowd.draws.uniform(0.1, 1.0))
                self.socket.transport.resume_reading()
                for tag, each in list(tags.items()):
                    answer = await self.receive(tag, *tags)
                    if answer["type"] == "out":
                        self.check(each, answer)
            errors = []
            for each in several:  # those that broke; the others are asked for again
                try:
                    self.check(each, await self.ask(self.chunk(each)))
                except Lost as error:
                    errors.append(error)
            if errors:
                raise errors[0]
        finally:
            crowd.idle += several[1:]

    async def moved(self, session: Remote) -> None:
        """The client goes and comes back, and resumes the session where the server is."""
        await self.leave()
        answer = await self.ask({"type": "open", "session": session.name, "resume": True})
        if answer.get("seq") != session.seq:
            raise Lost(f"resumed at {answer}, should be at chunk {session.seq}")
        await self.feed(session)

    async def snapshot(self, session: Remote) -> None:
        answer = await self.ask({"type": "snapshot", "session": session.name})
        self.must_be(answer, "ready")
        session.saved = (
            answer["payload"],
            session.reference.fork(),
            session.seq,
            session.expected,
            session.last,
        )

    async def restore(self, session: Remote) -> None:
        if session.saved is None:
            await self.snapshot(session)
            await self.feed(session)
        assert session.saved is not None
        data, reference, seq, expected, last = session.saved
        answer = await self.ask({"type": "restore", "session": session.name}, data)
        self.must_be(answer, "ready")
        session.reference, session.seq, session.expected, session.last = reference.fork(), seq, expected, last
        await self.feed(session)

    async def fork(self, session: Remote) -> None:
        """The fork takes the place of another session, which is closed."""
        other = self.crowd.take()
        if other is None:
            return
        try:
            await self.close(other)
            twin = Remote(
                secrets.token_hex(8), session.reference.fork(), session.seq, session.expected, session.last
            )
            answer = await self.ask(
                {"type": "fork", "session": session.name, "new": twin.name}, forgiven="busy"
            )
            if answer["type"] == "error" and not self.again:
                other = self.crowd.new()
                await self.open(other)
                raise Lost(answer["message"])
            other = twin
            await self.feed(other)
        finally:
            self.crowd.idle.append(other)

    async def reset(self, session: Remote) -> None:
        self.must_be(await self.ask({"type": "reset", "session": session.name}), "ready")
        session.reference.reset()
        session.seq, session.expected = 0, None
        await self.feed(session)

    async def replaced(self, session: Remote) -> None:
        await self.close(session)
        new = self.crowd.new()
        session.name, session.reference, session.seq, session.saved = new.name, new.reference, 0, None
        await self.open(session)
        await self.feed(session)

    async def close(self, session: Remote) -> None:
        answer = await self.ask({"type": "close", "session": session.name}, forgiven="unknown")
        if answer["type"] == "error" and not self.again:
            raise Lost(answer["message"], session)

    async def refusal(self, message: dict[str, Any], cause: str) -> None:
        answer = await self.ask(message, forgiven=cause)
        if answer.get("cause") != cause:
            raise Lost(f"{message} should be refused with {cause!r}, got {answer}")

    # Chunks and answers

    def prepare(self, session: Remote) -> None:
        """The next chunk of a session, and its expected answer."""
        session.last = self.crowd.text()
        session.expected = session.reference.feed(session.last)
        session.seq += 1

    def chunk(self, session: Remote) -> dict[str, Any]:
        return {"type": "chunk", "session": session.name, "seq": session.seq, "data": session.last}

    def check(self, session: Remote, answer: dict[str, Any]) -> None:
        """Raises: Lost for an error."""
        report = self.crowd.report
        if "answer" not in answer:
            what = f"{answer.get('cause')}: {answer.get('message')}"
            raise Lost(f"chunk {session.seq} of {session.name}: {what}", session)
        report.chunks += 1
        session.touched = time.monotonic()
        if (
            answer["answer"] != session.expected
            or answer["session"] != session.name
            or answer["seq"] != session.seq
        ):
            report.mixed.append(
                f"chunk {session.seq} of {session.name}: {str(answer)[:200]}, expected {str(session.expected)[:200]}"
            )

    def must_be(self, answer: dict[str, Any], kind: str) -> None:
        if answer["type"] != kind:
            raise Lost(str(answer))
