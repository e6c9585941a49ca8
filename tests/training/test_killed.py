"""Killed by SIGKILL at random instants, again and again: the training ends with the bits of one that was never killed."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from throughtime.runs import Run

KILLS, STEPS = 5, 60

# A fresh process that forks trainings and kills each at a random instant; torch has started no thread in it yet.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch, torch._dynamo  # the optimiser imports it: once here, not in each fork
from throughtime.models import ModelConfig, settings_to_dict
from throughtime.runs import Run
from throughtime.tasks import TextConfig, TextTask
from throughtime.training import TrainingConfig, train

folder, text, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
model = ModelConfig(cell="lstm", hidden=13, embedding=5, layers=2, dropout=0.3, recurrent_dropout=0.2)
training = TrainingConfig(
    steps=60, batch=4, window=11, bptt="randomized:4", evaluate_every=7, log_every=4, checkpoint_steps=3
)

def once(path):
    try:
        run = Run.open(path)
    except Exception:
        task = TextTask.create(TextConfig(data=(text,)), model)
        run = Run.create(path, settings_to_dict(task.config, model, training), task.vocabulary)
    train(TextTask.from_run(run), training, run, resume=True)

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

begun = time.monotonic()
assert os.waitpid(fork(folder / "whole"), 0)[1] == 0
took = time.monotonic() - begun
draws = random.Random(1)
seen = []
while True:
    pid = fork(folder / "killed")
    if len(seen) < kills:
        time.sleep(draws.uniform(0.05, 0.4) * took)
        os.kill(pid, signal.SIGKILL)
    if os.waitpid(pid, 0)[1] == 0:
        break
    assert len(seen) < kills, "it failed by itself"
    path = folder / "killed"
    tree = Run.open(path).load_checkpoint() if (path / "config.toml").exists() else None
    seen.append(tree["steps"] if tree else 0)
print(*seen)
"""


def without_times(records):
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "tokens_per_second")} for record in records
    ]


def equal(a, b) -> bool:
    """Nested values, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path, text):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLER, str(tmp_path), str(text), str(KILLS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = [int(step) for step in done.stdout.split()]
    assert len(steps) >= 3
    assert any(0 < step < STEPS for step in steps), f"killed at {steps}: never between two checkpoints"

    killed, whole = (Run.open(tmp_path / name) for name in ("killed", "whole"))
    assert equal(killed.load_model(), whole.load_model())  # of the best validation loss
    assert without_times(killed.history()) == without_times(whole.history())
    trees = [run.load_checkpoint() for run in (killed, whole)]  # the last weights, and all the rest
    for tree in trees:
        assert tree.pop("seconds") > 0
        assert tree["steps"] == STEPS
    assert equal(*trees)
