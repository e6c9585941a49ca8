"""How many files one training batch of the native LSTM passes through: a bound, so that the path stays readable."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import throughtime as tt
from throughtime.kernels.native import library

MOST_FILES = 11  # of cells/, kernels/ and layers/


@pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")
def test_a_training_batch_passes_through_few_files() -> None:
    layer = tt.LSTM(64, 128, backend="native").train()
    x, hx = torch.randn(35, 16, 64), (torch.randn(1, 16, 128), torch.randn(1, 16, 128))
    package = Path(tt.__file__).parent
    files: set[str] = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(package):
            files.add(path.relative_to(package).as_posix())

    sys.setprofile(profile)
    try:
        y, (h, c) = layer(x, hx)
        (y.sum() + h.sum() + c.sum()).backward()
    finally:
        sys.setprofile(None)
    passed = sorted(name for name in files if name.split("/")[0] in ("cells", "kernels", "layers"))
    # The forward half is the layer's and the backward half the kernel's: both were seen.
    assert {"layers/base.py", "kernels/native/recurrence/compute.py"} <= set(passed)
    assert layer.weight_hh_l0.grad is not None
    assert len(passed) <= MOST_FILES, f"{len(passed)} files: {', '.join(passed)}"
