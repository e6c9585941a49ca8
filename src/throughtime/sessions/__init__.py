"""Models in the middle of sequences: one stream, or many at a time in a pool; snapshots of states, and where they are kept."""

from throughtime.sessions.engine import Engine, engine_of
from throughtime.sessions.pool import SessionPool
from throughtime.sessions.processor import Processor
from throughtime.sessions.snapshot import Snapshot
from throughtime.sessions.store import SqliteStore, Store, store_of
from throughtime.sessions.stream import Stream, stream
from throughtime.sessions.valkey_store import ValkeyStore

__all__ = [
    "Engine",
    "Processor",
    "SessionPool",
    "Snapshot",
    "SqliteStore",
    "Store",
    "Stream",
    "ValkeyStore",
    "engine_of",
    "store_of",
    "stream",
]
