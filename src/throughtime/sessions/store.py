"""Where sessions are kept that are not in memory."""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from throughtime.errors import InputError, RunError, SessionError


class Stored(NamedTuple):
    """A snapshot as the store has it. Every put gives it a new version, which no other put gave."""

    data: bytes
    version: str


class Entry(NamedTuple):
    """A snapshot to put. after: the version that it replaces, "" where there must be none; None: whatever is there."""

    session: str
    data: bytes
    after: str | None = None


class Store(ABC):
    """Snapshots by session, until they expire. Threads may share one, and so may processes, each with its own object.

    All methods raise SessionError "store" where the store cannot be reached or refuses; nothing is known then of what was put.
    """

    @abstractmethod
    def put_many(self, entries: Sequence[Entry], seconds: float) -> list[str | None]:
        """Keep snapshots for so many seconds: the new version of each, or None where the store has another than `after`.

        Comparing and keeping is one step: of two puts after the same version one is kept. What is not kept changes nothing.
        """

    @abstractmethod
    def get(self, session: str) -> Stored | None:
        """The snapshot; None where there never was one. Raises: SessionError "expired" where it has expired."""

    @abstractmethod
    def version(self, session: str) -> str:
        """The version of a snapshot, without its data; "" where there is none or it has expired."""

    @abstractmethod
    def delete(self, session: str) -> bool:
        """Forget a session; whether it was there."""

    @abstractmethod
    def sessions(self) -> Iterator[str]:
        """Those that have not expired."""

    def put(self, session: str, data: bytes, seconds: float, after: str | None = None) -> str | None:
        """`put_many` of one."""
        return self.put_many([Entry(session, data, after)], seconds)[0]

    def sweep(self) -> int:
        """Free what has expired; how many sessions. For stores that do not free it by themselves."""
        return 0

    def close(self) -> None:  # noqa: B027  most stores need none
        """Finish; the store is not used afterwards."""


class SqliteStore(Store):
    """Sessions in one file, which several processes of a machine may share. A process that is killed loses nothing that was put.

    Of a session that expired the name stays for as long again, so that it is told from one that never was.
    Raises: RunError for a file that cannot be opened or is no such store.
    """

    def __init__(self, path: str | Path, clock: object = time.time) -> None:
        self.path, self._clock, self._lock = Path(path), clock, threading.Lock()
        try:
            self._connection = sqlite3.connect(
                self.path, check_same_thread=False, isolation_level=None, timeout=30
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS sessions "
                "(name TEXT PRIMARY KEY, version TEXT, expires REAL, forget REAL, data BLOB)"
            )  # data last: what stands before it is read without it
            self._connection.execute("SELECT name, version, expires, forget, data FROM sessions LIMIT 1")
        except sqlite3.Error as error:
            raise RunError(f"{path} cannot be used as a store of sessions: {error}") from None

    def _now(self) -> float:
        return float(self._clock())  # type: ignore[operator]

    def put_many(self, entries: Sequence[Entry], seconds: float) -> list[str | None]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    now = self._now()
                    versions = [self._put(entry, now, seconds) for entry in entries]
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise self._failed(error) from None
        return versions

    def _put(self, entry: Entry, now: float, seconds: float) -> str | None:
        if entry.after is not None:
            row = self._connection.execute(
                "SELECT version FROM sessions WHERE name = ? AND expires >= ?", (entry.session, now)
            ).fetchone()
            if entry.after != ("" if row is None else row[0]):
                return None
        version = new_version()
        self._connection.execute(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)",
            (entry.session, version, now + seconds, now + 2 * seconds, entry.data),
        )
        return version

    def get(self, session: str) -> Stored | None:
        rows = self._rows("SELECT data, version, expires FROM sessions WHERE name = ?", session)
        if not rows:
            return None
        data, version, expires = rows[0]
        if data is None or expires < self._now():
            raise expired(session)
        return Stored(bytes(data), version)

    def version(self, session: str) -> str:
        rows = self._rows(
            "SELECT version FROM sessions WHERE name = ? AND expires >= ?", session, self._now()
        )
        return rows[0][0] if rows else ""

    def delete(self, session: str) -> bool:
        return bool(self._rows("DELETE FROM sessions WHERE name = ? RETURNING 1", session))

    def sessions(self) -> Iterator[str]:
        rows = self._rows("SELECT name FROM sessions WHERE expires >= ?", self._now())
        return (row[0] for row in rows)

    def sweep(self) -> int:
        """Free what has expired; how many sessions."""
        now = self._now()
        freed = self._rows(
            "UPDATE sessions SET data = NULL WHERE expires < ? AND data IS NOT NULL RETURNING 1", now
        )
        self._rows("DELETE FROM sessions WHERE forget < ?", now)
        return len(freed)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise self._failed(error) from None

    def _failed(self, error: sqlite3.Error) -> SessionError:
        return SessionError("store", f"the store {self.path} cannot be used: {error}")


def new_version() -> str:
    """One that no other put gave."""
    return secrets.token_hex(8)


def expired(session: str) -> SessionError:
    """What `Store.get` raises."""
    return SessionError("expired", f"session {session!r} has expired: open a new one")


def store_of(url: str) -> Store:
    """The store at an address: valkey://host:port/db or redis://..., else the path of a file of SqliteStore.

    Raises: InputError for another kind of address; RunError for a store that cannot be opened or reached.
    """
    scheme, mark, _ = url.partition("://")
    if not mark:
        return SqliteStore(url)
    from throughtime.sessions.valkey_store import SCHEMES, ValkeyStore

    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise InputError(f"a store must be a path or begin with one of {known}, got {url!r}")
    return ValkeyStore(url)
