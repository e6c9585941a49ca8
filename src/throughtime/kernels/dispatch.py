"""Which backends there are, which calls each of them runs, and who runs a call.

Each backend answers `refusal(call)`: None, or the reason in words. The first that does not refuse runs the call; a backend
that was asked for by name runs it or raises its reason. There is no silent fallback.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from throughtime.errors import BackendError, one_of
from throughtime.kernels import aten
from throughtime.kernels.native.library import load
from throughtime.kernels.native.recurrence import autograd, operators, precision
from throughtime.kernels.native.recurrence.rows import pool
from throughtime.kernels.stack import Stack, Stacked, run_reference


class Call(NamedTuple):
    """A call of a recurrent layer as plain data: choosing a backend needs neither the tensors nor the hardware."""

    cell: str  # "rnn", "gru", "lstm", or the name of a cell's class
    extras: tuple[str, ...] = ()  # what torch.nn's layer cannot do: "layer_norm", "peepholes", ...
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    ragged: bool = False  # rows of different lengths
    empty_rows: bool = False  # a row of length zero
    # "torch.func", "forward-mode AD", "torch.compile" or "torch.jit.trace" when the call is under one
    transform: str = ""
    autocast: bool = False  # under torch.autocast on the CPU
    projected: bool = False  # an LSTM whose output is projected, proj_size > 0
    unreadable: str = ""  # why the tensors are not plain memory, see `unreadable`
    carry_scale: bool = False  # the backward pass multiplies the gradient of the carried state at some steps


def active_transform() -> str:
    """The function transform that is active now, or ""."""
    # What changes the derivatives comes first: a compiled torch.func.vmap is a vmap.
    if torch._C._are_functorch_transforms_active():
        return "torch.func"
    if forward_ad._current_level >= 0:
        return "forward-mode AD"
    if torch.compiler.is_compiling():
        return "torch.compile"  # or torch.export
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace"
    return ""


def under_autocast(device: str) -> bool:
    """Whether torch.autocast is on for the CPU and the call runs there; on CUDA no backend depends on it."""
    return device == "cpu" and torch.is_autocast_enabled("cpu")


def unreadable(tensors: Iterable[Tensor | None]) -> str:
    """Why some of these tensors are not dense numbers in memory, which a kernel could read by address; "" when all are.

    Raises: RuntimeError for one whose memory was freed: torch's own kernels would read it.
    """
    tracing = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if tracing or torch._C._len_torch_dispatch_stack():
        return ""  # operators of torch.library see them
    for value in tensors:
        if value is None:
            continue
        if type(value) not in _PLAIN:
            return f"a tensor is a {type(value).__name__}"
        if value._is_zerotensor():
            return _ZEROS
        if value.layout is not torch.strided or value.is_nested:
            return "a tensor is not dense"
        if value.is_cpu and not torch._C._functorch.is_functorch_wrapped_tensor(value):
            if torch._is_functional_tensor(value):
                return "a tensor is a functional one"
            if value.numel() and value.data_ptr() == 0:
                raise RuntimeError(
                    f"inputs, states and weights must have memory, got a tensor {list(value.shape)} whose storage is empty: "
                    "was it freed?"
                )
    return ""


_PLAIN = (Tensor, torch.nn.Parameter)
_ZEROS = "a tensor is zeros without memory"  # torch._efficientzerotensor


def eager() -> bool:
    """Whether a call is an ordinary one: no transform, mode or autocast changes what an operation does."""
    return not (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_any_autocast_enabled()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


class Backend(Protocol):
    """One way to run recurrences."""

    name: str

    @property
    def runs(self) -> str: ...  # in words

    def unavailable(self) -> str | None: ...
    def refusal(self, call: Call) -> str | None: ...
    def run(
        self, stack: Stack, x: Tensor, components: Sequence[Stacked], lengths: Tensor | None, named: bool
    ) -> tuple[Tensor, list[Stacked]]:
        """Run the stack over x [T, B, D], lengths int64 [B] or None: outputs [T, B, H] and the components of the final state.

        `named`: whether this backend was asked for by name.
        """
        ...


class CudnnBackend:
    """torch's CUDA recurrences: cuDNN."""

    name = "cudnn"
    runs = "RNN (tanh, relu), GRU (reset after), LSTM as in torch.nn; full and ragged batches on CUDA"

    def unavailable(self) -> str | None:
        """Why there is no cuDNN here, or None."""
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        if not torch.backends.cudnn.enabled:
            return "torch.backends.cudnn.enabled is False"
        if not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
            return "this torch was built without cuDNN"
        return None

    def refusal(self, call: Call) -> str | None:
        """Why this call cannot run here, or None."""
        if call.device != "cuda":
            return f"cudnn runs on CUDA, this call is on {call.device}"
        if call.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return f"cudnn has no recurrence for {call.dtype}"
        if call.empty_rows:
            return "cudnn cannot run a row of length zero"
        return _torch_refusal(self.name, call)

    def run(
        self, stack: Stack, x: Tensor, components: Sequence[Stacked], lengths: Tensor | None, named: bool
    ) -> tuple[Tensor, list[Stacked]]:
        """See `Backend.run`."""
        return aten.run(stack, x, components, lengths)


