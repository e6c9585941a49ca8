"""The application: routes over HTTP and WebSocket, for any ASGI server; `throughtime.serve.serve` runs it under uvicorn."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from throughtime import page
from throughtime.errors import ThroughtimeError
from throughtime.serve.completions import complete
from throughtime.serve.gate import Gate, address
from throughtime.serve.hub import Hub
from throughtime.serve.metrics import exposition
from throughtime.serve.predictions import predictions
from throughtime.serve.refusals import Refusal
from throughtime.serve.websocket import stream
from throughtime.serve.wire import dumps, loads, snapshot_bytes, unpack

BINARY = "application/octet-stream"


def create_app(hub: Hub, token: str | None = None) -> Starlette:
    """The routes of a hub, which is closed, every session saved, when the application ends.

    Args: token, that every request must bring; None: none, for a server that only this machine reaches.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        keeping = asyncio.create_task(hub.keep())
        yield
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        with contextlib.suppress(ThroughtimeError):  # said by who closes the hub after the application
            await asyncio.to_thread(hub.close)

    routes: list[BaseRoute] = [
        Route("/v1/models", models),
        Route("/v1/models/{name}", model),
        Route("/v1/sessions", create, methods=["POST"]),
        Route("/v1/sessions/{id}", session, methods=["GET"]),
        Route("/v1/sessions/{id}", delete, methods=["DELETE"]),
        Route("/v1/sessions/{id}/chunks", chunk, methods=["POST"]),
        Route("/v1/sessions/{id}/flush", flush, methods=["POST"]),
        Route("/v1/sessions/{id}/reset", reset, methods=["POST"]),
        Route("/v1/sessions/{id}/snapshot", snapshot),
        Route("/v1/sessions/{id}/restore", restore, methods=["POST"]),
        Route("/v1/sessions/{id}/fork", fork, methods=["POST"]),
        Route("/v1/predict", predict, methods=["POST"]),
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/healthz", health),
        Route("/metrics", metrics),
        WebSocketRoute("/v1/stream", stream),
        *page.routes({name: each.trained for name, each in hub.models.items()}),
    ]
    middleware = [Middleware(Gate, hub=hub, token=token), Middleware(_Errors, hub=hub)]
    if hub.limits.origin:  # browsers ask first whether a page of another origin may call, without a token
        middleware.insert(0, Middleware(
            CORSMiddleware, allow_origins=hub.limits.origin, allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type"],
        ))  # fmt: skip
    app = Starlette(
        routes=routes, lifespan=lifespan, middleware=middleware, exception_handlers={HTTPException: _no_route}
    )
    app.state.hub = hub
    return app


