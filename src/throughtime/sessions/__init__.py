"""Models in the middle of sequences: one stream, or many at a time in a pool; snapshots of states, and where they are kept."""

from throughtime.sessions.engine import Engine, engine_of
from throughtime.sessions.pool import SessionPool
from throughtime.sessions.processor import Processor
from throughtime.sessions.snapshot import Snapshot
from throughtime.sessions.store import SqliteStore, Store
from throughtime.sessions.stream import Stream, stream

__all__ = [
    "Engine",
    "Processor",
    "SessionPool",
    "Snapshot",
    "SqliteStore",
    "Store",
    "Stream",
    "engine_of",
    "stream",
]
