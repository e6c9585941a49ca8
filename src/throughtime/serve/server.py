"""Runs a server: in this process until it is told to stop, or beside other work in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn

from throughtime.errors import InputError
from throughtime.runtime.trained import Trained, load
from throughtime.serve.app import create_app
from throughtime.serve.gate import check_token
from throughtime.serve.hub import Hub
from throughtime.serve.settings import Limits
from throughtime.sessions.store import Store


def serve(
    runs: Sequence[str | Path | Trained],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    store: Store | None = None,
    started: Callable[[str, Hub], None] | None = None,
) -> int:
    """Serve trained runs until SIGTERM or Ctrl-C; every session is then saved. How many were.

    Args:
        runs: folders, or runs that were loaded.
        port: 0 is any that is free.
        token: that every request must bring; needed where `host` is not this machine's own.
        limits, store: see `Limits`; a store goes before the one that limits name.
        started: called with the address and the hub once requests are answered.

    Raises: InputError and RunError for runs, an address or a store that cannot be used; SessionError "store" where sessions could
    not be saved in the end.
    """
    check_token(host, token)
    hub = Hub(
        [load(each) if isinstance(each, (str, Path)) else each for each in runs], limits or Limits(), store
    )
    listener = _listener(host, port)
    server = _Server(_config(hub, token))
    # Else Python's collector looks through all that was imported now and then, which takes a tenth of a second.
    gc.collect()
    gc.freeze()

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            server.force_exit = server.should_exit  # the second time, at once
            hub.closing = server.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        if started is not None:
            started(_url(listener), hub)
        await server.serve([listener])

    asyncio.run(run())
    return hub.close()


@contextlib.contextmanager
def running(
    runs: Sequence[str | Path | Trained],
    *,
    port: int = 0,
    token: str | None = None,
    limits: Limits | None = None,
    store: Store | None = None,
) -> Iterator[str]:
    """A server in a thread of this process, as for a notebook or a test; gives its address.

    Arguments as of `serve`; it stops, every session saved, where the block ends.
    """
    hub = Hub(
        [load(each) if isinstance(each, (str, Path)) else each for each in runs], limits or Limits(), store
    )
    listener = _listener("127.0.0.1", port)
    server = _Server(_config(hub, token))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), name="throughtime server")
    thread.start()
    try:
        yield _url(listener)
    finally:
        hub.closing = server.should_exit = True
        thread.join()
        hub.close()


class _Server(uvicorn.Server):
    """Leaves signals alone: `serve` has its own way to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(hub: Hub, token: str | None) -> uvicorn.Config:
    limits = hub.limits
    return uvicorn.Config(
        create_app(hub, token),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=limits.max_message,
        ws_ping_interval=limits.ping_s,
        ws_ping_timeout=limits.ping_s,
        ws_per_message_deflate=False,  # answers are short, and it takes time and memory for each connection
        timeout_graceful_shutdown=max(1, round(limits.grace_s)),
    )


def _listener(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on. Raises: InputError for an address that cannot be used."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"cannot listen on {host}:{port}: {error}; choose another --host or --port"
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise InputError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; choose another --port"
        ) from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
