"""Training in one call."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from throughtime import bptt
from throughtime.data.assets import Assets
from throughtime.errors import InputError, RunError, ThroughtimeError
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import FileTask, Task
from throughtime.tasks.recorded import check_init_from, of_equal_size, on_meta
from throughtime.training.card import final_results, write_card
from throughtime.training.config import TrainingConfig
from throughtime.training.interrupt import Interrupts
from throughtime.training.processes import Processes
from throughtime.training.reporting import (
    Reporter,
    Several,
    Silent,
    TensorBoard,
    TrainingResult,
    require_tensorboard,
)
from throughtime.training.trainer import Sampler, Trainer, check_strategy


def start_run(
    task: Task,
    model: ModelConfig,
    training: TrainingConfig,
    out: str | Path,
    *,
    command: str = "",
    task_sha256: str | None = None,
    extra: dict[str, Any] | None = None,
    parameters: int | None = None,
) -> tuple[Task, Run]:
    """Prepare a task's data and make a run that can be trained; nothing is made of settings that cannot.

    Args: command, as it was typed, for the model card; task_sha256, of a task in a file of the user's own; extra, more settings;
    parameters, choose `model.hidden` such that the model has about so many.
    Returns: the task with full paths, and the run, made by the first process and opened by the others.
    Raises: InputError for settings or data that cannot be trained on; RunError when `out` is occupied.
    """
    if isinstance(task, FileTask):
        task = task.with_full_paths()
    processes = Processes(training.device)
    # The first one's, before it makes the folder: a free name that was looked for after that is another.
    path = Path(processes.tell(str(out)))
    like = None
    if training.init_from is not None:
        source = Run.open(training.init_from)
        like, training = source.assets, replace(training, init_from=str(source.path.resolve()))
    assets = task.prepare(like)
    if parameters is not None:
        model = of_equal_size(task, model, assets, parameters)
    check(task, model, training, assets)
    config = {
        "task": task.name,
        "task_sha256": task_sha256,
        "command": command,
        task.section: task.to_table(),
        model.section: model.to_table(),
        training.section: training.to_table(),
        **(extra or {}),
    }
    failure, run = None, None
    if processes.first:
        try:
            run = Run.create(path, config, assets)
        except ThroughtimeError as error:
            failure = str(error)
    if failure := processes.tell(failure):
        raise RunError(failure)
    run = run or Run.open(path)
    run.assets.cache.update(assets.cache)  # what was read is not read again
    return task, run


def train(
    task: Task,
    config: TrainingConfig,
    run: Run,
    *,
    resume: bool = False,
    report: Reporter | None = None,
    sample: Sampler | None = None,
) -> TrainingResult:
    """Train a new model of `task` and keep it in `run`, beside its model card.

    Every optimizer step reads one batch: whole sequences, or, of one long sequence, a window of `window_of(config)` steps.
    Inside it the gradient is propagated as `config.bptt` says; from one window to the next the state is carried and the
    gradient is not. Between processes (`accelerate launch`) gradients are summed once per step, divided by the count of all
    their targets.

    Killed at any instant and called again with resume=True, it ends with the bits of a training that was never
    killed, on the same machine with the same number of threads. Only a budget of minutes cannot promise that.

    Args:
        task: data, model and loss; the model's settings are the run's.
        config: how. torch's generator is seeded with `config.seed`.
        run: where; the first process alone writes to it. Make it with `start_run`.
        resume: continue from the run's last checkpoint, or start where there is none.
        report: told about progress.
        sample: generates a text with the model, before the first step and after each evaluation, for
            `report.sample`; "" is not reported. torch's random state is preserved.

    Raises: InputError for settings that torch refuses; RunError when the run holds a training and `resume` is not
        set, or cannot be written; Interrupted after Ctrl-C, SIGTERM or SIGHUP, everything saved; Diverged when the loss or
        the gradient is not finite, or jumps, unless `config.on_spike` has another way out.
    """
    if config.tensorboard:
        require_tensorboard()
    processes = Processes(config.device)
    report = report if report is not None and processes.first else Silent()
    with run.lock() if processes.first else nullcontext(), Interrupts() as interrupts:
        report = interrupts.guard(report)
        trainer = Trainer(task, config, window_of(config), run, processes, report, sample)
        if config.tensorboard and processes.first:
            trainer.report = trainer.journal.report = Several(report, TensorBoard(run.path / "tensorboard"))
        result = None
        try:
            trainer.begin(resume)
            result = trainer.go(interrupts)
        finally:
            trainer.report.finish(result)
        if processes.first:
            result = result._replace(results=final_results(trainer, result))
            write_card(trainer, result)
        return result


def check(task: Task, model: ModelConfig, training: TrainingConfig, assets: Assets) -> None:
    """Judge what the settings themselves cannot, before a run is made.

    Raises: InputError for a strategy that cannot be read or does not fit the model, a device that is not here, a package that is
        missing, a model larger than the machine's memory, or too little data for one batch; RunError for initial weights that
        are another model's.
    """
    if training.tensorboard:
        require_tensorboard()
    if not task.stream and training.window is not None:
        raise InputError(
            f"window is for one long sequence, and {task.name} trains on whole sequences: leave it out, and cut the gradient "
            "inside with bptt = truncated:N"
        )
    if training.patience is not None and not getattr(task, "validation", True):
        raise InputError(
            "patience counts evaluations on the validation part, and validation is 0: leave patience out, or give validation data"
        )
    processes = Processes(training.device)
    module = on_meta(task, model, assets)
    _check_memory(module, processes.device)
    if training.init_from is not None:
        check_init_from(module, Run.open(training.init_from))
    check_strategy(module, bptt.parse(training.bptt), window_of(training) if task.stream else None)
    task.batches(
        assets,
        steps=window_of(training),
        batch=training.batch,
        seed=training.seed,
        rank=processes.rank,
        world=processes.world,
    )


def window_of(config: TrainingConfig) -> int:
    """Steps of one long sequence in one optimizer step.

    `config.window`, or by default the strategy's own: the window of `truncated`, so that there is one cut in each
    step; four times the (mean or longest) length where cuts move or windows slide, so that there are whole
    ones to find in it; 64 for `full` and `checkpointed`, which go back through all of it. Nothing but the state
    crosses from one optimizer step to the next: whatever the strategy, no gradient goes back further than this.
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


def _check_memory(model: torch.nn.Module, device: torch.device) -> None:
    """Refuse a model whose weights, gradients and optimizer state do not fit into the machine's memory."""
    if device.type != "cpu" or not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    needed = 4 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise InputError(
            f"the model needs about {needed / 2**30:,.0f} GiB for weights, gradients and optimizer, and this machine has "
            f"{there / 2**30:,.0f} GiB: make hidden, layers, embedding or vocab_size smaller"
        )
