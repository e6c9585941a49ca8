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
    """One chunk of one session on its way. What most requests never set stands in the class."""

    chunk = NOTHING
    steps = 0  # of the chunk
    read = 0  # steps that were run
    before: dict[str, Tensor] | None = None  # the state before it, where it may have to be restored
    outputs: tuple[Tensor, ...] = ()
    answer: Any = None
    error: Exception | None = None
    done: threading.Event | Promise | None = None
    pending = True  # the session is busy with it
    tries = 1

    def __init__(self, session: Session, seq: int, data: Any, final: bool, deadline: float) -> None:
        self.seq, self.data, self.final, self.deadline = seq, data, final, deadline
        self.session = session
        self.carried = session.carried  # after it

    def again(self, session: Session) -> None:
        """Before its first step once more, on the session as it is now."""
        self.session, self.carried, self.before = session, session.carried, None
        self.chunk, self.steps, self.read, self.outputs = NOTHING, 0, 0, ()
        self.answer = self.error = None
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
