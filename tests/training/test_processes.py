"""Two processes under accelerate train as one with twice the batch, each with its own streams and their states."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from throughtime.errors import InputError, RunError
from throughtime.training import TrainingConfig
from throughtime.training.loop import train
from throughtime.training.processes import Processes

SCRIPT = """
import os, signal, sys
import torch
from throughtime.errors import RunError
from throughtime.runs import Run
from throughtime.tasks.recorded import task_of
from throughtime.training import TrainingConfig
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import train
from throughtime.training.reporting import Silent
from throughtime.training.processes import Processes

torch.set_num_threads(1)
run = Run.open(sys.argv[1])
task = task_of(run)
config = TrainingConfig(**run.config["training"] | {"batch": 3})
processes = Processes("cpu")
assert processes.world == 2, processes.world

class Stop(Silent):  # only the first process has a reporter, only it gets the signal: both stop after the same step
    def step(self, progress):
        if progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

try:
    train(task, config, run, report=Stop())
    raise SystemExit("was not interrupted")
except Interrupted as interrupted:
    # One write: the two processes share the pipe, and the parts of a print may meet.
    sys.stdout.write(f"{processes.rank} {interrupted.args[0].split(';')[0]}\\n")
processes.sum(0.0)  # both have left before either begins again
train(task, config, run, resume=True)
"""

SETTINGS = {
    "optimizer": "sgd",
    "lr": 1.0,
    "warmup": 0.0,
    "clip": "norm:0.2",
    "steps": 25,
    "window": 7,
    "bptt": "truncated:4",
}


def launch(file, script, *arguments):
    """Run a script in two processes under accelerate."""
    # --multi_gpu is accelerate's word for several processes on one machine; it starts them on a CPU too.
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *options.split(),
        "--main_process_port",
        "0",
    ]
    file.write_text(script)
    done = subprocess.run(
        [*command, str(file), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


NAMES = """
import sys
from throughtime.models import ModelConfig
from throughtime.tasks import AddingTask
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run
from throughtime.training.processes import Processes

# A free name that is looked for by itself in each process may be another one.
out = f"{sys.argv[1]}-{Processes('cpu').rank}"
task, run = start_run(AddingTask(length=4), ModelConfig(hidden=3), TrainingConfig(device="cpu"), out)
sys.stdout.write(f"{run.path}\\n")
"""


def test_processes_train_in_the_run_of_the_first(tmp_path):
    done = launch(tmp_path / "script.py", NAMES, tmp_path / "run")
    assert done.stdout.split() == [str(tmp_path / "run-0")] * 2


def test_two_processes_are_one_with_twice_the_batch(make):
    task, config, alone = make("alone", batch=6, **SETTINGS)
    reference = train(task, config, alone)
    *_, together = make("together", batch=6, **SETTINGS)
    done = launch(together.path.parent / "script.py", SCRIPT, together.path)
    stopped = sorted(line for line in done.stdout.splitlines() if "interrupted" in line)
    assert stopped == [f"{rank} training was interrupted at step 2" for rank in (0, 1)]

    # float32: two halves of a sum instead of one, through 25 steps.
    for name, value in together.load_model().items():
        torch.testing.assert_close(value, alone.load_model()[name], atol=2e-5, rtol=0)
    losses = [[r["loss"] for r in run.history() if r["kind"] == "training"] for run in (together, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    tree = together.load_checkpoint()
    assert (tree["steps"], tree["journal"]["meter"]["targets"]) == (25, reference.targets)

    # Each process carried the states of its own three streams: together they are the six of the one process.
    states = [part["carried"][0] for part in tree["parts"]]
    assert [tuple(state.shape) for state in states] == [(1, 3, 13)] * 2
    (whole,) = alone.load_checkpoint()["parts"]
    torch.testing.assert_close(torch.cat(states, dim=1), whole["carried"][0], atol=2e-4, rtol=0)
    assert not torch.equal(*states)
    with pytest.raises(RunError, match="trained by 2 processes, each with its own data, now there are 1"):
        train(task, TrainingConfig(**SETTINGS, batch=3), together, resume=True)


def test_one_process_sends_nothing():
    processes = Processes("cpu")
    assert (processes.rank, processes.world, processes.first) == (0, 1, True)
    assert processes.device == torch.device("cpu")
    assert processes.sum(1.5, 2) == [1.5, 2]
    assert processes.gather("x") == ["x"]
    assert processes.tell("x") == "x"
    with pytest.raises(InputError, match="device must be auto"):
        Processes("tpu9")
