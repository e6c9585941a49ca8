"""The C interface of generation, as ctypes sees it."""

from __future__ import annotations

import ctypes

from throughtime.kernels.native.library import load


class LayerStruct(ctypes.Structure):
    """`tt_generation_layer` of csrc/generate.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("cell", "activation", "inputs", "hidden", "padded")] + [
        (name, ctypes.c_void_p)
        for name in ("weight_ih", "weight_hh", "scale_ih", "scale_hh", "bias", "bias_hn", "h", "c")
    ]


class CallStruct(ctypes.Structure):
    """`tt_generation` of csrc/generate.h."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("layers", "batch", "symbols", "weights", "tokens", "given", "threads")
        ),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_int64) for name in ("position", "top_k")),
        *((name, ctypes.c_double) for name in ("temperature", "top_p")),
        *((name, ctypes.c_int64) for name in ("banned_count", "stop_count")),
        ("layer", ctypes.POINTER(LayerStruct)),
        *(
            (name, ctypes.c_void_p)
            for name in ("table", "embedding", "head_weight", "head_bias", "head_scale")
        ),
        *((name, ctypes.c_void_p) for name in ("banned", "stops", "ids", "finished", "logits")),
        ("done", ctypes.c_int64),
    ]


def unavailable() -> str | None:
    """Why there is no native generation on this machine, or None."""
    library = load()
    if isinstance(library, str):
        return library
    size = getattr(library.handle, "tt_size_of_generation", None)
    if size is None or size() != ctypes.sizeof(CallStruct):
        return "the native library is of another version: install throughtime again"
    return None
