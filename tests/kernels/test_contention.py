"""Two threads on one core: one that waits for long goes on alone (csrc/team.hpp), and every bit stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from throughtime.kernels.native import library

pytestmark = [
    pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}"),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no threads to cores"),
]

# By rows each thread works for milliseconds before it meets the other: on one core that one is late. Afterwards calls run on one
# thread for up to 0.32 s, so each round waits until two are used again.
PROGRAM = """
import os, sys, time, torch, throughtime as tt
from throughtime.kernels.native.recurrence import call
torch.set_num_threads(2)
layers = [tt.RNN(20, 200), tt.GRU(20, 150, layer_norm=True), tt.LSTM(20, 130, 2, proj_size=70, bidirectional=True)]
batches = [(torch.randn(60, 9, 20), None), (torch.randn(40, 64, 20), None), (torch.randn(40, 64, 20), torch.arange(64) % 41)]

def numbers(split):
    call.split = split
    found = []
    for layer in layers:
        for x, lengths in batches:
            y, _ = layer(x, lengths=lengths)
            found += [y.detach(), *torch.autograd.grad(y.sum(), list(layer.parameters()))]
    return found

def bind(cores):
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)

cores = os.sched_getaffinity(0)
wanted = {split: numbers(split) for split in (1, 2)}
for round in range(6):
    bind(cores if round % 3 == 2 else {min(cores)})
    for split, expected in wanted.items():
        time.sleep(0.33)
        found = numbers(split)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), (round, split)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_bit_stays_as_it_was():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
