"""Who runs a call, and why the others do not.

Each backend answers `refusal(call)`: None, or the reason in words. The first that does not refuse runs the call; a backend
that was asked for by name runs it or raises its reason. Nothing changes backend in silence.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from throughtime.errors import BackendError, one_of
from throughtime.kernels.aten import AtenBackend, CudnnBackend
from throughtime.kernels.call import Call
from throughtime.kernels.native.backend import NativeBackend


class Backend(Protocol):
    """One way to run recurrences."""

    name: str

    @property
    def runs(self) -> str: ...  # in words, for people

    def unavailable(self) -> str | None: ...
    def refusal(self, call: Call) -> str | None: ...


class ReferenceBackend:
    """The loop in plain torch, `throughtime.kernels.reference`."""

    name = "reference"
    runs = "every cell, every option, any device; twice differentiable, vmap, forward-mode AD, torch.compile"

    def unavailable(self) -> str | None:
        """It needs torch alone."""
        return None

    def refusal(self, call: Call) -> str | None:
        """It runs everything."""
        return None


BACKENDS: tuple[Backend, ...] = (CudnnBackend(), NativeBackend(), AtenBackend(), ReferenceBackend())
NAMES = tuple(backend.name for backend in BACKENDS)


class _Demand(threading.local):
    def __init__(self) -> None:
        # In the instance, not in the class: there torch.compile watches it, and compiles again when it changes.
        self.backend: str | None = None


_demand = _Demand()


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Every layer called in this block (and thread) runs on the backend of that name, or raises its reason.

    A layer's own `backend=` argument goes before this. None lifts an outer demand. A compiled layer is compiled again for it.
    Raises: InputError for an unknown name.
    """
    if name is not None:
        one_of("backend", name, NAMES)
    outer, _demand.backend = _demand.backend, name
    try:
        yield
    finally:
        _demand.backend = outer


def choose(call: Call, demanded: str | None = None) -> Backend:
    """The backend that runs `call`.

    Raises: BackendError with the reason when the demanded backend cannot.
    """
    wanted = demanded if demanded is not None else _demand.backend
    for backend in BACKENDS:
        if wanted is not None and backend.name != wanted:
            continue
        reason = backend.refusal(call) or backend.unavailable()
        if reason is None:
            return backend
        if wanted is not None:
            raise BackendError(f"backend {wanted!r} was asked for by name: {reason}")
    raise AssertionError("the reference refuses nothing")


class Report:
    """Who runs what here; `print` it, or look at `rows`: (backend, does it run, why)."""

    def __init__(self, title: str, rows: list[tuple[str, bool, str]]) -> None:
        self.title = title
        self.rows = rows

    def __str__(self) -> str:
        lines = [f"{name:<10} {'yes' if runs else 'no':<4} {why}" for name, runs, why in self.rows]
        return "\n".join([self.title, *lines])

    __repr__ = __str__


def backends(explain: Call | None = None) -> Report:
    """Who runs recurrences on this machine, in the order in which they are asked, and why the others do not.

    With `explain` (a `throughtime.Call`, or what `layer.call(...)` returns) the answer is for that call.
    """
    rows = []
    for backend in BACKENDS:
        reason = (backend.refusal(explain) if explain is not None else None) or backend.unavailable()
        rows.append((backend.name, reason is None, reason or backend.runs))
    return Report("backend    runs what" if explain is None else "backend    runs this call", rows)
