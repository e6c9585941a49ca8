"""Eigenvalues and singular values of the recurrent weights, one block for each gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from throughtime.flow.result import Spectrum

_BLOCKS = {"rnn": ("hh",), "gru": ("hr", "hz", "hn"), "lstm": ("hi", "hf", "hg", "ho")}


def spectra(recurrence: Any) -> dict[str, Spectrum]:
    """The spectrum of each recurrent block: "W_hh" of an RNN; "W_hr", "W_hz", "W_hn" of a GRU; "W_hi", ... of an LSTM.

    They say what the weights alone would do. With a projection a block is taken from h to h, W_hr W_h., [P, P]. A layer
    norm's gains are not in it. Of another cell: a parameter named weight_hh, square blocks of it, or a vector as a diagonal.
    Cost: one eigenvalue and one singular value decomposition of [H, H] for each block.
    """
    weight = getattr(recurrence, "weight_hh", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        return {}
    weight = weight.detach().double()
    if weight.dim() == 1:
        values = weight.abs().sort(descending=True).values.cpu()
        return {"W_hh": Spectrum(float(values[0]), values)}
    projection = getattr(recurrence, "weight_hr", None)
    names = _BLOCKS.get(getattr(recurrence, "kind", ""), ())
    if isinstance(projection, Tensor):
        blocks = [projection.detach().double() @ block for block in weight.chunk(len(names))]
    elif weight.dim() == 2 and weight.shape[0] % weight.shape[1] == 0:
        blocks = list(torch.split(weight, weight.shape[1]))
        if not names:
            names = ("hh",) if len(blocks) == 1 else tuple(f"hh[{number}]" for number in range(len(blocks)))
    else:
        return {}
    return {f"W_{name}": _spectrum(block.cpu()) for name, block in zip(names, blocks, strict=True)}


def _spectrum(block: Tensor) -> Spectrum:
    if not bool(torch.isfinite(block).all()):
        return Spectrum(float("nan"), torch.full((block.shape[0],), float("nan"), dtype=torch.float64))
    radius = float(torch.linalg.eigvals(block).abs().max())
    return Spectrum(radius, torch.linalg.svdvals(block))
