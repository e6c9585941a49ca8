"""What a native call has besides the plain cell: `tt_options` of csrc/call.h."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.kernels.native.layout import pad
from throughtime.kernels.native.library import Library, NativeCall
from throughtime.kernels.native.rows import Rows
from throughtime.kernels.reference import Zoneout

_FOLLOWS = 16  # TT_OPTIONS: the cell's number says that options lie behind the call


class NativeOptions(ctypes.Structure):
    """`tt_options`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("width", "reset_before", "zoneout")),
        *((name, ctypes.c_double) for name in ("share_h", "share_c")),
        *((name, ctypes.c_void_p) for name in ("keep_h", "keep_c", "weight_hr")),
    ]


class NativeCallWithOptions(ctypes.Structure):
    """`tt_call_with_options`."""

    _fields_ = [("call", NativeCall), ("options", NativeOptions)]


class Zone(NamedTuple):
    """Zoneout on packed rows: the share of old value for each tensor of the state, or bool masks [N, H] where there are any."""

    rates: tuple[float, ...]
    keep: tuple[Tensor | None, ...]

    @staticmethod
    def of(zoneout: Zoneout | None, rows: Rows) -> Zone | None:
        """The masks [T, B, H] of the reference, with the sequences in the caller's order, as rows."""
        if zoneout is None:
            return None
        keep = zoneout.keep or (None,) * len(zoneout.rates)
        return Zone(zoneout.rates, tuple(None if mask is None else rows.pack(mask) for mask in keep))


class Options(NamedTuple):
    """The options of one call; tensors are padded."""

    width: int  # padded size of h
    reset_before: bool
    zone: Zone | None
    weight_hr: Tensor | None

    @property
    def plain(self) -> bool:
        """Whether the call has none."""
        return not self.reset_before and self.zone is None and self.weight_hr is None


def supported(library: Library) -> bool:
    """Whether the compiled library has the options that this file describes."""
    size = getattr(library._handle, f"tt_size_of_options_{library.isa}", None)
    return size is not None and size() == ctypes.sizeof(NativeCallWithOptions)


def run(
    library: Library,
    direction: str,
    wide: bool,
    numbers: dict[str, int],
    tensors: dict[str, Tensor | None],
    options: Options,
) -> None:
    """Call forward or backward, with the options if there are any.

    Raises: MemoryError when the packed weights do not fit.
    """
    if options.plain:
        library.run(direction, wide, numbers, tensors)
        return
    numbers = {**numbers, "cell": numbers["cell"] + _FOLLOWS}
    given = NativeOptions(width=options.width, reset_before=int(options.reset_before))
    masks: list[Tensor] = []  # alive until the call returns
    if options.zone is not None:
        given.zoneout = 1
        sizes = {"h": options.width, "c": numbers["hidden"]}
        for name, rate, mask in zip("hc", options.zone.rates, options.zone.keep, strict=False):
            setattr(given, f"share_{name}", rate)
            if mask is not None:
                masks.append(pad(mask.view(torch.uint8), sizes[name]))
                setattr(given, f"keep_{name}", masks[-1].data_ptr())
    if options.weight_hr is not None:
        given.weight_hr = options.weight_hr.data_ptr()
    plain = NativeCall(**numbers, **{k: v.data_ptr() for k, v in tensors.items() if v is not None})
    call = NativeCallWithOptions(plain, given)
    handle = library._handle
    function = handle.tt_forward if direction == "forward" else handle.tt_backward
    if function(int(wide), ctypes.byref(call)):
        raise MemoryError("no memory for the packed weights of a recurrent layer")
