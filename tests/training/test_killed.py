"""Killed by SIGKILL at random instants, again and again: the training ends with the bits of one that was never killed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from throughtime.runs import Run

KILLS, STEPS = 5, 60

# A fresh process that forks trainings and kills each at a random instant; torch has started no thread in it yet.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch, torch._dynamo  # the optimizer imports it: once here, not in each fork
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks.recorded import task_of
from throughtime.tasks.registry import find_task
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

folder, name, data, kills = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
torch.set_num_threads(1)
model = ModelConfig(cell="lstm", hidden=13, embedding=5, layers=2, dropout=0.3, recurrent_dropout=0.2)
own = {
    "text": {"batch": 4, "window": 11, "bptt": "randomized:4"},
    "classify": {"batch": 7, "bptt": "truncated:4"},
    "adding": {"batch": 4, "bptt": "randomized:4"},
}[name]
training = TrainingConfig(
    steps=60, evaluate_every=7, log_every=4, checkpoint_steps=3, no_baselines=True, **own
)
options = {"length": 11, "validation": 30, "test": 30} if name == "adding" else {"data": (data,)}

def once(path):
    try:
        run = Run.open(path)
        task = task_of(run)
    except Exception:
        task, run = start_run(find_task(name).kind(**options), model, training, path)
    train(task, training, run, resume=True)

def fork(path):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            once(path)
            status = 0
        finally:
            os._exit(status)
    return pid

def lines():
    try:
        return (folder / "killed" / "history.jsonl").read_bytes().count(b"\\n")
    except FileNotFoundError:
        return 0

assert os.waitpid(fork(folder / "whole"), 0)[1] == 0
draws = random.Random(1)
seen = []
while True:
    pid = fork(folder / "killed")
    if len(seen) < kills:
        # By the history, so that no training ends before it is killed, however fast the machine; then at any instant.
        wanted = 3 * len(seen) + draws.randint(0, 2)
        while lines() < wanted:
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
    if os.waitpid(pid, 0)[1] == 0:
        break
    assert len(seen) < kills, "it failed by itself"
    path = folder / "killed"
    tree = Run.open(path).load_checkpoint() if (path / "config.toml").exists() else None
    seen.append(tree["steps"] if tree else 0)
print(*seen)
"""


def equal(a, b) -> bool:
    """Nested values, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("name", ["text", "classify", "adding"])
def test_killed_again_and_again_it_ends_with_the_same_bits(name, tmp_path, text, table, without_times):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    data = {"text": text, "classify": table}.get(name, "")
    command = [sys.executable, "-c", KILLER, str(tmp_path), name, str(data), str(KILLS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = [int(step) for step in done.stdout.split()]
    assert len(steps) == KILLS
    assert any(0 < step < STEPS for step in steps), f"killed at {steps}: never between two checkpoints"

    killed, whole = (Run.open(tmp_path / name) for name in ("killed", "whole"))
    assert equal(killed.load_model(), whole.load_model())  # of the best validation result
    assert without_times(killed.history()) == without_times(whole.history())
    trees = [run.load_checkpoint() for run in (killed, whole)]  # the last weights, and all the rest
    for tree in trees:
        assert tree.pop("seconds") > 0
        assert tree["steps"] == STEPS
        tree["evaluations"].pop("seconds")  # what evaluations took
    assert equal(*trees)
