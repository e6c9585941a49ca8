"""The device that these tests run on: CUDA. THROUGHTIME_TEST_DEVICE=cpu runs them without one, to test the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    """The device; the test is skipped where there is none. TF32 is off, so that float32 can be compared closely."""
    name = os.environ.get("THROUGHTIME_TEST_DEVICE", "cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device; THROUGHTIME_TEST_DEVICE=cpu runs this test on the CPU")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield torch.device(name)
