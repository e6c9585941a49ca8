"""The task and the model of a run, from what its folder records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from throughtime.data.assets import Assets
from throughtime.errors import InputError, RunError
from throughtime.models.calibrated import CalibratedLinear
from throughtime.models.config import LARGEST, ModelConfig
from throughtime.options import Settings
from throughtime.runs import Run
from throughtime.tasks.registry import Found, find_task, installed
from throughtime.tasks.task import Task

Kind = TypeVar("Kind", bound=Settings)


def task_of(run: Run, asked: str | None = None) -> Task:
    """The task that a run was made for, with the options it was made with.

    A run records a task by its name and, if it is a file of the user's own, the file's checksum; it never says what file to
    import. Args: asked, such a file: "path/to/file.py:MyTask".
    Raises: RunError where the task is not installed and `asked` is None, or is another one; or config.toml was damaged.
    """
    return settings_of(run, _found(run, asked).kind)


def settings_of(run: Run, kind: type[Kind]) -> Kind:
    """The settings of a run from their section in config.toml.

    Raises: RunError where config.toml was damaged.
    """
    table = run.config.get(kind.section)
    if not isinstance(table, dict):
        raise RunError(f"{run.path}: config.toml is damaged: it has no section [{kind.section}]")
    try:
        return kind.from_table(table)
    except InputError as error:
        raise RunError(f"{run.path}: config.toml is damaged: {error}") from None


def model_config_of(run: Run) -> ModelConfig:
    """The settings of a run's model.

    Raises: RunError where config.toml was damaged.
    """
    return settings_of(run, ModelConfig)


def restore_model(run: Run, task: Task) -> nn.Module:
    """The trained model of a run, in eval mode on the CPU. torch's random state stays as it is.

    The sizes in config.toml are held against those in the weights file before anything is allocated.
    Raises: RunError when the run has no weights yet, or weights of another model.
    """
    shapes = run.model_shapes()
    config = model_config_of(run)
    with torch.random.fork_rng([]):
        expected = {
            name: list(value.shape) for name, value in on_meta(task, config, run.assets).state_dict().items()
        }
        for name in (*expected, *shapes):
            if expected.get(name) != shapes.get(name):
                raise RunError(
                    f"the weights in {run.path} are not those of its config.toml: {name} should be "
                    f"{expected.get(name, 'absent')}, and is {shapes.get(name, 'absent')}; was the file changed since?"
                )
        model = task.build(config, run.assets)
    model.load_state_dict(run.load_model())
    return model.eval()


def on_meta(task: Task, config: ModelConfig, assets: Assets) -> nn.Module:
    """The model without memory for its parameters: names and shapes alone."""
    with torch.device("meta"):
        return task.build(config, assets)


def parameters_of(task: Task, config: ModelConfig, assets: Assets) -> int:
    """The number of a model's parameters; nothing is allocated."""
    return sum(parameter.numel() for parameter in on_meta(task, config, assets).parameters())


def of_equal_size(task: Task, config: ModelConfig, assets: Assets, parameters: int) -> ModelConfig:
    """The settings with `hidden` such that the model has as nearly as possible so many parameters, to compare cells fairly.

    Raises: InputError where `hidden` is a size for each layer, or is fixed by tied weights.
    """
    fixed = "the embedding's weights are tied to it" if config.tied else ""
    if isinstance(hidden := config.hidden, tuple):
        fixed = f"hidden is {list(hidden)}"
    if fixed:
        raise InputError(f"the number of units cannot be chosen for a number of parameters: {fixed}")

    def of_size(hidden: int) -> ModelConfig:
        return replace(config, hidden=hidden)

    def count(hidden: int) -> int:
        return parameters_of(task, of_size(hidden), assets)

    low, high = 1, 2
    while high < LARGEST and count(high) < parameters:
        low, high = high, min(2 * high, LARGEST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    return of_size(min(low, high, key=lambda hidden: abs(count(hidden) - parameters)))


def check_init_from(model: nn.Module, source: Run) -> None:
    """Refuse to start from the weights of a run whose model is another one.

    Raises: RunError naming the first parameter that differs, or where the run has no weights.
    """
    shapes = source.model_shapes()
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    for name in (*expected, *shapes):
        if expected.get(name) != shapes.get(name):
            raise RunError(
                f"init_from needs a model of the same settings and vocabulary: {name} is {shapes.get(name, 'absent')} in "
                f"{source.path}, and {expected.get(name, 'absent')} here"
            )


def init_weights(model: nn.Module, source: Run) -> None:
    """Copy the weights of another run's model into `model`, without its calibration, which is that of a whole training.

    Raises: as `check_init_from`.
    """
    check_init_from(model, source)
    model.load_state_dict(source.load_model())
    for module in model.modules():
        if isinstance(module, CalibratedLinear):
            module.calibrate(1.0, -1.0)


def _found(run: Run, asked: str | None) -> Found:
    name, sha256 = run.config.get("task"), run.config.get("task_sha256")
    if not isinstance(name, str):
        raise RunError(f"{run.path}: config.toml is damaged: task must be the name of a task, got {name!r}")
    if asked is None and (sha256 is not None or not installed(name)):
        raise RunError(
            f"{run.path} is a run of the task {name!r}, which is not installed: give its file with --task path/to/file.py:CLASS"
        )
    found = find_task(asked or name)
    if found.kind.name != name:
        raise RunError(
            f"{run.path} is a run of the task {name!r}, got {asked or name}, whose name is {found.kind.name!r}"
        )
    if sha256 is not None and found.sha256 is not None and found.sha256 != sha256:
        raise RunError(
            f"{run.path} was made with another version of {Path(str(asked)).name}: its checksum was {str(sha256)[:12]}, now it "
            f"is {found.sha256[:12]}; give the file as it was"
        )
    return found
