"""The compiled library: found beside this file, checked, and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

_INTEGERS = (
    "cell",
    "activation",
    "steps",
    "batch",
    "hidden",
    "reverse",
    "training",
    "threads",
    "split",
    "ldg",
)
_POINTERS = (
    "offsets", "weight_hh", "bias", "peephole", "h_mask", "gates", "y", "c", "h_state", "c_state", "h0", "c0",
    "dy", "dc", "dgates", "dh_state", "dc_state", "dbias", "dpeephole",
)  # fmt: skip


class NativeCall(ctypes.Structure):
    """`tt_call` of csrc/call.h."""

    _fields_ = [(name, ctypes.c_int64) for name in _INTEGERS] + [
        (name, ctypes.c_void_p) for name in _POINTERS
    ]


class Library:
    """The library's functions, for one instruction set chosen when it was loaded."""

    def __init__(self, handle: ctypes.CDLL, isa: str) -> None:
        self._handle = handle
        self.isa = isa
        self.panels = tuple(handle.tt_panel(wide) for wide in (0, 1))

    def pad(self, hidden: int, wide: bool) -> int:
        """`hidden` rounded up to whole panels."""
        panel: int = self.panels[wide]
        return -(-hidden // panel) * panel

    def run(
        self, direction: str, wide: bool, numbers: dict[str, int], tensors: dict[str, Tensor | None]
    ) -> None:
        """Call forward or backward.

        Raises: MemoryError when the packed weights do not fit.
        """
        call = NativeCall(**numbers, **{k: v.data_ptr() for k, v in tensors.items() if v is not None})
        function = self._handle.tt_forward if direction == "forward" else self._handle.tt_backward
        if function(int(wide), ctypes.byref(call)):
            raise MemoryError("no memory for the packed weights of a recurrent layer")

    @contextmanager
    def flushed_denormals(self) -> Iterator[None]:
        """Denormals are zero on all of torch's threads in this block; afterwards as the caller had it."""
        threads = torch.get_num_threads()
        before = self._handle.tt_flush_denormals(threads, 1)
        try:
            yield
        finally:
            if not before:
                self._handle.tt_flush_denormals(threads, 0)


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
    if handle.tt_size_of_call() != ctypes.sizeof(NativeCall):
        return f"{path.name} is of another version: install throughtime again"
    handle.tt_isa.restype = ctypes.c_char_p
    isa = handle.tt_isa()
    if isa is None:
        return f"THROUGHTIME_ISA={os.environ.get('THROUGHTIME_ISA')} cannot run on this processor"
    return Library(handle, isa.decode())


def _find(name: str) -> Path | None:
    """The library of THROUGHTIME_LIBRARY, or the one in this package; an editable install has it in another folder."""
    import throughtime.kernels.native as package

    given = os.environ.get("THROUGHTIME_LIBRARY")
    if given:
        return Path(given)
    for folder in package.__path__:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    return None
