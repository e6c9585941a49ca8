"""How many files and functions a call of the native LSTM passes through: bounds, so that the path stays short and readable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import throughtime as tt
from throughtime.kernels.native import library

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")
MOST_FILES_OF_TRAINING = 11  # of cells/, kernels/ and layers/
MOST_FILES_OF_A_STEP, MOST_FUNCTIONS_OF_A_STEP = 12, 40


def passed_through(run: Callable[[], Any]) -> list[tuple[str, str]]:
    """(file, function) of every call of one of the package's Python functions."""
    package, calls = Path(tt.__file__).parent, []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(package):
            calls.append((path.relative_to(package).as_posix(), frame.f_code.co_name))

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("first", [True, False], ids=["the first call", "a later call"])
def test_a_training_batch_passes_through_few_files(first: bool) -> None:
    layer = tt.LSTM(64, 128, backend="native").train()
    x, hx = torch.randn(35, 16, 64), (torch.randn(1, 16, 128), torch.randn(1, 16, 128))
    if not first:
        layer(x, hx)

    def run() -> None:
        y, (h, c) = layer(x, hx)
        (y.sum() + h.sum() + c.sum()).backward()

    files = sorted(
        {file for file, _ in passed_through(run) if file.split("/")[0] in ("cells", "kernels", "layers")}
    )
    # The forward half is the layer's and the backward half the kernel's: both were seen.
    assert {"layers/base.py", "kernels/native/recurrence/autograd.py"} <= set(files)
    assert layer.weight_hh_l0.grad is not None
    assert len(files) <= MOST_FILES_OF_TRAINING, f"{len(files)} files: {', '.join(files)}"


def test_a_step_that_carries_its_state_passes_through_few_functions() -> None:
    layer = tt.LSTM(64, 128).eval()
    x = torch.randn(1, 4, 64)
    with torch.inference_mode():
        _, state = layer(x)
        calls = passed_through(lambda: layer(x, state))
    files = sorted({file for file, _ in calls})
    assert "kernels/native/recurrence/call.py" in files
    assert len(files) <= MOST_FILES_OF_A_STEP, f"{len(files)} files: {', '.join(files)}"
    assert len(calls) <= MOST_FUNCTIONS_OF_A_STEP, (
        f"{len(calls)} functions: {', '.join(f'{a}: {b}' for a, b in calls)}"
    )
