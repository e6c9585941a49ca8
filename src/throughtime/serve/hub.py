"""What a server serves: its models, their pools of sessions, the threads that run them, and what is counted."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from throughtime.errors import InputError, SessionError, ThroughtimeError, nearest
from throughtime.runtime.trained import Trained
from throughtime.serve.metrics import CHUNKS, SECONDS, Counts, Histogram
from throughtime.serve.refusals import Refusal, Refused, refusal_of
from throughtime.serve.settings import Limits
from throughtime.serve.wire import checked_id, whole
from throughtime.sessions.pool import SessionPool
from throughtime.sessions.snapshot import Snapshot
from throughtime.sessions.store import Store, store_of

T = TypeVar("T")
_log = logging.getLogger("throughtime.serve")
_IN_MEMORY = ":memory:"  # a sqlite store without a file: idle sessions take less there, and expire
_KEPT_S = 0.5  # seconds between two looks at what has become idle, at least
_THREADS = 8  # for calls of pools, which wait for the store now and then


class Served:
    """A run that is served: its name, and its pool of sessions, or why it has none."""

    def __init__(self, name: str, trained: Trained, limits: Limits, store: Store, save_every: int) -> None:
        self.name, self.trained, self.created = name, trained, int(time.time())
        trained.model.eval()  # threads share it: its mode is never written again
        self.alone = threading.Lock()  # of predictions, which tasks make one at a time
        self.pool: SessionPool | None = None
        self.reason = ""
        try:
            self.pool = trained.pool(
                max_live=limits.max_live,
                max_batch=limits.max_batch,
                max_wait_ms=limits.max_wait_ms,
                weights=limits.weights,
                store=store,
                idle_s=limits.idle_s,
                expire_s=limits.expire_s,
                save_every=save_every,
            )
        except InputError as error:
            self.reason = str(error)
        self.batches, self.waits, self.computing = Histogram(CHUNKS), Histogram(SECONDS), Histogram(SECONDS)
        if self.pool is not None:
            self.pool.on_batch = self._on_batch

    def sessions(self) -> SessionPool:
        """The pool. Raises: InputError where the run cannot be streamed."""
        if self.pool is None:
            raise InputError(f"{self.name} has no sessions: {self.reason}")
        return self.pool

    def about(self) -> dict[str, Any]:
        """For clients, as JSON, in the form of OpenAI's models."""
        processor = None if self.pool is None else self.pool.processor
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "throughtime",
            "task": self.trained.task.name,
            "title": self.trained.task.title,
            "columns": list(self.trained.task.columns),
            "sessions": self.pool is not None,
            "reason": self.reason or None,
            "native": self.pool is not None and self.pool.native,
            "processor": None if processor is None else processor.about(),
        }

    def _on_batch(self, chunks: int, seconds: float, waits: Sequence[float]) -> None:
        self.batches.add(chunks)
        self.computing.add(seconds)
        self.waits.add(*waits)