def _torch_refusal(name: str, call: Call) -> str | None:
    """Why neither of torch's backends can run this call, or None."""
    if call.cell not in ("rnn", "gru", "lstm"):
        return f"{name} has no kernel for {call.cell}"
    if call.extras:
        return f"{name} has no kernel for {call.cell} with {', '.join(call.extras)}"
    if call.carry_scale:
        return f"{name} does not multiply the gradient of the carried state"
    # A trace of torch's own operation holds for any number of steps.
    if call.transform and call.transform != "torch.jit.trace":
        return f"{name} cannot run under {call.transform}"
    return None


_NATIVE_EXTRAS = (
    "layer_norm",
    "zoneout",
    "reset_after=False",
    "peepholes",
    "recurrent_dropout",
    "different hidden sizes",
    "nonlinearity=sigmoid",
    "nonlinearity=identity",
)


class NativeBackend:
    """C++ on the CPU."""

    name = "native"

    @property
    def runs(self) -> str:
        """What it can run."""
        done = "RNN, GRU, LSTM with every option; full and ragged batches; float32, float64"
        return f"{done}; {precision.in_words()}"

    def unavailable(self) -> str | None:
        """Why the library is not there, or None."""
        return operators.MISSING

    def refusal(self, call: Call) -> str | None:
        """Why this call cannot run here, or None."""
        if call.device != "cpu":
            return f"native runs on the CPU, this call is on {call.device}"
        if call.cell not in ("rnn", "gru", "lstm"):
            return f"native has no kernel for {call.cell}"
        unknown = [extra for extra in call.extras if extra not in _NATIVE_EXTRAS]
        if unknown:
            return f"native has no kernel for {call.cell} with {', '.join(unknown)}"
        if call.carry_scale and torch._C._len_torch_dispatch_stack():
            return "native multiplies the gradient of the carried state in eager calls only"
        if call.dtype not in (torch.float32, torch.float64, torch.bfloat16):
            name = str(call.dtype).removeprefix("torch.")
            return f"native computes in float32, float64 and bfloat16, this call is in {name}"
        if call.transform == "torch.compile":
            return _graph_refusal(call)
        if call.transform:
            return f"native cannot run under {call.transform}"
        if call.unreadable:
            return f"native reads memory, and {call.unreadable}"
        if call.dtype == torch.bfloat16 or call.autocast:
            return _bfloat16_refusal()
        return None

    def run(
        self, stack: Stack, x: Tensor, components: Sequence[Stacked], lengths: Tensor | None, named: bool
    ) -> tuple[Tensor, list[Stacked]]:
        """See `Backend.run`."""
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return operators.run(stack, x, components, lengths)
        return autograd.run(stack, x, components, lengths, named)


def _bfloat16_refusal() -> str | None:
    """Why a call in bfloat16 or under autocast cannot run here, or None."""
    if (
        torch._C._len_torch_dispatch_stack()
    ):  # the operators that a dispatch mode sees take float32 and float64 only
        return "native computes in float32 and float64 only under a torch_dispatch mode, without autocast"
    found = precision.arithmetic()
    return found if isinstance(found, str) else None


