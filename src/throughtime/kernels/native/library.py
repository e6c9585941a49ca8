"""The compiled library: how it is found, checked and called.

The library describes its own structs (`tt_describe`); the ctypes structures are built from that, so their fields cannot differ.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any

import torch

GATES = {"rnn": 1, "gru": 3, "lstm": 4}  # blocks of rows in a cell's weights
ROWS_OF_A, DEPTH_OF_A, COLUMNS_OF_C = 1, 2, 3  # tt_blocked of csrc/matmul.h
_TYPES: dict[str, Any] = {"integer": ctypes.c_int64, "number": ctypes.c_double, "pointer": ctypes.c_void_p}


class Library:
    """The library's functions, for one instruction set chosen when it was loaded.

    `structs` are the ctypes structures of csrc/call.h, matmul.h and generate.h by name; `cells` and `activations` number names.
    """

    def __init__(self, handle: ctypes.CDLL, isa: str) -> None:
        self.handle = handle
        self.isa = isa
        self.panels: tuple[int, int] = tuple(handle.tt_panel(wide) for wide in (0, 1))
        fields: dict[str, list[tuple[str, Any]]] = {}
        names: dict[str, list[str]] = {"cell": [], "activation": []}
        for line in handle.tt_describe().decode().splitlines():
            kind, name = line.split()
            if kind == "struct":
                fields[name] = []
            elif kind in names:
                names[kind].append(name)
            else:
                fields[list(fields)[-1]].append((name, _TYPES[kind]))
        self.structs: dict[str, Any] = {
            name: type(name, (ctypes.Structure,), {"_fields_": f}) for name, f in fields.items()
        }
        self.cells = {name: number for number, name in enumerate(names["cell"])}
        self.activations = {name: number for number, name in enumerate(names["activation"])}
        self.call: Any = self.structs["call"]  # constructed for every call
        self.tt_forward = handle.tt_forward
        self.tt_backward = handle.tt_backward

    def pad(self, hidden: int, wide: bool) -> int:
        """`hidden` rounded up to whole panels of the matrix product, to which sizes are padded inside."""
        panel: int = self.panels[wide]
        return -(-hidden // panel) * panel

    def multiply(self, product: Any, dtype: torch.dtype) -> None:
        """A matrix product over all steps, by itself: for tests.

        Raises: MemoryError when the packed matrices do not fit.
        """
        if self.handle.tt_multiply(dtype == torch.float64, ctypes.byref(product)):
            raise MemoryError("no memory for the packed matrices of a product")


@functools.cache
def load() -> Library | str:
    """The library, or the reason why there is none."""
    if sys.platform == "win32":
        return "the library is not built on Windows: its code is written for GCC and Clang"
    path = _find(f"libthroughtime_native.{'dylib' if sys.platform == 'darwin' else 'so'}")
    if path is None:
        return "the library was not built: install again where there is a C++ compiler"
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return f"{path.name} cannot be loaded: {error}"
    if not hasattr(handle, "tt_describe") or not hasattr(handle, "tt_bf16_can_run"):
        return f"{path.name} is of another version: install throughtime again"
    handle.tt_isa.restype = handle.tt_describe.restype = ctypes.c_char_p
    handle.tt_saved_row.restype = ctypes.c_int64
    handle.tt_release.restype = None
    isa = handle.tt_isa()
    if isa is None:
        return f"THROUGHTIME_ISA={os.environ.get('THROUGHTIME_ISA')} cannot run on this processor"
    library = Library(handle, isa.decode())
    missing = [
        f for name, needed in _NEEDED.items() for f in needed if not hasattr(library.structs.get(name), f)
    ]
    if missing:
        return f"{path.name} is of another version, without {', '.join(missing)}: install throughtime again"
    return library


# The fields that Python sets, or the library is of another version.
_NEEDED = {
    "stack": ("wide", "cell", "activation", "reset_before", "layers", "directions", "bf16", "weights"),
    "weights": (
        "inputs", "units", "columns", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "weight_hr",
        "gain_ih", "gain_hh", "gain_c", "bias_c",
    ),
    "masks": ("h_mask", "keep_h", "keep_c"),
    "call": (
        "stack", "steps", "batch", "total", "training", "reverse", "threads", "split", "chunk_rows", "zoneout", "fraction_h",
        "fraction_c", "offsets", "masks", "carry_scale", "x", "y", "h0", "c0", "h_n", "c_n", "saved", "dy", "dh_n", "dc_n", "dx",
        "dh0", "dc0", "gradients", "seconds",
    ),
    "generation_layer": (
        "cell", "activation", "inputs", "hidden", "padded", "weight_ih", "weight_hh", "scale_ih", "scale_hh", "bias", "bias_hn",
        "h", "c",
    ),
    "generation": (
        "layers", "batch", "symbols", "weights", "tokens", "num_read", "threads", "seed", "position", "top_k", "temperature",
        "top_p", "banned_count", "stop_count", "layer", "table", "embedding", "head_weight", "head_bias", "head_scale", "banned",
        "stops", "ids", "finished", "logits", "done",
    ),
    "stream": (
        "layers", "rows", "threads", "weights", "inputs", "outputs", "layer", "slots", "offsets", "x", "y",
        "head_weight", "head_bias", "head_scale",
    ),
    "decode": (
        "layers", "rows", "threads", "step", "embedded", "summarized", "fed", "attention", "length", "memory", "compared",
        "features", "symbols", "count", "end", "width", "layer", "embedding", "summary", "keys", "outputs", "lengths",
        "query_weight", "query_bias", "score_weight",
        "combine_weight", "head_weight", "head_bias", "excluded", "rules", "symbol", "parent",
        "source", "states", "new_states", "weights", "logits", "values", "places", "ends",
    ),
}  # fmt: skip


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