def answer(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(dumps(value), status, media_type="application/json")


async def models(request: Request) -> Response:
    """GET /v1/models."""
    return answer({"object": "list", "data": [each.about() for each in _hub(request).models.values()]})


async def model(request: Request) -> Response:
    """GET /v1/models/NAME."""
    return answer(_hub(request).model(request.path_params["name"]).about())


async def create(request: Request) -> Response:
    """POST /v1/sessions."""
    hub, asked = _hub(request), await _json(request)
    state = asked.get("snapshot")
    state = None if state is None else snapshot_bytes(state)
    found = await hub.call(hub.open, asked.get("model"), asked.get("id"), state, address(request.scope))
    return answer(found, 201)


async def session(request: Request) -> Response:
    """GET /v1/sessions/ID."""
    hub = _hub(request)
    return answer(await hub.call(hub.about, request.path_params["id"]))


async def delete(request: Request) -> Response:
    """DELETE /v1/sessions/ID."""
    hub, id = _hub(request), request.path_params["id"]
    await hub.call(hub.end, id)
    return answer({"id": id, "object": "session", "deleted": True})


async def chunk(request: Request) -> Response:
    """POST /v1/sessions/ID/chunks, as JSON or as a binary message."""
    hub = _hub(request)
    data: Any
    if request.headers.get("content-type", "").partition(";")[0] == BINARY:
        asked, data = unpack(await request.body())
    else:
        asked = await _json(request)
        data = asked.get("data")
    return await _read(hub, request.path_params["id"], asked.get("seq"), data, False)


async def flush(request: Request) -> Response:
    """POST /v1/sessions/ID/flush."""
    asked = await _json(request)
    return await _read(_hub(request), request.path_params["id"], asked.get("seq"), None, True)


async def _read(hub: Hub, id: str, seq: Any, data: Any, final: bool) -> Response:
    future = await hub.call(hub.submit, id, seq, data, final)
    return answer({"session": id, "seq": seq, "answer": await asyncio.wrap_future(future)})


async def reset(request: Request) -> Response:
    """POST /v1/sessions/ID/reset."""
    hub = _hub(request)
    return answer(await hub.call(hub.reset, request.path_params["id"]))


async def snapshot(request: Request) -> Response:
    """GET /v1/sessions/ID/snapshot."""
    hub = _hub(request)
    data = await hub.call(hub.snapshot, request.path_params["id"])
    if "application/json" in request.headers.get("accept", ""):
        return answer({"id": request.path_params["id"], "snapshot": base64.b64encode(data).decode()})
    return Response(data, media_type=BINARY)


async def restore(request: Request) -> Response:
    """POST /v1/sessions/ID/restore, with the bytes of a snapshot, or JSON."""
    hub = _hub(request)
    if request.headers.get("content-type", "").partition(";")[0] == BINARY:
        state = await request.body()
    else:
        state = snapshot_bytes((await _json(request)).get("snapshot"))
    return answer(await hub.call(hub.restore, request.path_params["id"], state))


async def fork(request: Request) -> Response:
    """POST /v1/sessions/ID/fork."""
    hub, asked = _hub(request), await _json(request)
    found = await hub.call(hub.fork, request.path_params["id"], asked.get("id"), address(request.scope))
    return answer(found, 201)


async def predict(request: Request) -> Response:
    """POST /v1/predict."""
    hub, asked = _hub(request), await _json(request)
    served = hub.model(asked.get("model"))
    found = await hub.job(predictions, served, asked.get("records"), hub.limits)
    return answer({"object": "list", "model": served.name, "data": found})


async def health(request: Request) -> Response:
    """GET /healthz: 200 while requests are answered; a server that stops refuses it with 503, as any other."""
    return answer({"status": "ok"})


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    hub = _hub(request)
    return PlainTextResponse(await hub.call(exposition, hub), media_type="text/plain; version=0.0.4")


def _hub(request: Request) -> Hub:
    found: Hub = request.app.state.hub
    return found


async def _json(request: Request) -> dict[str, Any]:
    body = await request.body()
    return loads(body) if body.strip() else {}


async def _no_route(request: Request, error: Exception) -> Response:
    """No such path or method, in the form of other errors."""
    assert isinstance(error, HTTPException)
    hub, path = _hub(request), request.url.path
    found = Refusal("not_found", f"there is nothing at {path:.80}: docs/serve.md lists the paths")
    if error.status_code == 405:
        found = Refusal(
            "method",
            f"{path:.80} has no {request.method}; it has {(error.headers or {}).get('Allow', 'others')}",
        )
    hub.counts.add("throughtime_refused_total", cause=found.cause)
    return Response(dumps(found.body), found.status, {**(error.headers or {})}, "application/json")


class _Errors:
    """Makes an answer of every exception of a route, and counts it."""

    def __init__(self, app: Any, hub: Hub) -> None:
        self.app, self.hub = app, hub

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def noted(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except ClientDisconnect:
            pass  # nobody waits for an answer
        except Exception as error:
            found = self.hub.refused(error)
            if started:  # nothing can be said any more
                raise
            response = Response(dumps(found.body), found.status, found.headers, "application/json")
            await response(scope, receive, send)
