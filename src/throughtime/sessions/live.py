"""The sessions of a pool that are in memory, and their copies in the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from throughtime.errors import SessionError
from throughtime.sessions.engine import Engine
from throughtime.sessions.processor import Carried, Processor
from throughtime.sessions.snapshot import Snapshot, processor_name
from throughtime.sessions.store import Entry, Store

_FIRST_SLOTS = 64


@dataclass(eq=False, slots=True)
class Session:
    name: str
    slot: int
    used: float  # when it was last used
    seq: int = 0  # the last chunk that was read
    steps: int = 0
    last: Any = None  # its answer: the outputs, or what the processor made of them
    carried: Carried = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    busy: bool = False  # a chunk is being read
    version: str = ""  # which the store gave to what it has of the session
    handed_out: bool = False  # `extra`, which may have changed since


class Elsewhere(SessionError):
    """The store has a session as another pool continued it."""

    def __init__(self, name: str) -> None:
        super().__init__("busy", f"another pool is reading chunks of session {name!r}: wait, and ask again")


class Live:
    """Sessions with a slot each; the longest unused move to the store where there is no room for another.

    It has no lock of its own: the pool holds its lock in every call but `save`, whose sessions are busy.
    Args: at_once, how many are put into the store in one call; running, held while slots change; others as of SessionPool.
    """

    def __init__(
        self,
        engine: Engine,
        processor: Processor | None,
        store: Store | None,
        *,
        max_live: int,
        at_once: int,
        expire_s: float,
        save_every: int,
        clock: Callable[[], float],
        running: threading.Lock,
    ) -> None:
        self.engine, self.processor, self.store = engine, processor, store
        self.max_live, self.at_once, self.expire_s = max_live, at_once, expire_s
        self.save_every, self.clock, self.running = save_every, clock, running
        self.shared = (
            save_every == 1
        )  # the store has every session as of its last chunk, and what it has counts
        self.sessions: dict[str, Session] = {}  # the longest unused first
        self.free: list[int] = []  # slots
        self.counts = {"moved": 0, "taken_up": 0, "stale": 0, "refused": 0}

    def fresh(self, id: str) -> Session | None:
        """A session in memory; one that another pool has continued or closed is forgotten."""
        session = self.sessions.get(id)
        if session is not None and not session.busy and self.shared:
            assert self.store is not None
            if self.store.version(id) != session.version:
                self.forget(session, Elsewhere(id))
                return None
        return session

    def next_seq(self, id: str) -> int:
        """The number of the next chunk of a session in memory."""
        session = self.sessions.get(id)
        return 0 if session is None else session.seq + 1

    def idle(self, id: str, check: bool = True) -> Session:
        """A session that no chunk is being read of, from memory or from the store; it is the last used from now on.

        Args: check: that no other pool has continued it; a chunk that is next is read without, as storing it checks that.
        """
        session = self.fresh(id) if check else self.sessions.get(id)
        if session is None:
            stored = None
            if self.store is not None:
                try:
                    stored = self.store.get(id)
                except SessionError:
                    self.counts["refused"] += 1
                    raise
            if stored is None:
                raise self.unknown(id)
            session = self.place(id, self.parsed(stored.data))
            session.version = stored.version
            self.counts["taken_up"] += 1
        if session.busy:
            raise self.busy(id)
        self.sessions[id] = self.sessions.pop(id)  # now the last used
        return session

    def place(self, name: str, snapshot: Snapshot | None) -> Session:
        """A session with a slot of its own, where the snapshot was taken or before the first step."""
        if len(self.sessions) >= self.max_live:
            oldest = next((each for each in self.sessions.values() if not each.busy), None)
            if self.store is None or oldest is None:
                raise self.refused(
                    "full",
                    f"{self.max_live} sessions are open, as many as max_live: close some, or give a store",
                )
            self.move([oldest])
        with self.running:
            if not self.free:
                before = self.engine.slots
                self.engine.grow(min(max(_FIRST_SLOTS, 2 * before), max(self.max_live, before + 1)))
                self.free += range(self.engine.slots - 1, before - 1, -1)
            slot = self.free.pop()
            self.engine.write(slot, None)
        session = self.sessions[name] = Session(name, slot, self.clock())
        if snapshot is not None:
            try:
                self.take(session, snapshot)
            except SessionError:
                self.forget(session)
                raise
        return session

    def take(self, session: Session, snapshot: Snapshot) -> None:
        """Set a session to where a snapshot was taken. Raises: SessionError for a state of another form; it is unchanged then."""
        with self.running:
            self.engine.write(session.slot, snapshot.state)
        session.seq, session.steps, session.carried = snapshot.seq, snapshot.steps, snapshot.carried
        session.last = snapshot.last if self.processor is None else snapshot.answer
        session.extra = dict(snapshot.extra)

    def keep(self, session: Session) -> None:
        """After a change without a chunk. Raises: what the store raises; the session is as the store has it then."""
        if self.save_every:
            (error,) = self.save([session])
            if error is not None:
                if self.shared:
                    self.forget(session, error)
                raise error

    def parsed(self, data: bytes) -> Snapshot:
        """A snapshot of this model and processor. Raises: SessionError for another one."""
        snapshot = Snapshot.from_bytes(data)
        snapshot.check(self.engine.identity, self.processor)
        return snapshot

    def data(self, session: Session) -> bytes:
        """A snapshot of a session. Raises: InputError where what is kept with it is not JSON."""
        with self.running:
            state = self.engine.read(session.slot)
        plain = self.processor is None
        return Snapshot(
            self.engine.identity,
            state,
            session.seq,
            session.steps,
            session.last if plain else None,
            session.extra,
            processor_name(self.processor),
            session.carried,
            None if plain else session.last,
        ).to_bytes()

    def save(self, sessions: Sequence[Session]) -> list[Exception | None]:
        """Put sessions into the store in one call: why each could not be kept, or None."""
        errors: list[Exception | None] = [None] * len(sessions)
        entries = {}
        for n, session in enumerate(sessions):
            try:
                after = session.version if self.shared else None
                entries[n] = Entry(session.name, self.data(session), after)
            except Exception as error:  # what is kept with it is not JSON
                errors[n] = error
        if not entries:
            return errors
        assert self.store is not None
        try:
            versions = self.store.put_many(list(entries.values()), self.expire_s)
        except Exception as error:
            return [each or error for each in errors]
        for n, version in zip(entries, versions, strict=True):
            if version is None:
                errors[n] = Elsewhere(sessions[n].name)
            else:
                sessions[n].version, sessions[n].handed_out = version, False
        return errors

    def move(self, sessions: Sequence[Session]) -> None:
        """Out of memory, into the store. Raises: the first error, where the store could not keep some; those stay."""
        failed: Exception | None = None
        for start in range(0, len(sessions), self.at_once):
            part = sessions[start : start + self.at_once]
            # With save_every=1 the store has them already.
            unsaved = [each for each in part if not self.shared or each.handed_out]
            errors = dict(zip(unsaved, self.save(unsaved), strict=True))
            for each in part:
                error = errors.get(each)
                if error is None or isinstance(error, Elsewhere):
                    self.forget(each)
                    self.counts["moved"] += 1
                else:
                    failed = failed or error
        if failed is not None:
            raise failed

    def forget(self, session: Session, why: Exception | None = None) -> None:
        """Free its memory; the store is not touched."""
        if isinstance(why, Elsewhere):
            self.counts["stale"] += 1
        if self.sessions.get(session.name) is session:
            self.free.append(session.slot)
            del self.sessions[session.name]

    def in_store(self, name: str) -> bool:
        """Whether the store has it; one that has expired it has not."""
        return self.store is not None and self.store.version(name) != ""

    def in_use(self, id: str) -> SessionError:
        return self.refused("busy", f"session {id!r} is open already: close it, or choose another id")

    def busy(self, id: str) -> SessionError:
        return self.refused("busy", f"a chunk of session {id!r} is being read: wait for its outputs")

    def unknown(self, id: str) -> SessionError:
        return self.refused("unknown", f"there is no session {id!r}: open it first")

    def refused(self, cause: str, message: str) -> SessionError:
        """An error, counted."""
        self.counts["refused"] += 1
        return SessionError(cause, message)
