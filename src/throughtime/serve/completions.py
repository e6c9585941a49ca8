"""POST /v1/completions, in the form of OpenAI's: also on a session's state, and with the state afterwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from throughtime.errors import InputError, ThroughtimeError
from throughtime.kernels.native.generation.interface import check_sampling
from throughtime.serve.hub import Hub, Served
from throughtime.serve.refusals import Refused
from throughtime.serve.sampling import Piece, Prompt, Sampling, choice
from throughtime.serve.settings import Limits
from throughtime.serve.wire import checked_id, dumps, loads, whole
from throughtime.sessions.snapshot import Snapshot

# Fields of OpenAI's that have no meaning here, with the values that change nothing.
_WITHOUT = {
    "best_of": (1,), "frequency_penalty": (0,), "logit_bias": ({},), "presence_penalty": (0,), "suffix": ("",),
}  # fmt: skip
_KNOWN = {
    "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "n", "stream", "stream_options", "logprobs", "echo",
    "stop", "seed", "user", "style", "session_id", "return_state", *_WITHOUT,
}  # fmt: skip
_MOST_CHOICES = 128
_MOST_TOP = 20  # OpenAI's own limit is 5


@dataclass
class Asked:
    """A request that was checked."""

    model: str | None
    prompts: list[str | list[int]]
    sampling: Sampling
    n: int
    seed: int
    stream: bool
    include_usage: bool
    style: str | None
    session: str | None
    return_state: bool
    stopped: threading.Event = field(default_factory=threading.Event)


def checked(asked: dict[str, Any], limits: Limits) -> Asked:
    """What was asked for. Raises: InputError naming the field, what is expected and what came."""
    for name in asked:
        if name not in _KNOWN:
            raise InputError(f"unknown field {name!r:.40}: completions take {', '.join(sorted(_KNOWN))}")
    asked = {name: value for name, value in asked.items() if value is not None}
    for name, harmless in _WITHOUT.items():
        if name in asked and asked[name] not in harmless:
            raise InputError(f"{name} cannot be changed here, got {asked[name]!r:.40}: leave it out")
    n = whole(asked.get("n", 1), "n", 1)
    length = whole(asked.get("max_tokens", 16), "max_tokens")
    if length > limits.max_tokens:
        raise InputError(f"max_tokens must be at most {limits.max_tokens}, got {length}")
    logprobs = None if "logprobs" not in asked else whole(asked["logprobs"], "logprobs")
    if logprobs is not None and logprobs > _MOST_TOP:
        raise InputError(f"logprobs must be at most {_MOST_TOP}, got {logprobs}")
    stop = asked.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(stop, list)
        or len(stop) > 16
        or not all(isinstance(each, str) and each for each in stop)
    ):
        raise InputError(f"stop must be a text, or a list of up to 16, none of them empty, got {stop!r:.60}")
    sampling = Sampling(
        max_tokens=length,
        temperature=_number(asked, "temperature", 1.0),
        top_p=_number(asked, "top_p", 1.0),
        top_k=None if "top_k" not in asked else whole(asked["top_k"], "top_k", 1),
        stop=tuple(stop),
        logprobs=logprobs,
        echo=_flag(asked, "echo"),
    )
    seed = asked.get("seed", secrets.randbits(32))
    if type(seed) is not int:
        raise InputError(f"seed must be a whole number, got {seed!r:.40}")
    check_sampling(sampling.temperature, sampling.top_k, sampling.top_p, seed)
    prompts = _prompts(asked.get("prompt", ""))
    if n * len(prompts) > _MOST_CHOICES:
        raise InputError(
            f"a request has at most {_MOST_CHOICES} choices (prompts times n), got {n * len(prompts)}"
        )
    session = None if "session_id" not in asked else checked_id(asked["session_id"])
    state = _flag(asked, "return_state")
    if (session is not None or state) and n * len(prompts) != 1:
        raise InputError("session_id and return_state are for one prompt with n = 1: send several requests")
    options = asked.get("stream_options", {})
    for name in ("model", "style"):
        if name in asked and not isinstance(asked[name], str):
            raise InputError(f"{name} must be a text, got {asked[name]!r:.40}")
    return Asked(
        asked.get("model"), prompts, sampling, n, seed, _flag(asked, "stream"),
        isinstance(options, dict) and bool(options.get("include_usage")), asked.get("style"), session, state,
    )  # fmt: skip


def _prompts(prompt: Any) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(type(each) is int for each in prompt):
            return [prompt]
        if all(
            isinstance(each, str) or (isinstance(each, list) and each and all(type(n) is int for n in each))
            for each in prompt
        ):
            return prompt
    raise InputError(
        f"prompt must be a text, a list of texts, or lists of symbols' numbers, got {prompt!r:.60}"
    )


def _number(asked: dict[str, Any], name: str, default: float) -> float:
    value = asked.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} must be a number, got {value!r:.40}")
    return float(value)


def _flag(asked: dict[str, Any], name: str) -> bool:
    value = asked.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r:.40}")
    return value


class _Writer:
    """Computes the choices of one request, in a thread; `give` is called with each piece."""

    def __init__(self, hub: Hub, asked: Asked) -> None:
        self.hub, self.asked = hub, asked
        self.served: Served = (
            hub.model(asked.model) if asked.session is None else hub.of_session(asked.session)
        )
        if asked.model is not None and self.served is not hub.model(asked.model):
            raise Refused(
                "snapshot", f"session {asked.session!r} is one of {self.served.name}, not of {asked.model}"
            )
        self.usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        self.more: dict[str, Any] = {"seed": asked.seed}  # about the session, for the answer
        self.head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.served.name,
        }

    def write(self, give: Callable[[int, Piece], None]) -> None:
        """All choices, one after the other; a session is continued after the last."""
        session = self.asked.session
        if session is None:
            self._write(give, None, 0)
            return
        self.hub.claim(session)
        try:
            data = self.served.sessions().snapshot(session)
            self._write(give, data, Snapshot.from_bytes(data).seq)
        finally:
            self.hub.release(session)

    def _write(self, give: Callable[[int, Piece], None], state: bytes | None, seq: int) -> None:
        asked = self.asked
        snapshot = None if state is None else Snapshot.from_bytes(state)
        text = ""
        for number, prompt in enumerate(asked.prompts):
            keep = asked.sampling.echo and asked.sampling.logprobs is not None
            read = Prompt(self.served, prompt, asked.style, snapshot, keep)
            self.usage["prompt_tokens"] += len(read.ids)
            for each in range(asked.n):
                # Drawn as if it were the only one: choice 0 is that of n = 1, and a prompt's that of the prompt alone.
                seed = asked.seed + each
                seed -= 2**64 if seed >= 2**64 else 0
                for piece in choice(read, asked.sampling, seed, self._stopped):
                    self.usage["completion_tokens"] += piece.count
                    text += piece.new
                    if piece.finish is not None and (asked.session is not None or asked.return_state):
                        self._continue(state, seq, read.text + text)
                    give(number * asked.n + each, piece)
        self.usage["total_tokens"] = self.usage["prompt_tokens"] + self.usage["completion_tokens"]
        self.hub.counts.add(
            "throughtime_tokens_total", self.usage["completion_tokens"], model=self.served.name
        )

    def _stopped(self) -> bool:
        return self.asked.stopped.is_set() or self.hub.closing

    def _continue(self, state: bytes | None, seq: int, text: str) -> None:
        """Let the session read the prompt and the completion, so that it goes on after both."""
        pool, id = self.served.sessions(), self.asked.session
        name = pool.open() if id is None else id
        try:
            if text:
                pool.feed(name, seq + 1, text)
            if self.asked.return_state:
                self.more["state"] = base64.b64encode(pool.snapshot(name)).decode()
        finally:
            if id is None:
                pool.close(name)
        if id is not None:
            self.more["session"] = {"id": id, "seq": seq + bool(text)}


async def complete(request: Request) -> Response:
    """POST /v1/completions."""
    hub: Hub = request.app.state.hub
    asked = checked(loads(await request.body()), hub.limits)
    writer = await hub.call(_Writer, hub, asked)
    if asked.stream:
        events = _events(hub, writer)
        first = await anext(events)  # what is refused at once is no stream
        return StreamingResponse(
            _after(first, events), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )
    pieces: dict[int, list[Piece]] = {}
    try:
        await hub.job(writer.write, lambda index, piece: pieces.setdefault(index, []).append(piece))
    except asyncio.CancelledError:
        asked.stopped.set()
        raise
    choices = [_choice(index, found, asked.sampling) for index, found in sorted(pieces.items())]
    found = {**writer.head, "choices": choices, "usage": writer.usage, **writer.more}
    return Response(dumps(found), media_type="application/json")


async def _after(first: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for each in events:
        yield each


async def _events(hub: Hub, writer: _Writer) -> AsyncIterator[str]:
    """Server-sent events: the pieces as they come, what was drawn meanwhile together; then [DONE]."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[int, Piece] | None] = asyncio.Queue()  # at most max_tokens of each choice

    def give(index: int, piece: Piece) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, (index, piece))

    async def run() -> None:
        try:
            await hub.job(writer.write, give)
        finally:
            pieces.put_nowait(None)

    task = asyncio.create_task(run())
    begun = ended = False
    try:
        while not ended:
            waiting = [await pieces.get()]
            while not pieces.empty():
                waiting.append(pieces.get_nowait())
            ended = waiting[-1] is None
            merged: dict[int, list[Piece]] = {}
            for each in waiting:
                if each is not None:
                    merged.setdefault(each[0], []).append(each[1])
            for index, found in merged.items():
                choices = [_choice(index, found, writer.asked.sampling)]
                if not (choices[0]["text"] or found[-1].finish):
                    continue  # all of it is held back
                begun = True
                yield _event({**writer.head, "choices": choices})
        await task
        last = {**writer.head, "choices": [], **writer.more}
        if writer.asked.include_usage:
            last["usage"] = writer.usage
        if writer.asked.include_usage or len(writer.more) > 1:
            yield _event(last)
        yield "data: [DONE]\n\n"
    except ThroughtimeError as error:
        if not begun:
            raise
        yield _event(hub.refused(error).body)
    finally:
        writer.asked.stopped.set()
        task.cancel()
        with contextlib.suppress(BaseException):  # what it raised was said, or nobody listens
            await task


def _event(value: Any) -> str:
    return f"data: {dumps(value)}\n\n"


def _choice(index: int, pieces: list[Piece], how: Sampling) -> dict[str, Any]:
    """Some pieces of a choice, in OpenAI's form."""
    tokens = [token for piece in pieces for token in piece.tokens]
    logprobs = None
    if how.logprobs is not None:
        logprobs = {
            "tokens": [each.text for each in tokens],
            "token_logprobs": [each.logprob for each in tokens],
            "top_logprobs": [each.top for each in tokens],
            "text_offset": [each.offset for each in tokens],
        }
    text = "".join(piece.text for piece in pieces)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": pieces[-1].finish}
