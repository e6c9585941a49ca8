"""Chunks of sessions on their way through a pool."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.sessions.live import Session

NOTHING = torch.zeros(0, 0)  # the outputs of no steps


@dataclass(slots=True)
class Answer:
    """Given out again."""

    value: Any


class Request:
    """One chunk of one session on its way."""

    __slots__ = (
        "answer",
        "before",
        "carried",
        "chunk",
        "data",
        "deadline",
        "done",
        "error",
        "final",
        "outputs",
        "pending",
        "read",
        "seq",
        "session",
        "steps",
        "tries",
    )

    def __init__(self, session: Session, seq: int, data: Any, final: bool, deadline: float) -> None:
        self.seq, self.data, self.final, self.deadline = seq, data, final, deadline
        self.tries = 0
        self.begin(session)
        self.done: threading.Event | Promise | None = None
        self.pending = True  # the session is busy with it

    def begin(self, session: Session) -> None:
        """Before its first step, on the session as it is now."""
        self.session = session
        self.chunk = NOTHING
        self.steps = 0  # of the chunk
        self.read = 0  # steps that were run
        self.carried = session.carried  # after it
        self.before: dict[str, Tensor] | None = None  # the state before it, where it may have to be restored
        self.outputs: list[Tensor] = []
        self.answer: Any = None
        self.error: Exception | None = None
        self.tries += 1

    def starts(self) -> bool:
        """Whether it is still wanted; from now on it cannot be given up."""
        return self.read > 0 or not isinstance(self.done, Promise) or self.done.starts()

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.answer


class Promise:
    """Where the answer to a request goes that nobody waits for."""

    def __init__(self, request: Request, future: Future[Any]) -> None:
        self.request, self.future = request, future

    def starts(self) -> bool:
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def set(self) -> None:
        if self.request.error is not None:
            self.future.set_exception(self.request.error)
        else:
            self.future.set_result(self.request.answer)
