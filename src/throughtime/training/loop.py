"""Training in one call."""

from __future__ import annotations

from contextlib import nullcontext

from throughtime import bptt
from throughtime.runs import Run
from throughtime.training.config import TrainingConfig
from throughtime.training.interrupt import Interrupts
from throughtime.training.processes import Processes
from throughtime.training.reporter import Reporter, Several, Silent, Summary
from throughtime.training.sample import Sampler
from throughtime.training.task import Task
from throughtime.training.tensorboard import TensorBoard, require_tensorboard
from throughtime.training.trainer import Trainer


def train(
    task: Task,
    config: TrainingConfig,
    run: Run,
    *,
    resume: bool = False,
    report: Reporter | None = None,
    sample: Sampler | None = None,
) -> Summary:
    """Train a new model of `task` and keep it in `run`.

    Every optimiser step reads one window of `window_of(config)` steps. Inside it the gradient travels as
    `config.bptt` says; from one window to the next the state is carried and the gradient is not. Between
    processes (`accelerate launch`) gradients are summed once per step, divided by the count of all their targets.

    Killed at any instant and called again with resume=True, it ends with the bits of a training that was never
    killed, on the same machine with the same number of threads. Only a budget of minutes cannot promise that.

    Args:
        task: data, model and loss.
        config: how. torch's generator is seeded with `config.seed`.
        run: where; the first process alone writes to it.
        resume: go on from the run's last checkpoint, or start where there is none.
        report: who is told how it goes.
        sample: lets the model write something, before the first step and after each evaluation, for
            `report.sample`; "" is not reported. The random numbers that it draws are not missed by the training.

    Raises: InputError for settings that torch refuses; RunError when the run holds a training and `resume` is not
        set, or cannot be written; Interrupted after Ctrl-C or SIGTERM, everything saved; Diverged when the loss or
        the gradient is not finite, or jumps, unless `config.on_spike` has another way out.
    """
    check(config)
    processes = Processes(config.device)
    report = report if report is not None and processes.first else Silent()
    if config.tensorboard and processes.first:
        report = Several(report, TensorBoard(run.path / "tensorboard"))
    with run.lock() if processes.first else nullcontext(), Interrupts() as interrupts:
        trainer = Trainer(task, config, window_of(config), run, processes, report, sample)
        trainer.begin(resume)
        summary = None
        try:
            summary = trainer.go(interrupts)
        finally:
            report.finish(summary)
        return summary


def check(config: TrainingConfig, task: Task | None = None) -> None:
    """Judge what the configuration itself cannot: to be called before a run is made.

    Raises: InputError for a strategy that cannot be read, a device that is not here, a package that is missing, or a
        task with too little data for one window.
    """
    if config.tensorboard:
        require_tensorboard()
    window = window_of(config)
    world = Processes(config.device).world
    if task is not None:
        task.streams(window, config.batch, seed=config.seed, rank=0, world=world)


def window_of(config: TrainingConfig) -> int:
    """Steps of text in one optimiser step.

    `config.window`, or by default the strategy's own: the window of `truncated`, so that there is one cut in each
    step; four times the (mean or longest) length where cuts move or windows slide, so that there are whole
    ones to find in it; 64 for `full` and `checkpointed`, which go back through all of it. Nothing but the state
    crosses from one optimiser step to the next: whatever the strategy, no gradient goes back further than this.
    """
    strategy = bptt.parse(config.bptt)
    if config.window is not None:
        return config.window
    if isinstance(strategy, bptt.Truncated):
        slides = strategy.stride not in (None, strategy.window)
        return strategy.window * (4 if slides else 1)
    if isinstance(strategy, bptt.Randomized):
        return round(4 * strategy.mean_length)
    return 4 * strategy.high if isinstance(strategy, bptt.RandomWindow) else 64