class Hub:
    """The models of a server and their sessions; everything that a request needs, whatever it came by.

    Args: runs, whose folders' names are the models' names; limits; store, of the sessions of all models.
    Raises: InputError for no run, or two of one name; RunError for a store that cannot be used.
    """

    def __init__(self, runs: Sequence[Trained], limits: Limits, store: Store | None = None) -> None:
        self.limits = limits
        self.store = store_of(limits.store or _IN_MEMORY) if store is None else store
        kept = limits.store is not None or store is not None
        every = limits.save_every if limits.save_every is not None else int(kept)
        self.models: dict[str, Served] = {}
        for trained in runs:
            name = trained.path.resolve().name
            if name in self.models:
                raise InputError(
                    f"each run must have a folder of another name, got {name!r} twice: rename one"
                )
            self.models[name] = Served(name, trained, limits, self.store, every)
        if not self.models:
            raise InputError("name at least one run to serve, got none")
        self.counts = Counts()
        self.connections = 0  # WebSockets that are open
        self.closing = False
        self._live = 0  # sessions in memory when it was closed
        self._saved: int | None = None
        self._threads = ThreadPoolExecutor(_THREADS, "throughtime serve")
        self._workers = ThreadPoolExecutor(limits.workers, "throughtime jobs")
        self.jobs = 0
        self._lock = threading.Lock()  # of the three below
        self._claimed: set[str] = set()
        self._answers: dict[str, list[tuple[int, Any]]] = {}
        self._opened: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @property
    def pools(self) -> dict[str, SessionPool]:
        """Those of the models that can be streamed, by name."""
        return {name: each.pool for name, each in self.models.items() if each.pool is not None}

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a short call that may wait for a lock or the store, outside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def job(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a prediction or a completion, outside the event loop. Raises: Refused "full" where too many wait already."""
        if self.jobs >= self.limits.jobs:
            raise Refused(
                "full",
                f"{self.jobs} predictions and completions are under way, as many as jobs: try again later",
            )
        self.jobs += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)
        finally:
            self.jobs -= 1

    def model(self, name: Any = None) -> Served:
        """A model by its name; None: the only one. Raises: Refused "not_found" for another name, InputError for no name."""
        if name is None:
            if len(self.models) == 1:
                return next(iter(self.models.values()))
            raise InputError(f"model must be one of {', '.join(self.models)}, got none")
        if not isinstance(name, str) or name not in self.models:
            close = nearest(name, self.models) if isinstance(name, str) else ""
            raise Refused(
                "not_found", f"model must be one of {', '.join(self.models)}, got {name!r:.60}.{close}"
            )
        return self.models[name]

    def of_session(self, id: str) -> Served:
        """The model of a session, in memory or in the store. Raises: SessionError "unknown", "expired"."""
        able = [each for each in self.models.values() if each.pool is not None]
        for served in able:
            if id in served.sessions():
                return served
        if len(able) == 1:
            return able[0]
        if (stored := self.store.get(id)) is None:
            raise SessionError("unknown", f"there is no session {id!r}: open it first")
        identity = Snapshot.from_bytes(stored.data).model
        for served in able:
            if served.sessions().identity == identity:
                return served
        raise SessionError("snapshot", f"session {id!r} is of a model that is not served: open a new one")

    def open(self, model: Any, id: Any, state: bytes | None, client: str) -> dict[str, Any]:
        """A new session. Raises: as `SessionPool.open`; Refused "quota" for a client that opens too many."""
        served = self.model(model)
        pool = served.sessions()
        name = secrets.token_urlsafe(12) if id is None else checked_id(id)
        self._count_open(client)
        if len(self.models) > 1 and any(
            name in each.pool for each in self.models.values() if each.pool is not None
        ):
            raise SessionError("busy", f"session {name!r} is open already: close it, or choose another id")
        pool.open(name, state)
        return self.about(name)

    def about(self, id: str) -> dict[str, Any]:
        """A session: its model, chunks and steps read. It counts as used. Raises: SessionError "unknown", "busy", "expired"."""
        served = self.of_session(id)
        seq, steps = served.sessions().position(id)
        return {"id": id, "object": "session", "model": served.name, "seq": seq, "steps": steps}

    def submit(self, id: str, seq: Any, data: Any, final: bool = False, ack: Any = None) -> Future[Any]:
        """Read a chunk, or end the input: the answer to come.

        Args: ack, the last chunk whose answer the client has; it keeps those after it for a client that sends several chunks
        before it has their answers, and asks for one of them again. Without it: the chunk before.
        """
        seq = whole(seq, "seq")
        read = seq - 1 if ack is None else whole(ack, "ack")
        pool = self.of_session(id).sessions()
        if id in self._claimed:
            raise SessionError("busy", f"a completion of session {id!r} is being written: wait for its end")
        if (found := self._again(pool, id, seq)) is not None:
            return found
        if isinstance(data, np.ndarray):
            data = torch.from_numpy(data)
        future = pool.submit(id, seq, data, final=final)
        future.add_done_callback(lambda done: self._keep(id, seq, read, done))
        return future

    def claim(self, id: str) -> None:
        """Keep other chunks from a session until `release`. Raises: SessionError "busy"."""
        with self._lock:
            if id in self._claimed:
                raise SessionError(
                    "busy", f"a completion of session {id!r} is being written: wait for its end"
                )
            self._claimed.add(id)

    def release(self, id: str) -> None:
        """Let chunks of a claimed session in again."""
        self._claimed.discard(id)

    def end(self, id: str) -> None:
        """End a session. Raises: SessionError "unknown", "busy", "expired"."""
        self.of_session(id).sessions().close(id)
        self.forget(id)

    def reset(self, id: str) -> dict[str, Any]:
        """Go back to before the first step; `about` it."""
        self.of_session(id).sessions().reset(id)
        self.forget(id)
        return self.about(id)

    def snapshot(self, id: str) -> bytes:
        """A session at this moment."""
        return self.of_session(id).sessions().snapshot(id)

    def restore(self, id: str, state: bytes) -> dict[str, Any]:
        """Go to where a snapshot was taken; `about` it."""
        self.of_session(id).sessions().restore(id, state)
        self.forget(id)
        return self.about(id)

    def fork(self, id: str, new: Any, client: str) -> dict[str, Any]:
        """Another session that goes on from where this one is; `about` it."""
        served = self.of_session(id)
        return self.open(served.name, new, served.sessions().snapshot(id), client)

    def trace(self, id: str) -> dict[str, dict[str, float]]:
        """How large each part of a session's state is: its mean, its root mean square, its largest absolute value."""
        state = self.of_session(id).sessions().state(id)
        return {
            name: {
                "mean": float(value.float().mean()),
                "rms": float(value.float().square().mean().sqrt()),
                "max": float(value.float().abs().max()),
            }
            for name, value in state.items()
            if value.numel()
        }

    def refused(self, error: BaseException) -> Refusal:
        """What a client is told of an error, which is counted, and logged where it is a defect of the server."""
        found = refusal_of(error)
        self.counts.add("throughtime_refused_total", cause=found.cause)
        if found.cause == "internal":
            _log.error("a request failed", exc_info=error)
        return found

    def forget(self, id: str) -> None:
        """Drop answers that are kept of a session, which starts anew or was closed."""
        self._answers.pop(id, None)

    def _keep(self, id: str, seq: int, read: int, done: Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        kept = [each for each in self._answers.get(id, ()) if read < each[0] < seq]
        self._answers[id] = [*kept[-self.limits.inbound + 1 :], (seq, done.result())]

    def _again(self, pool: SessionPool, id: str, seq: int) -> Future[Any] | None:
        """The answer to an earlier chunk than the last, where it was kept and the session has not been elsewhere since."""
        kept = self._answers.get(id, [])
        earlier = [answer for number, answer in kept[:-1] if number == seq]
        if not earlier:
            return None
        pool.position(id)  # which takes up a later version of the session, where the store has one
        if pool.last(id) is not kept[-1][1]:
            return None
        found: Future[Any] = Future()
        found.set_result(earlier[0])
        return found

    def _count_open(self, client: str) -> None:
        """Let a client open a session: so many at once, and then as they come back with time."""
        rate = self.limits.open_rate
        if not rate:
            return
        now = time.monotonic()
        with self._lock:
            left, before = self._opened.pop(client, (float(rate), now))
            left = min(float(rate), left + (now - before) * rate / 60)
            self._opened[client] = (left - 1 if left >= 1 else left, now)
            while len(self._opened) > 10_000:  # a client that is forgotten may open as many again
                self._opened.popitem(last=False)
        if left < 1:
            raise Refused(
                "quota",
                f"{rate} sessions a minute can be opened, as many as open_rate: wait, or use open ones",
            )

    async def keep(self) -> None:
        """Move idle sessions to the store, and free what has expired, until it is cancelled."""
        while True:
            await asyncio.sleep(max(_KEPT_S, min(self.limits.idle_s / 4, 15.0)))
            try:
                await self.call(self.sweep)
            except ThroughtimeError as error:  # such as a store that is away; the next time it may be back
                _log.warning("idle sessions stay in memory: %s", error)

    def sweep(self) -> None:
        """Move idle sessions to the store, and free what has expired."""
        for pool in self.pools.values():
            pool.sweep()
        for id in list(self._answers):
            if not any(id in pool for pool in self.pools.values()):
                self.forget(id)

    def close(self) -> int:
        """Let what was begun come to its end, and save every session; how many. Nothing more happens the second time.

        Raises: SessionError "store" where the store cannot be reached; a further call tries again.
        """
        if self._saved is None:
            self.closing = True
            self._workers.shutdown(
                wait=False, cancel_futures=True
            )  # a long prediction keeps no session from being saved
            self._threads.shutdown()
            self._live = self._live or sum(map(len, self.pools.values()))
            for pool in self.pools.values():
                pool.shutdown()
            self.store.close()
            self._saved = self._live
        return self._saved
