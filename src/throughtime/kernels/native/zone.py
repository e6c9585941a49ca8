"""Zoneout as the kernel takes it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from throughtime.kernels.native.rows import Rows
from throughtime.kernels.reference import Zoneout


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
