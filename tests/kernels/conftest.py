"""What the tests of the native backend share."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.instruction_sets import libraries

from throughtime.kernels.native.recurrence import autograd, direct, operator_arguments


@pytest.fixture(params=range(3), ids=("first", "avx2", "portable"))
def instruction_set(request, monkeypatch):
    """Each instruction set that runs here, for the layers and operators of one test."""
    if request.param >= len(libraries()):
        pytest.skip("does not run here")
    library = libraries()[request.param]
    for module in (autograd, direct, operator_arguments):
        monkeypatch.setattr(module, "load", lambda: library)
    return library


@pytest.fixture
def threads():
    """Sets torch's threads; afterwards they are as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
