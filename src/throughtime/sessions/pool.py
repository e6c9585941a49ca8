"""Many sessions of one model: their states in one slab, their chunks in batches."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.sessions.engine import Engine, engine_of
from throughtime.sessions.live import Elsewhere, Live, Session
from throughtime.sessions.processor import Processor
from throughtime.sessions.requests import NOTHING, Answer, Promise, Request
from throughtime.sessions.store import Store

_TRIES = 8  # of a chunk whose session other pools continue meanwhile
_LEAVE = 10.0  # seconds that `shutdown` waits for chunks that other threads are reading


class SessionPool:
    """Open sessions of one model, feed them chunks from any thread, keep more of them than fit into memory.

    The chunks that wait run together in one native call, whatever their lengths: the outputs of a session are, to the last bit,
    those that it has alone (`native`; where the model itself runs, sessions run one by one).

    Args:
        model: a layer or a model, as `throughtime.stream` takes it; its weights are copied.
        processor: what makes steps of data and answers of outputs, as `throughtime.stream` takes it; None: chunks are steps.
        max_live: sessions in memory. One more than that moves the longest unused one to the store; without a store it is refused.
        max_batch: chunks in one call. max_wait_ms: how long a chunk waits for others while the pool has nothing to run.
        max_steps: steps of a chunk in one call; longer chunks run in several, between which others get their turn.
        store: where sessions are kept that are not in memory, such as `SqliteStore`; None: nowhere.
        idle_s: `sweep` moves sessions unused for so long to the store. expire_s: seconds that the store keeps a session.
        save_every: also save a session after every so many chunks, before its outputs are given out; 1 loses nothing when the
        process is killed, and lets several pools share the store. 0: only when it is moved.
        native, weights: as of `throughtime.stream`.

    Chunks are numbered: `feed(id, seq, chunk)` with seq = 1, 2, ... A repeated seq gives the outputs of that chunk again and
    reads nothing; any other is refused, so that a lost or repeated message cannot change a session.

    Pools with save_every=1 that share a store, such as several servers with one ValkeyStore, can take up each other's sessions at
    any chunk. A chunk is answered once the session is stored, and it is stored only in place of the version that it
    continues; a pool whose copy is older drops it, takes up the stored one and reads the chunk again.

    Attributes: on_batch, called after each call of the model with the number of chunks, the seconds it took, and the seconds that
    each chunk which it began had waited; for statistics of a server.

    With a processor a session is its state and what the processor carries: both change with a chunk, or neither does. A chunk
    that completes no step, such as a few samples, is answered without the model. `flush` ends an input.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Processor | None = None,
        *,
        max_live: int = 10_000,
        max_batch: int = 256,
        max_wait_ms: float = 2.0,
        max_steps: int = 64,
        store: Store | None = None,
        idle_s: float = 300.0,
        expire_s: float = 86_400.0,
        save_every: int = 0,
        native: bool | None = None,
        weights: str = "float32",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("max_live", max_live), ("max_batch", max_batch), ("max_steps", max_steps)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
        if save_every and store is None:
            raise InputError("save_every needs a store to save to: give one, as SqliteStore(path)")
        self._engine = engine_of(model, native, processor is not None, weights)
        self.processor = processor
        self.max_live, self.max_batch, self.max_steps = max_live, max_batch, max_steps
        self.max_wait = max_wait_ms / 1000
        self.store, self.idle_s, self.expire_s, self.save_every = store, idle_s, expire_s, save_every
        self._clock = clock
        self.on_batch: Callable[[int, float, list[float]], None] | None = None
        self._lock = threading.RLock()  # of all that is here; never held while the model runs
        self._running = threading.Lock()  # held while the model runs, and by what changes its slots
        self._live = Live(
            self._engine,
            processor,
            store,
            max_live=max_live,
            at_once=max_batch,
            expire_s=expire_s,
            save_every=save_every,
            clock=clock,
            running=self._running,
        )
        self._sessions = self._live.sessions
        self._waiting: list[Request] = []
        self._wake = threading.Condition(self._lock)
        self._worker: threading.Thread | None = None
        self._closed = False
        self._counts = {"chunks": 0, "steps": 0, "batches": 0}

    @property
    def native(self) -> bool:
        """Whether the C++ of native runs the sessions."""
        return self._engine.native

    def open(self, id: str | None = None, state: bytes | None = None) -> str:
        """A new session; its id. Args: id, of your choice; state, a snapshot to go on from.

        Raises: SessionError "busy" where the id is in use, "full" where there is no room, "snapshot" for another model's.
        """
        snapshot = None if state is None else self._live.parsed(state)
        with self._lock:
            self._check_open()
            name = secrets.token_urlsafe(12) if id is None else id
            if self._live.fresh(name) is not None or self._live.in_store(name):
                raise self._live.in_use(name)
            session = self._live.place(name, snapshot)
            try:
                self._live.keep(session)
            except Elsewhere:  # opened there at the same moment
                raise self._live.in_use(name) from None
            except Exception:
                self._live.forget(session)
                raise
            return name

    def feed(self, id: str, seq: int, chunk: Any, timeout: float | None = None) -> Any:
        """Read chunk number `seq` of a session, [t, ...]: its outputs. From any thread; it waits for its turn.

        With a processor: read some data, and give the answer.
        Raises: InputError for a chunk that the model cannot read; SessionError "unknown", "busy" (another chunk of it is being
        read), "expired", "sequence", "full"; TimeoutError after `timeout` seconds. The session is then as it was before.
        """
        return self._wait(self._admit(id, seq, chunk, False, self._soon()), timeout)

    def submit(self, id: str, seq: int, data: Any = None, *, final: bool = False) -> Future[Any]:
        """`feed`, or with `final` `flush`, that does not wait: the answer to come. The data is read before it returns.

        `cancel()` of the future gives up a chunk that has not begun; the session is then as it was before.
        Raises: as `feed` and `flush`; what fails later is the future's exception.
        """
        if final and self.processor is None:
            raise InputError("flush is for sessions with a processor; without one no step is held: use reset")
        request, future = self._admit(id, seq, data, final, self._soon()), Future[Any]()
        if isinstance(request, Answer):
            future.set_result(request.value)
        elif not request.pending:
            Promise(request, future).set()
        else:
            request.done = Promise(request, future)
            self._enqueue(request)
            future.add_done_callback(lambda done: self._give_up(request) if done.cancelled() else None)
        return future

    def flush(self, id: str, seq: int, timeout: float | None = None) -> Any:
        """End a session's input, as chunk number `seq`: run the steps that the processor still holds, and give its last answer.

        The session is then before its first step again; its next chunk, number seq + 1, begins another input.
        Raises: as `feed`; InputError for a pool without a processor, whose sessions hold no steps.
        """
        if self.processor is None:
            raise InputError("flush is for sessions with a processor; without one no step is held: use reset")
        return self._wait(self._admit(id, seq, None, True, self._soon()), timeout)

    def feed_many(self, chunks: Sequence[tuple[str, int, Any]]) -> list[Any]:
        """`feed` of several sessions at once, in this thread: the answer to each (id, seq, chunk), or why there is none."""
        found: list[Answer | Request | Exception] = []
        for id, seq, chunk in chunks:
            try:
                found.append(self._admit(id, seq, chunk, False, 0.0))
            except Exception as error:
                found.append(error)
        requests = [each for each in found if isinstance(each, Request) and each.pending]
        while requests:
            self._run(requests[: self.max_batch])
            requests = [each for each in requests if each.pending]
        results: list[Any] = []
        for each in found:
            if isinstance(each, Request):
                results.append(each.error or each.answer)
            else:
                results.append(each.value if isinstance(each, Answer) else each)
        return results

    def snapshot(self, id: str) -> bytes:
        """A session at this moment, for `open` or `restore`. Raises: SessionError "unknown", "busy", "expired"."""
        with self._lock:
            return self._live.data(self._live.idle(id))

    def restore(self, id: str, state: bytes) -> None:
        """Go to where a snapshot was taken; a snapshot that cannot be used changes nothing."""
        snapshot = self._live.parsed(state)
        with self._lock:
            session = self._live.idle(id)
            self._live.take(session, snapshot)
            self._live.keep(session)

    def fork(self, id: str, new: str | None = None) -> str:
        """Another session that goes on from where this one is; its id."""
        return self.open(new, self.snapshot(id))

    def reset(self, id: str) -> None:
        """Go back to before the first step; the next chunk is number 1."""
        with self._lock:
            session = self._live.idle(id)
            with self._running:
                self._engine.write(session.slot, None)
            session.seq, session.steps, session.last, session.carried, session.extra = 0, 0, None, {}, {}
            self._live.keep(session)

    def extra(self, id: str) -> dict[str, Any]:
        """What an application keeps with a session, as JSON: change it, and it is part of the next snapshot."""
        with self._lock:
            session = self._live.idle(id)
            session.handed_out = True
            return session.extra

    def close(self, id: str) -> None:
        """End a session: its state is freed, in the store too. Raises: SessionError "unknown", "busy"."""
        with self._lock:
            session = self._sessions.get(id)
            if session is not None and session.busy:
                raise self._live.busy(id)
            stored = self.store is not None and self.store.delete(id)
            if session is not None:
                self._live.forget(session)
            if not stored and (session is None or self._live.shared):
                raise self._live.unknown(id)

    def sweep(self) -> int:
        """Move sessions unused for `idle_s` to the store; how many. A server calls it now and then."""
        with self._lock:
            if self.store is None:
                return 0
            until = self._clock() - self.idle_s
            idle = [each for each in self._sessions.values() if not each.busy and each.used <= until]
            self._live.move(idle)
            self.store.sweep()
            return len(idle)

    def shutdown(self) -> None:
        """Read what is waiting, save every session to the store, and refuse all calls from now on."""
        with self._lock:
            self._closed = True
            self._wake.notify_all()
            worker = self._worker
        if worker is not None:
            worker.join()
        with self._lock:
            until = time.monotonic() + _LEAVE
            while any(each.busy for each in self._sessions.values()) and time.monotonic() < until:
                self._wake.wait(0.01)  # for other threads that are in the middle of a chunk
            if self.store is not None:
                self._live.move([each for each in self._sessions.values() if not each.busy])

    def __enter__(self) -> SessionPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, id: object) -> bool:
        """Whether a session is in memory."""
        return id in self._sessions

    @property
    def identity(self) -> str:
        """The model's, as snapshots name it."""
        return self._engine.identity

    def new_engine(self) -> Engine:
        """An engine with the pool's weights and no sessions, for work beside it."""
        return self._engine.like()

    def position(self, id: str) -> tuple[int, int]:
        """Chunks and steps that a session has read. Raises: as `snapshot`."""
        with self._lock:
            session = self._live.idle(id)
            return session.seq, session.steps

    def state(self, id: str) -> dict[str, Tensor]:
        """A copy of a session's state, by name. Raises: as `snapshot`."""
        with self._lock:
            slot = self._live.idle(id).slot
            with self._running:
                return self._engine.read(slot)

    def last(self, id: str) -> Any:
        """The answer to the last chunk of a session in memory, the same object; else None."""
        session = self._sessions.get(id)
        return None if session is None else session.last

    def stats(self) -> dict[str, int]:
        """Counts since the start (chunks, steps, batches, sessions moved to the store and taken up again, copies dropped as
        another pool had continued the session, refusals), and of now: live sessions, waiting chunks. It never waits.
        """
        return {
            **self._counts,
            **self._live.counts,
            "live": len(self._sessions),
            "waiting": len(self._waiting),
        }

    def _admit(
        self, id: str, seq: int, data: Any, final: bool, deadline: float, check: bool = False
    ) -> Request | Answer:
        """A request, its session busy until it is done; or the answer to a chunk that was read already."""
        with self._lock:
            self._check_open()
            check = check or not self._live.shared or self._live.next_seq(id) != seq
            session = self._live.idle(id, check)
            if self._was_read(session, seq):
                return Answer(session.last)
            session.busy = True
            request = Request(session, seq, data, final, deadline)
        try:
            self._read(request)
            if not request.steps:
                self._write(request)
        except BaseException as error:
            with self._lock:
                session.busy = request.pending = False
            if not check and isinstance(error, InputError):  # for the older of two copies, it may be
                return self._admit(id, seq, data, final, deadline, True)
            raise
        if not request.steps:
            self._finish([request])
        return request

    def _soon(self) -> float:
        """When a chunk that comes now has waited long enough for others."""
        return time.monotonic() + self.max_wait

    def _was_read(self, session: Session, seq: int) -> bool:
        """Whether this chunk is the last that was read, or the next. Raises: SessionError "sequence" for others."""
        if seq == session.seq and session.last is not None:
            return True
        if seq != session.seq + 1:
            raise self._live.refused(
                "sequence",
                f"the next chunk of session {session.name!r} is number {session.seq + 1}, got {seq}",
            )
        return False

    def _read(self, request: Request) -> None:
        """Set the steps of a request, from its data."""
        carried, data = request.session.carried, request.data
        if self.processor is None:
            request.chunk = self._engine.check(data)
            if not request.chunk.shape[0]:
                raise InputError("a chunk must have at least one step, got none")
        elif request.final:
            request.chunk, request.carried = self.processor.flush(carried)
        else:
            request.chunk, request.carried = self.processor.read(data, carried)
        request.steps = request.chunk.shape[0]
        if self.processor is not None and request.steps:
            request.chunk = self._engine.check(request.chunk)

    def _write(self, request: Request) -> None:
        """Set the answer of a request, from its outputs. If it raises, the session's state is that before the chunk."""
        outputs = request.outputs
        if len(outputs) > 1:
            outputs = outputs[-1:] if self._engine.single else (torch.cat(outputs),)
        y = outputs[0] if outputs else NOTHING
        if self.processor is None:
            request.answer = y
            return
        try:
            if request.final:
                request.answer, request.carried = self.processor.finish(y, request.carried), {}
            else:
                request.answer, request.carried = self.processor.write(y, request.carried)
        except BaseException:
            if request.before is not None:
                with self._running:
                    self._engine.write(request.session.slot, request.before or None)
            raise
        if request.final:
            with self._running:
                self._engine.write(request.session.slot, None)

    def _check_open(self) -> None:
        if self._closed:
            raise self._live.refused("closed", "the pool was closed")

    def _wait(self, request: Request | Answer, timeout: float | None) -> Any:
        """The answer to a request, once it has had its turn."""
        if isinstance(request, Answer):
            return request.value
        if not request.pending:
            return request.result()
        request.done = threading.Event()
        self._enqueue(request)
        if not request.done.wait(timeout):
            if self._give_up(request):
                raise TimeoutError(
                    f"a chunk of session {request.session.name!r} was not read within {timeout} s"
                )
            request.done.wait()
        return request.result()

    def _enqueue(self, request: Request) -> None:
        with self._lock:
            if self._closed:
                request.session.busy = False
                raise self._live.refused("closed", "the pool was closed")
            self._waiting.append(request)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="throughtime sessions", daemon=True)
                self._worker.start()
            self._wake.notify()

    def _give_up(self, request: Request) -> bool:
        """Take a request back that has not begun; whether it had not."""
        with self._lock:
            waits = request in self._waiting and not request.read
            if waits:
                self._waiting.remove(request)
                request.session.busy = request.pending = False
            return waits

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if not self._waiting:
                    return
                if not any(each.read for each in self._waiting):
                    oldest = min(each.deadline for each in self._waiting)
                    while len(self._waiting) < min(self.max_batch, len(self._sessions)) and not self._closed:
                        left = oldest - time.monotonic()
                        if left <= 0:
                            break
                        self._wake.wait(left)
                if not self._waiting:  # all were given up meanwhile
                    continue
                self._waiting.sort(key=lambda each: each.deadline)
                first, self._waiting = self._waiting[: self.max_batch], self._waiting[self.max_batch :]
                batch = []
                for each in first:
                    if each.starts():
                        batch.append(each)
                    else:
                        each.session.busy = each.pending = False
            if batch:
                self._run(batch)
            with self._lock:
                for each in batch:
                    if each.pending:  # more steps to read, after those who have waited longer
                        each.deadline = self._soon()
                        self._waiting.append(each)

    def _run(self, batch: Sequence[Request]) -> None:
        """The next steps of some requests in one call; those that are complete, or failed, are told."""
        with self._running:
            pieces = []
            for each in batch:
                if each.before is None and (self.processor is not None or each.steps > self.max_steps):
                    each.before = self._engine.read(each.session.slot)
                if each.steps <= self.max_steps:
                    pieces.append(each.chunk)
                    continue
                pieces.append(each.chunk[each.read : each.read + self.max_steps])
            outputs, failure, began = None, None, time.monotonic()
            try:
                outputs = self._engine.run([each.session.slot for each in batch], pieces)
            except Exception as error:
                failure = error
                if len(batch) == 1 and batch[0].before is not None:
                    self._engine.write(batch[0].session.slot, batch[0].before or None)
        if outputs is None:
            if len(batch) == 1:
                return self._fail(batch[0], failure)
            for each in batch:  # whose fault it is shows when each runs alone
                self._run([each])
            return
        if self.on_batch is not None:
            waits = [max(0.0, began - each.deadline + self.max_wait) for each in batch if not each.read]
            self.on_batch(len(batch), time.monotonic() - began, waits)
        complete = []
        for each, y in zip(batch, outputs, strict=True):
            each.read = min(each.steps, each.read + self.max_steps)
            each.outputs += (y,)
            if each.read == each.steps:
                try:
                    self._write(each)
                    complete.append(each)
                except Exception as error:
                    self._fail(each, error)
        with self._lock:
            self._counts["batches"] += 1
        self._finish(complete)

    def _finish(self, requests: Sequence[Request]) -> None:
        """Give out the answers of complete requests, after their sessions were saved where that is due."""
        with self._lock:
            now = self._clock()
            for each in requests:
                session = each.session
                # Outputs are part of those of a whole call, which are kept until the last of its sessions has read another chunk.
                session.last, session.carried = each.answer, each.carried
                session.seq, session.used = session.seq + 1, now
                session.steps = 0 if each.final else session.steps + each.steps
        due = [each for each in requests if self.save_every and each.session.seq % self.save_every == 0]
        errors = self._live.save([each.session for each in due])  # not under the lock: others go on meanwhile
        with self._lock:
            for each, error in zip(due, errors, strict=True):
                # Sent again, the chunk gets the outputs that are there, or it is read again from what is stored.
                each.error = error
                if error is not None and self._live.shared:
                    self._live.forget(each.session, error)
            again = [
                each for each in requests if isinstance(each.error, Elsewhere) and self._begins_again(each)
            ]
            for each in requests:
                if each in again:
                    continue
                if each.error is None:
                    self._counts["chunks"] += 1
                    self._counts["steps"] += each.steps
                each.pending = each.session.busy = False
                if each.done is not None:
                    each.done.set()
        if empty := [each for each in again if not each.steps]:
            self._finish(empty)

    def _begins_again(self, request: Request) -> bool:
        """Whether a request has to run once more, from what another pool stored of its session; else it is complete."""
        try:
            if request.tries >= _TRIES:
                return False
            session = self._live.idle(request.session.name)
            request.again(session)
            if self._was_read(session, request.seq):
                request.answer = session.last
                return False
            self._read(request)
            if not request.steps:
                self._write(request)
            session.busy = True
            return True
        except Exception as error:
            request.error = error
            return False

    def _fail(self, request: Request, error: Exception | None) -> None:
        with self._lock:
            request.error = error
            request.pending = request.session.busy = False
        if request.done is not None:
            request.done.set()
