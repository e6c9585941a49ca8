"""The page of a server and what it asks for: the routes "/" and "/v1/inspect/..." of a starlette application."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from throughtime.errors import InputError, ThroughtimeError
from throughtime.page import sources
from throughtime.page.inspection import LAST, Inspector
from throughtime.page.payload import json_bytes, payload
from throughtime.page.running import Edit
from throughtime.page.sources import Reading
from throughtime.page.write import page_html

if TYPE_CHECKING:
    from throughtime.runtime.trained import Trained

BODY = 4 * 2**20
"""Bytes of a request at most."""
WAITING = 16
"""Requests for one model that wait while another runs, at most."""
T = TypeVar("T")
_Handler = Callable[[Request], Awaitable[Response]]


class _Model:
    """One model of the server. What it is asked for runs one at a time, outside the event loop."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.lock = asyncio.Lock()
        self.waiting = 0
        self._inspector: Inspector | None = None

    async def run(self, work: Callable[[Inspector], T]) -> T:
        if self.waiting >= WAITING:
            raise _Refused(
                503, f"{WAITING} requests for this model are waiting already: try again in a second"
            )
        self.waiting += 1
        try:
            async with self.lock:
                return await to_thread.run_sync(lambda: work(self.inspector()))
        finally:
            self.waiting -= 1

    def inspector(self) -> Inspector:
        if self._inspector is None:
            self._inspector = Inspector(self.trained)
        return self._inspector


class _Refused(ThroughtimeError):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status


def routes(models: Mapping[str, Trained]) -> list[Route]:
    """The routes of the page for some models, by the names that clients use.

        GET  /                      the page
        GET  /v1/inspect/models     {"models": [names]}
        GET  /v1/inspect/about      ?model=NAME: what it is, reads and answers (`Inspector.about`)
        POST /v1/inspect/trace      {"model", SOURCE, "edits", "first"}: `payload` of the steps from `first` on
        POST /v1/inspect/influence  {"model", SOURCE, "position", "last"}: {"first", "values"}
        POST /v1/inspect/continue   {"model", "ids", "steps", "seed", "temperature", "top_k", "edits"}: `payload` of the new steps

    SOURCE is one of {"text"}, {"ids"}, {"values"} (steps of numbers), {"samples", "rate"} (16 bits, little-endian, in base64) and
    {"example"} (of the validation part of the run's own data, from 1). Edits are a list of `Edit`'s fields. An error is
    {"error": {"message", "type", "param", "code"}}, with the status 400, 404, 413, 500 or 503. A model's copy for this is made
    when it is first asked for. Access (tokens, origins) is the application's to check.
    """
    known = {name: _Model(trained) for name, trained in models.items()}
    html = page_html(None)

    async def page(request: Request) -> Response:
        return Response(
            html,
            media_type="text/html",
            headers={
                "cache-control": "no-cache",
                "x-content-type-options": "nosniff",
                "referrer-policy": "no-referrer",
            },
        )

    async def names(request: Request) -> Response:
        return _json({"models": list(known)})

    async def about(request: Request) -> Response:
        model = _named(known, request.query_params.get("model"))
        return _json(await model.run(lambda inspector: inspector.about()))

    def post(work: Callable[[Inspector, dict[str, Any]], dict[str, Any]]) -> _Handler:
        async def handler(request: Request) -> Response:
            body = await _body(request)
            return _json(await _named(known, body.get("model")).run(lambda inspector: work(inspector, body)))

        return handler

    return [
        Route("/", page),
        Route("/v1/inspect/models", _answered(names)),
        Route("/v1/inspect/about", _answered(about)),
        Route("/v1/inspect/trace", _answered(post(_trace)), methods=["POST"]),
        Route("/v1/inspect/influence", _answered(post(_influence)), methods=["POST"]),
        Route("/v1/inspect/continue", _answered(post(_continue)), methods=["POST"]),
    ]


def _trace(inspector: Inspector, body: dict[str, Any]) -> dict[str, Any]:
    reading = _reading(inspector, body)
    first = _whole(body, "first", 0, 0, len(reading) - 1)
    found = inspector.read(reading, _edits(body), first)
    return payload(inspector, found, units=first == 0)