def _graph_refusal(call: Call) -> str | None:
    """Why a compiled graph cannot hold this call as operators, or None."""
    if call.autocast or call.dtype not in (torch.float32, torch.float64):
        return f"native computes in float32 and float64 only under {call.transform}, without autocast"
    return None


class AtenBackend:
    """torch's CPU recurrences: fast on a full batch."""

    name = "aten"
    runs = "RNN (tanh, relu), GRU (reset after), LSTM as in torch.nn; full batches on the CPU"

    def unavailable(self) -> str | None:
        """Why nothing at all can run here, or None."""
        return None

    def refusal(self, call: Call) -> str | None:
        """Why this call cannot run here, or None."""
        if call.device != "cpu":
            return f"aten runs on the CPU, this call is on {call.device}"
        if call.ragged:
            return "aten runs full batches only: torch's packed loop on the CPU is many times slower than the padded one"
        if call.unreadable == _ZEROS:  # oneDNN reads it all the same
            return f"aten reads memory, and {call.unreadable}"
        if call.autocast and call.cell == "lstm":
            # oneDNN has no such primitive on processors without bfloat16 instructions, and torch does not ask it first.
            return "aten does not run an LSTM under autocast: torch's kernel fails there on many processors"
        return _torch_refusal(self.name, call)

    def run(
        self, stack: Stack, x: Tensor, components: Sequence[Stacked], lengths: Tensor | None, named: bool
    ) -> tuple[Tensor, list[Stacked]]:
        """See `Backend.run`."""
        return aten.run(stack, x, components, lengths)


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

    def run(
        self, stack: Stack, x: Tensor, components: Sequence[Stacked], lengths: Tensor | None, named: bool
    ) -> tuple[Tensor, list[Stacked]]:
        """See `Backend.run`."""
        return run_reference(stack, x, components, lengths)


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

    A layer's own `backend=` argument takes precedence. None lifts an outer demand. A compiled layer is compiled again for it.
    Raises: InputError for an unknown name.
    """
    if name is not None:
        one_of("backend", name, NAMES)
    outer, _demand.backend = _demand.backend, name
    try:
        yield
    finally:
        _demand.backend = outer


def demanded(of_layer: str | None) -> str | None:
    """The backend that was asked for by name: by the layer, or else by `use_backend`."""
    return of_layer if of_layer is not None else _demand.backend


def choose(call: Call, of_layer: str | None = None) -> Backend:
    """The backend that runs `call`.

    Raises: BackendError with the reason when the demanded backend cannot.
    """
    wanted = demanded(of_layer)
    for backend in BACKENDS:
        if wanted is not None and backend.name != wanted:
            continue
        reason = backend.refusal(call) or backend.unavailable()
        if reason is None:
            return backend
        if wanted is not None:
            raise BackendError(f"backend {wanted!r} was asked for by name: {reason}")
    raise AssertionError("the reference refuses nothing")


def release_memory() -> int:
    """Free what native keeps for its next calls: at most 512 MB of unused tensors, and the scratch memory of its threads.

    Returns: the bytes of those tensors.
    """
    found = pool.free_bytes
    pool.release()
    library = load()
    if not isinstance(library, str):
        library.handle.tt_release()
    return found


class Report:
    """Which backends run here; `print` it, or read `rows`: (backend, does it run, why)."""

    def __init__(self, title: str, rows: list[tuple[str, bool, str]]) -> None:
        self.title = title
        self.rows = rows

    def __str__(self) -> str:
        lines = [f"{name:<10} {'yes' if runs else 'no':<4} {why}" for name, runs, why in self.rows]
        return "\n".join([self.title, *lines])

    __repr__ = __str__


def backends(explain: Call | None = None) -> Report:
    """Which backends run recurrences on this machine, in the order in which they are asked, and why the others do not.

    With `explain` (a `throughtime.Call`, or what `layer.call(...)` returns) the answer is for that call.
    """
    rows = []
    for backend in BACKENDS:
        reason = (backend.refusal(explain) if explain is not None else None) or backend.unavailable()
        rows.append((backend.name, reason is None, reason or backend.runs))
    return Report("backend    runs what" if explain is None else "backend    runs this call", rows)
