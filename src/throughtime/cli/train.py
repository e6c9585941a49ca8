"""`throughtime train NAME`: one command for every task, made from the fields of its settings."""

from __future__ import annotations

import inspect
import shlex
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from throughtime.cli.builder import (
    Tables,
    bare_flags,
    help_text,
    make_command,
    option_name,
    option_parameters,
    over,
    refuse_flag_values,
    typed_values,
)
from throughtime.errors import InputError, RunError, nearest_file
from throughtime.models.config import ModelConfig
from throughtime.options import Settings, from_tables
from throughtime.tasks.files import FileTask, full_path
from throughtime.tasks.registry import Found, find_task, names
from throughtime.training.config import BUDGETS, MAY_CHANGE, TrainingConfig

if TYPE_CHECKING:
    from throughtime.runs import Run
    from throughtime.tasks import Task
    from throughtime.training.reporting import TrainingResult

_OWN = (
    "format",
    "version",
    "assets_sha256",
    "task",
    "task_sha256",
    "command",
    "demo",
)  # of a run's config.toml: no settings
_FEW = 100  # steps: fewer are no training, whatever the model


class TrainGroup(TyperGroup):
    """The tasks as commands, each made when it is called; a file of the user's own is one too: path/to/file.py:MyTask."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(names())

    def get_params(self, ctx: Any) -> list[Any]:
        return bare_flags(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return None if cmd_name.startswith("-") else task_command(cmd_name)


def task_command(name: str) -> Any:
    """The command that trains a task."""
    found = find_task(name)
    kind = found.kind
    parameters = [
        *option_parameters(kind, {}, ()),
        *(_files() if issubclass(kind, FileTask) else ()),
        *option_parameters(ModelConfig, kind.defaults, kind.without),
        *option_parameters(TrainingConfig, kind.defaults, kind.without),
        *_run_options(kind),
    ]

    def run(**typed: Any) -> None:
        train_or_resume(found, typed)

    return make_command(name, run, parameters, help_text(kind.__doc__, kind.examples))


def train_or_resume(found: Found, typed: dict[str, Any]) -> None:
    """Start a run or continue one, with what was typed."""
    kind = found.kind
    config, out, resume = typed.pop("config"), typed.pop("out"), typed.pop("resume")
    equal = typed.pop("equal_size")
    more = typed.pop("more", None) or []
    refuse_flag_values(more, [name for name, value in typed.items() if value is True])
    if more:
        typed["data"] = [*(typed.get("data") or []), *more]
    kinds = (kind, ModelConfig, TrainingConfig)
    settings = typed_values(kinds, typed)
    if resume:
        if out is None:
            raise InputError("--resume needs the run to continue: name its folder with --out RUN")
        if config is not None:
            raise InputError(
                "--config cannot be used with --resume: a run continues with its own settings; leave it out"
            )
        if equal is not None:
            raise InputError(
                "--equal-size cannot be used with --resume: a run continues with its own units; leave it out"
            )
        task, training, run = _continued(found, Path(out), settings)
    else:
        tables = read_tables(Path(config), kind) if config is not None else {}
        task, training, run = _started(found, out, settings, tables, equal)

    from throughtime.training.loop import train
    from throughtime.training.processes import Processes
    from throughtime.training.reporting import Terminal

    first = Processes(training.device).first
    if first:
        print(before(task, training, run), flush=True)
    result = train(task, training, run, resume=resume, report=Terminal())
    if first:
        print(after(task, run, result, training, found))


def read_tables(path: Path, kind: type[Task]) -> Tables:
    """The tables of a TOML file; a run's own config.toml can be given as it is.

    Raises: InputError for a file that is missing, not TOML, or of another task.
    """
    try:
        tables = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise InputError(f"--config: no such file: {path}.{nearest_file(path)}") from None
    except OSError as error:
        raise InputError(f"--config: cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"--config: {path} is not TOML: {error}") from None
    if tables.get("task", kind.name) != kind.name:
        raise InputError(
            f"--config: {path} has settings of the task {tables['task']!r}: use 'throughtime train {tables['task']}'"
        )
    tables = {name: value for name, value in tables.items() if name not in _OWN}
    # The sections alone: their values are checked once those of the command line stand in their place.
    from_tables(
        {name: {} if isinstance(value, dict) else value for name, value in tables.items()},
        *(kind, ModelConfig, TrainingConfig),
    )
    return tables


def before(task: Task, training: TrainingConfig, run: Run) -> str:
    """Data, model, gradient, training, device and folder, a line each."""
    from throughtime import bptt
    from throughtime.tasks.recorded import model_config_of, parameters_of
    from throughtime.training.loop import window_of
    from throughtime.training.processes import Processes
    from throughtime.training.schedule import Budget

    processes = Processes(training.device)
    config = model_config_of(run)
    parameters = parameters_of(task, config, run.assets)
    sizes = " + ".join(map(str, config.sizes))
    embedding = "" if "embedding" in task.without else f", embedding {config.embedding}"
    field = f"; receptive field {config.receptive_field} steps" if config.receptive_field else ""
    steps = f" x {window_of(training)} steps" if task.stream else ""
    rows = [
        ("data", task.describe(run.assets)),
        ("model", f"{config.cell} of {sizes} units{embedding}: {parameters:,} parameters{field}"),
        ("BPTT", bptt.parse(training.bptt).describe()),
        (
            "training",
            f"{Budget.of(training)}, batch {training.batch * processes.world}{steps}, {training.optimizer} at "
            f"{training.lr:g}, {training.schedule}, clip {training.clip}",
        ),
        ("runs on", f"{processes.device}, {_backend(task, config, run, processes.device)}"),
        ("run", str(run.path)),
    ]
    return "\n".join(f"{name:<9} {text}" for name, text in rows)


def after(
    task: Task, run: Run, result: TrainingResult, training: TrainingConfig, found: Found | None = None
) -> str:
    """The final table, what it means, where the run is, and what one can do with it."""
    from throughtime.bench.table import plain
    from throughtime.progress import duration
    from throughtime.tasks.recorded import model_config_of
    from throughtime.training.card import results_table

    lines = [f"{result.step:,} steps in {duration(result.seconds)}"]
    if result.results:
        head, rows, notes = results_table(result.results)
        lines += ["", plain(tuple(head), [tuple(row) for row in rows]), *notes, ""]
    if result.best is not None and (words := task.conclude(result.best.values)):
        lines.append(words)
    path = shlex.quote(str(run.path))
    lines.append(f"The run and its model card, README.md, are in {run.path}. Next:")
    own = f" --task {shlex.quote(found.asked)}" if found is not None and found.sha256 is not None else ""
    lines += [f"  {command}{own}" for command in task.next_steps(path, model_config_of(run), run.assets)]
    if training.minutes is not None and result.step < _FEW:
        steps = "1 step" if result.step == 1 else f"{result.step} steps"
        lines.append(
            f"{training.minutes:g} minutes were enough for {steps} only, too few to learn much: make them cheaper with a "
            "smaller --hidden, or give more --minutes."
        )
    return "\n".join(lines)


def _started(
    found: Found, out: str | None, settings: Tables, file: Tables, equal: str | None
) -> tuple[Any, TrainingConfig, Run]:
    """A new run: what was typed goes before the file, the file before the task's defaults, those before the classes'."""
    kind = found.kind
    kinds: tuple[type[Settings], ...] = (kind, ModelConfig, TrainingConfig)
    merged = _with_init_from(kind, settings, file)
    for upper in (file, settings):
        if set(BUDGETS) & set(upper.get("training", {})):  # one budget takes the place of another
            table = merged.get("training", {})
            merged = {
                **merged,
                "training": {name: value for name, value in table.items() if name not in BUDGETS},
            }
        merged = over(upper, merged)
    task, model, training = from_tables(merged, *kinds)

    from throughtime.training.loop import start_run

    parameters = None
    if equal is not None:
        from throughtime.runs import Run
        from throughtime.tasks.recorded import model_config_of, parameters_of, task_of

        if "hidden" in settings.get("model", {}):
            raise InputError("--equal-size chooses the units, and --hidden gives them: keep one")
        other = Run.open(equal)
        own = found.sha256 is not None and other.config.get("task") == kind.name
        parameters = parameters_of(
            task_of(other, found.asked if own else None), model_config_of(other), other.assets
        )
    command = "throughtime " + shlex.join(sys.argv[1:]) if sys.argv[1:2] == ["train"] else ""
    path = Path(out) if out is not None else _free_name(task, model)
    task, run = start_run(
        task, model, training, path, command=command, task_sha256=found.sha256, parameters=parameters
    )
    return task, training, run


def _with_init_from(kind: type[Task], settings: Tables, file: Tables) -> Tables:
    """The task's defaults by section; with --init-from, the other run's model and its way to read data in their place."""
    defaults = dict(kind.defaults)
    known = set(ModelConfig.__dataclass_fields__)
    tables: Tables = {
        "model": {name: value for name, value in defaults.items() if name in known},
        "training": {name: value for name, value in defaults.items() if name not in known},
    }
    source = settings.get("training", {}).get("init_from") or file.get("training", {}).get("init_from")
    if source is None:
        return tables

    from throughtime.runs import Run

    other = Run.open(source)
    if other.config.get("task") != kind.name:
        raise InputError(
            f"init_from = {source} is a run of the task {other.config.get('task')!r}, not of {kind.name!r}"
        )
    own = {
        name: value
        for name, value in other.config.get(kind.section, {}).items()
        if name not in FileTask.__dataclass_fields__
    }
    return {**tables, kind.section: own, "model": dict(other.config.get("model", {}))}


def _continued(found: Found, path: Path, settings: Tables) -> tuple[Any, TrainingConfig, Run]:
    """The run to continue, after a check that no option contradicts it."""
    from throughtime.runs import Run
    from throughtime.tasks.recorded import model_config_of, settings_of, task_of

    if not path.exists():
        raise RunError(f"no such run: {path}: there is nothing to continue; leave out --resume to start it")
    run = Run.open(path)
    run.load_checkpoint()  # a damaged one is found before anything is said about the training
    recorded = run.config.get("task")
    if recorded != found.kind.name:
        raise InputError(
            f"{path} is a run of the task {recorded!r}: use 'throughtime train {recorded} --resume'"
        )
    task = task_of(run, found.asked)
    training = settings_of(run, TrainingConfig)
    own = {each.section: each.to_table() for each in (task, model_config_of(run), training)}
    for section, values in settings.items():
        for name, value in values.items():
            if name in MAY_CHANGE:
                continue
            if (
                name == "data"
            ):  # the file may lie elsewhere now; its checksum is held against the run's when it is read
                value = [full_path(each) for each in value]
                if isinstance(task, FileTask) and len(value) == len(task.data):
                    task = task.moved(tuple(value))
                    continue
            if name in ("validation", "test") and isinstance(value, str):
                value = full_path(value)
                if isinstance(task, FileTask) and isinstance(getattr(task, name), str):
                    parts: dict[str, Any] = {name: value}
                    task = replace(task, **parts)
                    continue
            has = own[section].get(name)
            if (list(value) if isinstance(value, tuple) else value) != has:
                raise InputError(
                    f"{option_name(name)} contradicts the run {run.path}, which was started with "
                    f"{name} = {has if has is not None else 'its default'}: leave it out, or start a new run"
                )
    changed = {name: value for name, value in settings.get("training", {}).items() if name in MAY_CHANGE}
    return task, replace(training, **changed), run


def _free_name(task: Task, model: ModelConfig) -> Path:
    """Units and data, as in runs/lstm512-book, with the first number after it that makes it new."""
    hidden = "x".join(str(size) for size in dict.fromkeys(model.sizes))
    title = task.title if task.title.startswith(task.name) else f"{task.name}-{task.title}"
    name = f"{model.cell}{hidden}-{task.title}" if task.stream else f"{title}-{model.cell}{hidden}"
    number, path = 1, Path("runs") / name
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def _backend(task: Task, config: ModelConfig, run: Run, device: Any) -> str:
    """Who runs the recurrent layers."""
    import torch

    from throughtime.kernels.dispatch import backends
    from throughtime.tasks.recorded import on_meta

    layers: Any = getattr(on_meta(task, config, run.assets), "layers", None)
    call = getattr(layers, "call", None)
    if call is None:
        return str(getattr(layers, "runs_on", "backend reference"))
    report = backends(call(torch.empty(1, 1, 1, device=device)))
    return "backend " + next(name for name, runs, _ in report.rows if runs)


def _files() -> list[inspect.Parameter]:
    argument = Annotated[list[str] | None, typer.Argument(metavar="FILE", hidden=True)]
    return [inspect.Parameter("more", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=argument)]


def _run_options(kind: type[Task]) -> list[inspect.Parameter]:
    """Where and whether to train: no settings of the run."""
    sections = f"task, {kind.section}, model, training"
    options: list[tuple[str, Any, Any, Any]] = [
        (
            "config",
            str | None,
            None,
            {"metavar": "FILE", "help": f"TOML with {sections}; options override it."},
        ),
        (
            "out",
            str | None,
            None,
            {"metavar": "RUN", "help": "Folder of the run. Default: a new one in runs/."},
        ),
        ("resume", bool, False, {"help": "Continue the run in --out, as it was started."}),
        (
            "equal_size",
            str | None,
            None,
            {
                "metavar": "RUN",
                "help": "Choose --hidden so that the model has as many parameters as that of RUN.",
            },
        ),
    ]
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[
                annotation,
                typer.Option(option_name(name), rich_help_panel="Run", show_default=False, **details),
            ],
        )
        for name, annotation, default, details in options
    ]
