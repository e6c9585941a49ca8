"""The limits of a server: each field is an option of `throughtime serve`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from throughtime.options import Settings, option

_SESSIONS, _MESSAGES, _CLIENTS = "Sessions", "Messages", "Clients and connections"


@dataclass(frozen=True)
class Limits(Settings):
    """What a server allows, and for how long it keeps sessions."""

    section: ClassVar[str] = "serve"

    store: str | None = option(
        None, "Where sessions are kept that are not in memory, also over a restart: a file (sqlite), or valkey://host:port for "
        "several servers. Default: in the process's memory.", metavar="STORE", panel=_SESSIONS,
    )  # fmt: skip
    save_every: int | None = option(
        None, "Also save a session after every N chunks, before the answer is sent; 1 loses nothing when the server is killed, "
        "0 saves it when it leaves memory. Default: 1 with --store, else 0.", metavar="N", low=0, panel=_SESSIONS,
    )  # fmt: skip
    max_live: int = option(10_000, "Sessions of a model in memory; the longest unused move to the store.",
                           metavar="N", low=1, panel=_SESSIONS)  # fmt: skip
    max_batch: int = option(256, "Chunks in one call of the model.", metavar="N", low=1, panel=_SESSIONS)
    max_wait_ms: float = option(
        2.0, "Milliseconds that a chunk waits for others while nothing runs.", metavar="MS", low=0, panel=_SESSIONS
    )  # fmt: skip
    weights: str = option(
        "float32", "float32, or rounded to bf16 or int8 for sessions and completions: large models are two to three times as "
        "fast.", metavar="NAME", choices=("float32", "bf16", "int8"), panel=_SESSIONS,
    )  # fmt: skip
    idle_s: float = option(300.0, "Seconds after which an unused session moves to the store.", metavar="S", above=0,
                           panel=_SESSIONS)  # fmt: skip
    expire_s: float = option(
        86_400.0, "Seconds that the store keeps a session.", metavar="S", above=0, panel=_SESSIONS
    )

    max_message: int = option(
        1_048_576, "Bytes of a request or a message.", metavar="BYTES", low=1024, panel=_MESSAGES
    )
    inbound: int = option(
        32, "Unanswered requests of a WebSocket; one more closes it.", metavar="N", low=1, panel=_MESSAGES
    )
    outbound: int = option(
        64, "Messages that wait to be sent to a WebSocket; while there are more, nothing is read from it.",
        metavar="N", low=1, panel=_MESSAGES,
    )  # fmt: skip
    ping_s: float = option(20.0, "Seconds between pings; a WebSocket that does not answer one for as long is closed.",
                           metavar="S", above=0, panel=_MESSAGES)  # fmt: skip
    max_tokens: int = option(4096, "Symbols of a completion.", metavar="N", low=1, panel=_MESSAGES)
    max_records: int = option(1000, "Records of a prediction.", metavar="N", low=1, panel=_MESSAGES)

    origin: tuple[str, ...] = option(
        (), "Let pages of this origin call, as https://example.org; repeat for more. Pages that the server serves itself may.",
        metavar="URL", panel=_CLIENTS,
    )  # fmt: skip
    max_connections: int = option(
        1000, "WebSockets at a time, and requests over HTTP.", metavar="N", low=1, panel=_CLIENTS
    )
    client_connections: int = option(
        100, "WebSockets of one address at a time.", metavar="N", low=1, panel=_CLIENTS
    )
    open_rate: int = option(6000, "Sessions that one address may open in a minute; 0: any number.", metavar="N", low=0,
                            panel=_CLIENTS)  # fmt: skip
    jobs: int = option(
        64, "Predictions and completions under way or waiting.", metavar="N", low=1, panel=_CLIENTS
    )
    workers: int = option(
        2, "Predictions and completions computed at a time.", metavar="N", low=1, high=256, panel=_CLIENTS
    )
    grace_s: float = option(10.0, "Seconds that a server that is stopped waits for answers under way.", metavar="S", low=0,
                            panel=_CLIENTS)  # fmt: skip
