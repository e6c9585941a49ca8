"""What every request passes first: where it comes from, its token, and how many bytes it may have."""

from __future__ import annotations

import hmac
import ipaddress
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from throughtime.errors import InputError, ThroughtimeError
from throughtime.serve.hub import Hub
from throughtime.serve.refusals import Refused, refusal_of
from throughtime.serve.wire import dumps

OPEN_PATHS = (
    "/",
    "/healthz",
)  # without a token: the page itself, which holds no data, and whether the server lives
PROTOCOL = "throughtime"  # of WebSockets; a page adds "bearer.TOKEN", since it cannot set headers


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None) -> None:
    """Raises: InputError where a server that others reach has no token, or a token is not one that a header can carry."""
    if token is not None and (
        len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token
    ):
        raise InputError("the token must be at least 8 ASCII characters without spaces")
    if token is None and not is_loopback(host):
        raise InputError(
            f"host {host} can be reached from other machines, which needs a token: set THROUGHTIME_TOKEN, or leave --host out"
        )


class Gate:
    """Lets a request in, or answers why not.

    A page of another origin may not call. Without a token the Host must be this machine's, so that no name that somebody
    else's DNS points here reaches it.
    """

    def __init__(self, app: ASGIApp, hub: Hub, token: str | None) -> None:
        self.app, self.hub, self.token = app, hub, token
        self.origins = {each.rstrip("/").lower() for each in hub.limits.origin}
        self.open = Counter[str]()  # WebSockets by address
        self.requests = 0  # under way, over HTTP

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ThroughtimeError as error:
            await self._refuse(error, scope, receive, send)
            return
        if scope["type"] == "http":
            await self._http(scope, receive, send)
            return
        client = address(scope)
        self.open[client] += 1
        self.hub.connections += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.hub.connections -= 1
            self.open[client] -= 1
            if not self.open[client]:
                del self.open[client]

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        read, most = 0, self.hub.limits.max_message

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise Refused(
                    "large",
                    f"a request may have {most} bytes, got more: send smaller chunks, or raise max_message",
                )
            return message

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.hub.counts.add("throughtime_requests_total", status=str(message["status"]))
            await send(message)

        self.requests += 1
        try:
            await self.app(scope, limited, counted)
        finally:
            self.requests -= 1

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hub.closing:
            raise Refused("closed", "the server is stopping")
        if self.token is None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise Refused(
                "origin", f"without a token only this machine is served, got host {host!r:.60}: set a token"
            )
        if (
            origin is not None
            and origin.lower() not in self.origins
            and urlsplit(origin).netloc.lower() != host.lower()
        ):
            raise Refused("origin", f"pages of {origin:.80} may not call this server: name it with --origin")
        if self.token is not None and scope["path"] not in OPEN_PATHS and not self._has_token(scope, headers):
            raise Refused("token", "a token is needed: send it as 'Authorization: Bearer TOKEN'")
        length = headers.get("content-length", "0")
        if scope["type"] == "http" and length.isdigit() and int(length) > self.hub.limits.max_message:
            raise Refused(
                "large", f"a request may have {self.hub.limits.max_message} bytes, got {length}: send smaller chunks, or raise "
                "max_message"
            )  # fmt: skip
        if scope["type"] == "http" and self.requests >= self.hub.limits.max_connections:
            raise Refused("full", f"{self.requests} requests are under way, as many as max_connections")
        if scope["type"] == "websocket":
            if self.hub.connections >= self.hub.limits.max_connections:
                raise Refused(
                    "full", f"{self.hub.connections} WebSockets are open, as many as max_connections"
                )
            if self.open[address(scope)] >= self.hub.limits.client_connections:
                raise Refused(
                    "quota",
                    "this address has as many WebSockets open as client_connections: use one for more sessions",
                )

    def _has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        assert self.token is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        tokens = [given.strip()] if kind.lower() == "bearer" else []
        tokens += [each[7:] for each in scope.get("subprotocols", ()) if each.startswith("bearer.")]
        return any(hmac.compare_digest(each.encode(), self.token.encode()) for each in tokens)

    async def _refuse(self, error: ThroughtimeError, scope: Scope, receive: Receive, send: Send) -> None:
        found = refusal_of(error)
        self.hub.counts.add("throughtime_refused_total", cause=found.cause)
        response = Response(dumps(found.body), found.status, found.headers, "application/json")
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            if "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1008, "reason": found.message[:120]})
                return
        if scope["type"] == "http":
            self.hub.counts.add("throughtime_requests_total", status=str(found.status))
        await response(scope, receive, send)  # to a WebSocket in the place of its opening


def address(scope: Any) -> str:
    """The client's address, without its port."""
    client = scope.get("client")
    return str(client[0]) if client else ""