def _influence(inspector: Inspector, body: dict[str, Any]) -> dict[str, Any]:
    last = _whole(body, "last", LAST, 1, LAST)
    first, values = inspector.influence(
        _reading(inspector, body), _whole(body, "position", None, 0, sources.STEPS), last
    )
    found = values.tolist()
    if not all(map(math.isfinite, found)):
        raise InputError("the gradient is not a number: the model's training diverged, or it is damaged")
    return {"first": first, "values": [float(f"{value:.6g}") for value in found]}


def _continue(inspector: Inspector, body: dict[str, Any]) -> dict[str, Any]:
    ids, steps = body.get("ids"), _whole(body, "steps", None, 1, 1000)
    if not isinstance(ids, list) or not ids:
        raise InputError("ids must be a list of one or more symbols, as trace gives them")
    if len(ids) + steps > sources.STEPS:
        raise InputError(f"a text may have {sources.STEPS:,} symbols, got {len(ids):,} and {steps} more")
    temperature = body.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or isinstance(temperature, bool):
        raise InputError(f"temperature must be a number, got {temperature!r:.40}")
    found = inspector.extend(
        ids,
        steps,
        seed=_whole(body, "seed", 0, 0, 2**63 - 1),
        temperature=float(temperature),
        top_k=None if body.get("top_k") is None else _whole(body, "top_k", None, 1, 2**31),
        edits=_edits(body),
    )
    return payload(inspector, found, units=False)


def _reading(inspector: Inspector, body: dict[str, Any]) -> Reading:
    """The sequence that a request gives. It never names a file of the server."""
    trained = inspector.trained
    if isinstance(ids := body.get("ids"), list):
        if not inspector.generates:
            raise InputError("ids are for models of the next symbol: give the text")
        return sources.of_ids(trained, ids)
    if isinstance(text := body.get("text"), str):
        return sources.of_text(trained, text)
    if "values" in body:
        return sources.of_numbers(trained, body["values"])
    if isinstance(samples := body.get("samples"), str):
        try:
            whole = np.frombuffer(base64.b64decode(samples, validate=True), "<i2")
        except (binascii.Error, ValueError):
            raise InputError("samples must be whole numbers of 16 bits, little-endian, in base64") from None
        rate = _whole(body, "rate", None, 100, 10**6)
        return sources.of_sound(trained, torch.from_numpy(whole.astype(np.float32) / 32768), rate)
    if "example" in body:
        return sources.of_run(trained, example=_whole(body, "example", None, 1, 10**9))
    raise InputError("give one of text, ids, values, samples and example")


def _edits(body: dict[str, Any]) -> tuple[Edit, ...]:
    given = body.get("edits", [])
    if not isinstance(given, list) or len(given) > 100:
        raise InputError("edits must be a list of at most 100")
    found = []
    for each in given:
        if not isinstance(each, dict) or not isinstance(each.get("value"), int | float):
            raise InputError("an edit must have layer, part, unit, step and value")
        unit, step = (_whole(each, name, None, 0, 10**9) for name in ("unit", "step"))
        hold = each.get("hold") is True
        found.append(
            Edit(str(each.get("layer")), str(each.get("part")), unit, step, float(each["value"]), hold)
        )
    return tuple(found)


def _whole(body: dict[str, Any], name: str, default: int | None, low: int, high: int) -> int:
    value = body.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number between {low:,} and {high:,}, got {value!r:.40}")
    return value


def _named(models: Mapping[str, _Model], name: Any) -> _Model:
    if not isinstance(name, str) or name not in models:
        raise _Refused(404, f"there is no model {name!r:.60}: this server has {', '.join(models) or 'none'}")
    return models[name]


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises: InputError for anything else; _Refused for too many bytes."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY:
            raise _Refused(413, f"a request may have {BODY:,} bytes: shorten it")
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError("the body must be a JSON object")
    return found


def _answered(handler: _Handler) -> _Handler:
    """The same, with every error as JSON of one line."""

    async def found(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except ThroughtimeError as error:
            status = getattr(error, "status_code", 400)
            return _error(status, " ".join(str(error).split()))
        except MemoryError:
            return _error(503, "the server has no memory left for this: give fewer steps")
        except Exception:
            logging.getLogger(__name__).exception("the page failed")
            return _error(500, "the server failed; its log says why")

    return found


def _error(status: int, message: str) -> Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    code = {404: "not_found", 413: "large", 500: "internal", 503: "full"}.get(status, "input")
    headers = {"retry-after": "1"} if status == 503 else {}
    return _json({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, headers, media_type="application/json")
