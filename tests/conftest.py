"""What every test has: one thread, one seed, and the folder of the larger data sets when there is one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

# One thread: sums are taken in one order, so a result does not depend on the machine's number of cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_seed() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def data_dir() -> Path:
    """The folder that THROUGHTIME_DATA names; a test that needs it is skipped, with the reason, where it is not set."""
    folder = os.environ.get("THROUGHTIME_DATA", "")
    if not folder:
        pytest.skip(
            "THROUGHTIME_DATA is not set: this test needs a data set that does not ship with the library"
        )
    path = Path(folder)
    assert path.is_dir(), f"THROUGHTIME_DATA must name a folder, got {folder!r}"
    return path
