"""A forked child runs layers after its parent ran them on several threads, which are not forked: it must not wait for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from throughtime.kernels.native import library

pytestmark = [
    pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]

# Large enough for two threads, by units and by rows (see csrc/plan.hpp). No tensor has more than 32,768 numbers: with more,
# torch's own operations wait for OpenMP's threads in the child.
START = """
import multiprocessing, os, sys, torch, throughtime as tt
torch.set_num_threads(2)
layer, lengths = tt.LSTM(20, 64, 2), torch.arange(40) % 13
batches = [torch.randn(20, 7, 20), torch.randn(12, 40, 20)]
ones = [torch.ones(20, 7, 64), torch.ones(12, 40, 64)]

def run():
    found = []
    for x, one in zip(batches, ones):
        for given in (None, lengths[: x.shape[1]]):
            y, _ = layer(x, lengths=given)
            found += [y.detach(), *torch.autograd.grad(y, list(layer.parameters()), one)]
    return found

def equal(found):
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(found, wanted, strict=True))

wanted = run()
"""
FORK = """
child = os.fork()
if child == 0:
    os._exit(0 if equal(run()) and equal(run()) else 3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert equal(run())  # and the parent goes on
"""
POOL = """
def task(number):
    return equal(run())

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(task, range(4)) == [True] * 4
assert equal(run())
"""
# A child of a child, and one whose parent had not run anything when it forked: that one may use its threads.
GRANDCHILD = """
child = os.fork()
if child == 0:
    fine = equal(run())
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(0 if equal(run()) else 3)
    _, status = os.waitpid(grandchild, 0)
    os._exit(0 if fine and status == 0 else 3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
"""


@pytest.mark.parametrize("how", [FORK, POOL, GRANDCHILD], ids=["os.fork", "multiprocessing", "twice"])
def test_it_does_not_hang(how):
    program = START + 'if __name__ == "__main__":\n' + "".join(f"    {line}\n" for line in how.splitlines())
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
