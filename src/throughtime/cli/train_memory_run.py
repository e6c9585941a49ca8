"""What `throughtime train adding`, `copy` and `echo` do: gather the settings, begin a run or go on with one, train it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from throughtime.cli.given import Tables, given, over, read_tables, tables_of, without
from throughtime.cli.train_run import MAY_CHANGE, open_to_resume
from throughtime.errors import InputError, RunError, ThroughtimeError
from throughtime.models import ModelConfig, settings_from, settings_to_dict
from throughtime.tasks import MemoryConfig
from throughtime.training.config import TrainingConfig

if TYPE_CHECKING:
    from throughtime.runs import Run
    from throughtime.tasks import MemoryTask

_KINDS = (MemoryConfig, ModelConfig, TrainingConfig)
_BUDGETS = ("epochs", "steps", "minutes")
_OURS = ("config", "out", "resume")  # where and whether to train: no settings of the run


def train_or_resume(problem: str, context: typer.Context) -> None:
    """Run the command `train PROBLEM` with the options of `context`."""
    typed = given(context)
    ours = {name: typed.pop(name) for name in _OURS if name in typed}
    settings = tables_of(typed, _KINDS)
    if "resume" in ours:
        run, task, training = _begun(problem, ours, settings)
    else:
        defaults = {name: value for name, value in context.params.items() if name not in _OURS}
        run, task, training = _begin(problem, ours, settings, tables_of(defaults, _KINDS))

    from throughtime.cli.memory_report import after, before, reporter_beside
    from throughtime.cli.summary import too_few
    from throughtime.training import train
    from throughtime.training.processes import Processes

    first = Processes(training.device).first
    if first:
        print(before(task, training, run.path), flush=True)
    summary = train(task, training, run, resume="resume" in ours, report=reporter_beside(task))
    if first:
        print(f"{after(task, summary)}\n{too_few(training, summary)}", end="")


def _begin(
    problem: str, ours: dict[str, Any], settings: Tables, defaults: Tables
) -> tuple[Run, MemoryTask, TrainingConfig]:
    """A new run: what was typed goes before the file, the file before the command's defaults."""
    from throughtime.tasks import MemoryTask
    from throughtime.training import check
    from throughtime.training.processes import Processes

    merged: Tables = {
        section: {name: value for name, value in table.items() if value is not None}
        for section, table in defaults.items()
    }
    merged["memory"]["problem"] = problem
    merged["model"]["embedding"] = "onehot"
    for upper in (read_tables(ours["config"]) if "config" in ours else {}, settings):
        if set(_BUDGETS) & set(upper.get("training", {})):  # one budget takes the place of another
            merged = without(_BUDGETS, "training", merged)
        merged = over(upper, merged)
    _check_problem(problem, merged["memory"]["problem"])
    memory, model, training = settings_from(merged, *_KINDS)
    task = MemoryTask(memory, model)
    training = replace(training, window=task.steps)
    # What cannot be trained is found out before there is a folder that holds a run.
    check(training, task)
    task.build()
    path = ours["out"] if "out" in ours else _free_name(task)
    config = settings_to_dict(memory, model, training)
    return _create(path, config, task, Processes(training.device)), task, training


def _create(path: Path, config: Tables, task: MemoryTask, processes: Any) -> Run:
    """The run, made by the first process and opened by the others; they fail together or not at all."""
    from throughtime.runs import Run

    failure = None
    if processes.first:
        try:
            path = Run.create(path, config, task.vocabulary).path
        except ThroughtimeError as error:
            failure = str(error)
    failure, path = processes.tell((failure, path))
    if failure is not None:
        raise RunError(failure)
    return Run.open(path)


def _begun(problem: str, ours: dict[str, Any], settings: Tables) -> tuple[Run, MemoryTask, TrainingConfig]:
    """The run to go on with, after a check that no option says otherwise."""
    from throughtime.tasks import MemoryTask

    if "out" not in ours:
        raise InputError("--resume needs the run to go on with: name its folder with --out RUN")
    if "config" in ours:
        raise InputError(
            "--config cannot be given with --resume: a run goes on with its own settings; leave it out"
        )
    run = open_to_resume(ours["out"])
    task = MemoryTask.from_run(run)
    _check_problem(problem, task.name)
    (training,) = settings_from({"training": run.config.get("training", {})}, TrainingConfig)
    own = settings_to_dict(task.config, task.model, training)
    for section, table in settings.items():
        for name, value in table.items():
            if name in MAY_CHANGE:
                continue
            has = own[section].get(name)
            if value != has:
                raise InputError(
                    f"--{name.replace('_', '-')} contradicts the run {run.path}, which was started with "
                    f"{name} = {has if has is not None else 'its default'}: leave it out, or start a new run"
                )
    changed = {name: value for name, value in settings.get("training", {}).items() if name in MAY_CHANGE}
    return run, task, replace(training, **changed)


def _check_problem(problem: str, found: Any) -> None:
    if found != problem:
        raise InputError(
            f"'train {problem}' trains {problem}, and the settings are of {found}: use 'throughtime train {found}'"
        )


def _free_name(task: MemoryTask) -> Path:
    """runs/PROBLEM-LENGTH-CELL-HIDDEN, with the first number after it that makes it new."""
    hidden = "x".join(str(size) for size in dict.fromkeys(task.model.sizes))
    name = f"{task.name}{task.config.length}-{task.model.cell}{hidden}"
    number, path = 1, Path("runs") / name
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path
