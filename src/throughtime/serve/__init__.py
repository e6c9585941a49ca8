"""A server of trained runs over HTTP and WebSocket, and a client for it. Needs the extra `serve`.

with throughtime.serve.Client("http://127.0.0.1:8000") as client:
    session = client.open()
    answer = session.feed("some text")

Names are imported on first use, and starlette, uvicorn and websockets with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.serve.app import create_app
    from throughtime.serve.client import Client, RemoteSession
    from throughtime.serve.server import running, serve
    from throughtime.serve.settings import Limits

_HOMES = {
    "Client": "client",
    "Limits": "settings",
    "RemoteSession": "client",
    "create_app": "app",
    "running": "server",
    "serve": "server",
}

__all__ = ["Client", "Limits", "RemoteSession", "create_app", "running", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'throughtime.serve' has no attribute {name!r}")
    try:
        home = importlib.import_module(f"throughtime.serve.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "websockets"):
            raise
        raise InputError(
            f"serving needs {error.name}, which is not installed: pip install 'throughtime[serve]'"
        ) from None
    return getattr(home, name)
