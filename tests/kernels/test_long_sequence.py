"""A sequence of 100,000 steps trains exactly within a stated memory, window by window, through whichever backend runs here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from throughtime.kernels.native import library

PROGRAM = """
import re, sys, torch, throughtime as tt
torch.manual_seed(0)
torch.set_num_threads(1)
lstm = tt.LSTM(8, 64)
x, target = torch.randn(100_000, 1, 8), torch.zeros(100_000, 1, 64)
loss = lambda y, target: (y - target).square().sum()
lstm(x[:1000])[0].sum().backward()
lstm.zero_grad()
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
tt.bptt.parse(sys.argv[1]).backward(lstm, loss, x, target)
print((peak() - before) >> 10, lstm.weight_hh_l0.grad.double().norm().item(), lstm.weight_ih_l0.grad.double().norm().item())
"""


def train(strategy: str) -> tuple[int, list[float]]:
    """Peak memory on top of the model and the data in MiB, and the norms of two gradients."""
    command = [sys.executable, "-c", PROGRAM, strategy]
    peak, *norms = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(peak), [float(norm) for norm in norms]


@pytest.mark.skipif(
    isinstance(library.load(), str), reason="minutes on the reference: the native library is not built"
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_sequence_trains_exactly_in_little_memory():
    full_memory, full = train("full")
    memory, exact = train("checkpointed:500")
    assert exact == pytest.approx(full, rel=1e-5)
    assert memory < 64 < 200 < full_memory
    truncated_memory, truncated = train("truncated:500")
    assert truncated != pytest.approx(full, rel=1e-5)
    assert truncated_memory < 16
