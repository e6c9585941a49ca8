"""Where sessions are kept that are not in memory."""

from __future__ import annotations

import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from throughtime.errors import RunError, SessionError


class Store(ABC):
    """Snapshots by session, until they expire. Threads may share one."""

    @abstractmethod
    def put(self, session: str, data: bytes, seconds: float) -> None:
        """Keep a snapshot for so many seconds, instead of an older one."""

    @abstractmethod
    def get(self, session: str) -> bytes | None:
        """The snapshot; None where there never was one. Raises: SessionError "expired" where it has expired."""

    @abstractmethod
    def delete(self, session: str) -> bool:
        """Forget a session; whether it was there."""

    @abstractmethod
    def sessions(self) -> Iterator[str]:
        """Those that have not expired."""

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
                "CREATE TABLE IF NOT EXISTS sessions (name TEXT PRIMARY KEY, data BLOB, expires REAL, forget REAL)"
            )
            self._connection.execute("SELECT name, data, expires, forget FROM sessions LIMIT 1")
        except sqlite3.Error as error:
            raise RunError(f"{path} cannot be used as a store of sessions: {error}") from None

    def _now(self) -> float:
        return float(self._clock())  # type: ignore[operator]

    def put(self, session: str, data: bytes, seconds: float) -> None:
        now = self._now()
        with self._lock:
            self._connection.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)",
                (session, data, now + seconds, now + 2 * seconds),
            )

    def get(self, session: str) -> bytes | None:
        with self._lock:
            row = self._connection.execute(
                "SELECT data, expires FROM sessions WHERE name = ?", (session,)
            ).fetchone()
        if row is None:
            return None
        if row[0] is None or row[1] < self._now():
            raise SessionError("expired", f"session {session!r} has expired: open a new one")
        return bytes(row[0])

    def delete(self, session: str) -> bool:
        with self._lock:
            return self._connection.execute("DELETE FROM sessions WHERE name = ?", (session,)).rowcount > 0

    def sessions(self) -> Iterator[str]:
        with self._lock:
            rows = self._connection.execute(
                "SELECT name FROM sessions WHERE expires >= ?", (self._now(),)
            ).fetchall()
        return (row[0] for row in rows)

    def sweep(self) -> int:
        """Free what has expired; how many sessions."""
        now = self._now()
        with self._lock:
            freed = self._connection.execute(
                "UPDATE sessions SET data = NULL WHERE expires < ? AND data IS NOT NULL", (now,)
            ).rowcount
            self._connection.execute("DELETE FROM sessions WHERE forget < ?", (now,))
        return freed

    def close(self) -> None:
        with self._lock:
            self._connection.close()
