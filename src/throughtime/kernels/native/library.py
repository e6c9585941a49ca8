"""The compiled library: its C structs, how tensors are laid out for it, and how it is found, checked and called.

The hidden size H is padded to whole panels of the matrix product. Padding is zero in the weights, biases and states, and no
weight reads from it, so it has no effect on the result.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_INTEGERS = (
    "cell", "activation", "reset_before", "steps", "batch", "begin", "end", "units", "columns", "hidden", "width",
    "reverse", "training", "threads", "split", "ldg", "packed_ready", "bf16", "zoneout",
)  # fmt: skip
_POINTERS = (
    "offsets", "weight_hh", "weight_hr", "bias_ih", "bias_hh", "gain_ih", "gain_hh", "gain_c", "bias_c", "peephole", "h_mask",
    "keep_h", "keep_c", "packed", "gates", "y", "y_before", "c", "h0", "c0", "h_state", "c_state", "dy", "dc", "dh_final",
    "dc_final", "dgates", "dh_state", "dc_state", "dbias_ih", "dbias_hh", "dpeephole", "dgain_ih", "dgain_hh", "dgain_c",
    "dbias_c",
)  # fmt: skip
_PRODUCT = (
    "rows", "columns", "depth", "lda", "ldb", "ldc", "transposed_a", "transposed_b", "blocked", "block", "padded",
    "accumulate", "threads",
)  # fmt: skip


class NativeCall(ctypes.Structure):
    """`tt_call` of csrc/call.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _INTEGERS),
        *((name, ctypes.c_double) for name in ("share_h", "share_c")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


class NativeProduct(ctypes.Structure):
    """`tt_product` of csrc/matmul.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _PRODUCT),
        *((name, ctypes.c_void_p) for name in "abc"),
    ]


ROWS_OF_A, DEPTH_OF_A, COLUMNS_OF_C = 1, 2, 3  # tt_blocked
ACTIVATIONS = {"tanh": 0, "relu": 1, "sigmoid": 2, "identity": 3}


class Layout(NamedTuple):
    """How a cell's gates are stored: a row of gates for each row of the batch, in blocks of padded-H columns."""

    cell: int  # tt_cell of csrc/call.h
    gates: int  # blocks of rows in weight_ih and weight_hh
    blocks: int  # blocks of columns in a row of gates
    inputs: slice  # the blocks that hold the input projection
    # dW_hh as products: the blocks of gradients, the gates of weight_hh they belong to, and whether the weights read the
    # first block of the gates (q) instead of h.
    recurrent: tuple[tuple[slice, slice, bool], ...]

    def row(self, size: int, projected: bool, normed: bool) -> int:
        """The number of elements in a row of gates; layer norm appends both normalized maps and their scales."""
        # Not a multiple of a power of two: rows would compete for the same cache lines.
        return (self.blocks + projected + 2 * self.gates * normed) * size + 16


LAYOUTS = {
    "rnn": Layout(0, 1, 1, slice(0, 1), ((slice(0, 1), slice(0, 1), False),)),
    "gru": Layout(  # hn | r | z | n
        1, 3, 4, slice(1, 4), ((slice(1, 3), slice(0, 2), False), (slice(0, 1), slice(2, 3), False))
    ),
    "gru reset before": Layout(  # q | r | z | n, q = r * h
        1, 3, 4, slice(1, 4), ((slice(1, 3), slice(0, 2), False), (slice(3, 4), slice(2, 3), True))
    ),
    "lstm": Layout(2, 4, 4, slice(0, 4), ((slice(0, 4), slice(0, 4), False),)),
}


def pad(value: Tensor, size: int) -> Tensor:
    """The last dimension extended with zeros to `size`; contiguous."""
    short = size - value.shape[-1]
    return value.contiguous() if short == 0 else F.pad(value, (0, short))


def unpad(value: Tensor, hidden: int) -> Tensor:
    """The first `hidden` columns, contiguous."""
    return value if value.shape[-1] == hidden else value[..., :hidden].contiguous()


class Library:
    """The library's functions, for one instruction set chosen when it was loaded."""

    def __init__(self, handle: ctypes.CDLL, isa: str, products: str = "") -> None:
        self.handle = handle
        self.isa = isa
        self.multiplies = (products or _FASTER.get(isa)) == "native"
        self.panels = tuple(handle.tt_panel(wide) for wide in (0, 1))

    def pad(self, hidden: int, wide: bool) -> int:
        """`hidden` rounded up to whole panels."""
        panel: int = self.panels[wide]
        return -(-hidden // panel) * panel

    def forward(self, call: NativeCall, dtype: torch.dtype) -> None:
        """Raises: MemoryError when the packed weights do not fit."""
        if self.handle.tt_forward(dtype == torch.float64, ctypes.byref(call)):
            raise MemoryError(_NO_MEMORY)

    def backward(self, call: NativeCall, dtype: torch.dtype) -> None:
        """Raises: MemoryError when the packed weights do not fit."""
        if self.handle.tt_backward(dtype == torch.float64, ctypes.byref(call)):
            raise MemoryError(_NO_MEMORY)

    def multiply(self, product: NativeProduct, dtype: torch.dtype) -> None:
        """Raises: MemoryError when the packed matrices do not fit."""
        if self.handle.tt_multiply(dtype == torch.float64, ctypes.byref(product)):
            raise MemoryError(_NO_MEMORY)

    def packed(self, call: NativeCall, dtype: torch.dtype, back: bool) -> int:
        """The number of elements of a call's packed weights."""
        return int(self.handle.tt_packed(dtype == torch.float64, ctypes.byref(call), back))

    def flush_denormals(self) -> tuple[int, int]:
        """Treat denormals as zero on all of torch's threads; returns the arguments of `restore_denormals`."""
        threads = torch.get_num_threads()
        return threads, self.handle.tt_flush_denormals(threads, 1)

    def restore_denormals(self, threads: int, flushed: int) -> None:
        """Undo `flush_denormals`."""
        if not flushed:
            self.handle.tt_flush_denormals(threads, 0)


_NO_MEMORY = "no memory for the packed weights of a recurrent layer"
# Whose matrix products over all steps are faster, by benchmark; torch's for the instruction sets not listed.
_FASTER = {"avx2": "native"}


@functools.cache
def load() -> Library | str:
    """The library, or the reason why there is none."""
    name = {"darwin": "libthroughtime_native.dylib", "win32": "throughtime_native.dll"}.get(
        sys.platform, "libthroughtime_native.so"
    )
    path = _find(name)
    if path is None:
        return "the library was not built: install again where there is a C++ compiler"
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return f"{path.name} cannot be loaded: {error}"
    size = getattr(handle, "tt_size_of_call", None)  # missing in the first versions
    if size is None or size() != ctypes.sizeof(NativeCall) or not hasattr(handle, "tt_multiply"):
        return f"{path.name} is of another version: install throughtime again"
    handle.tt_isa.restype = ctypes.c_char_p
    handle.tt_packed.restype = ctypes.c_int64
    isa = handle.tt_isa()
    if isa is None:
        return f"THROUGHTIME_ISA={os.environ.get('THROUGHTIME_ISA')} cannot run on this processor"
    products = os.environ.get("THROUGHTIME_PRODUCTS", "")
    if products not in ("", "native", "torch"):
        return f"THROUGHTIME_PRODUCTS must be native or torch, got {products!r}"
    return Library(handle, isa.decode(), products)


def _find(name: str) -> Path | None:
    """The library of THROUGHTIME_LIBRARY, or the one in this package; an editable install has it in another folder."""
    import throughtime.kernels.native as package

    override = os.environ.get("THROUGHTIME_LIBRARY")
    if override:
        return Path(override)
    for folder in package.__path__:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    return None
