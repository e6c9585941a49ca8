"""What `throughtime train text` does: gather the settings, begin a run or go on with one, train it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from throughtime.cli.given import Tables, given, over, read_tables, refuse_answers, tables_of, without
from throughtime.errors import InputError, RunError, ThroughtimeError
from throughtime.models import ModelConfig, settings_from, settings_to_dict
from throughtime.tasks import TextConfig
from throughtime.training.config import TrainingConfig

if TYPE_CHECKING:
    from throughtime.runs import Run
    from throughtime.tasks import TextTask
    from throughtime.training.processes import Processes

KINDS = (TextConfig, ModelConfig, TrainingConfig)
_BUDGETS = ("epochs", "steps", "minutes")
# In a training that is resumed: what makes no other model, and what is done when its loss jumps.
MAY_CHANGE = ("tensorboard", "watch", "on_spike", "rollback_lr", "rollback_clip", "rollbacks")
_OURS = ("config", "out", "resume")  # where and whether to train: no settings of the run


def train_or_resume(context: typer.Context) -> None:
    """Run the command `train text` with the options of `context`."""
    typed = given(context)
    refuse_answers(typed.get("more") or [], [name for name, value in typed.items() if value is True])
    ours = {name: typed.pop(name) for name in _OURS if name in typed}
    settings = tables_of(_settings(typed), KINDS)
    resume = "resume" in ours
    run, task, training = _begun(ours, settings) if resume else _begin(ours, settings)

    from throughtime.cli.summary import after, before, too_few
    from throughtime.training import reporter_for, train
    from throughtime.training.processes import Processes

    first = Processes(training.device).first
    if first:
        print(before(task, training, run.path), flush=True)
    summary = train(task, training, run, resume=resume, report=reporter_for())
    if first:
        print(f"{after(task, summary)}\n{too_few(training, summary)}", end="")


def _settings(typed: dict[str, Any]) -> dict[str, Any]:
    """Options under the names and in the types of the settings."""
    settings = dict(typed)
    files = [*settings.pop("data", []), *settings.pop("more", [])]
    if files:
        settings["data"] = [str(file) for file in files]
    if "reset_before" in settings:
        settings["reset_after"] = not settings.pop("reset_before")
    if "hidden" in settings:
        sizes = [_whole("--hidden", part) for part in settings["hidden"].split(",")]
        settings["hidden"] = sizes[0] if len(sizes) == 1 else sizes
    if "embedding" in settings and settings["embedding"] != "onehot":
        settings["embedding"] = _whole("--embedding", settings["embedding"], " or onehot")
    return settings


def _whole(option: str, text: str, also: str = "") -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} must be a whole number{also}, got {text!r}") from None


def _begin(ours: dict[str, Any], settings: Tables) -> tuple[Run, TextTask, TrainingConfig]:
    """A new run."""
    from throughtime.tasks import TextTask
    from throughtime.training import check, window_of
    from throughtime.training.processes import Processes

    file: Tables = read_tables(ours["config"]) if "config" in ours else {}
    if set(_BUDGETS) & set(settings.get("training", {})):  # one budget takes the place of another
        file = without(_BUDGETS, "training", file)
    text, model, training = settings_from(over(settings, file), *KINDS)
    check(training)
    task = TextTask.create(text, model)
    # What cannot be trained is found out before there is a folder that holds a run.
    processes = Processes(training.device)
    task.streams(window_of(training), training.batch, seed=0, rank=processes.rank, world=processes.world)
    task.build()
    out = ours["out"] if "out" in ours else _free_name(text, model)
    return _create(out, settings_to_dict(task.config, model, training), task, processes), task, training


def _create(out: Path, config: Tables, task: TextTask, processes: Processes) -> Run:
    """The run, made by the first process and opened by the others; they fail together or not at all."""
    from throughtime.runs import Run

    failure = None
    if processes.first:
        try:
            out = Run.create(out, config, task.vocabulary).path
        except ThroughtimeError as error:
            failure = str(error)
    failure, out = processes.tell((failure, out))
    if failure is not None:
        raise RunError(failure)
    return Run.open(out)


def _begun(ours: dict[str, Any], settings: Tables) -> tuple[Run, TextTask, TrainingConfig]:
    """The run to go on with, after a check that no option says otherwise."""
    from throughtime.tasks import TextTask

    if "out" not in ours:
        raise InputError("--resume needs the run to go on with: name its folder with --out RUN")
    if "config" in ours:
        raise InputError(
            "--config cannot be given with --resume: a run goes on with its own settings; leave it out"
        )
    run = open_to_resume(ours["out"])
    configs = settings_from({kind.section: run.config.get(kind.section, {}) for kind in KINDS}, *KINDS)
    own = settings_to_dict(*configs)
    for section, table in settings.items():
        for name, value in table.items():
            if name in MAY_CHANGE:
                continue
            has = own[section].get(name)
            if name == "data":
                value = [str(Path(path).resolve()) for path in value]
            if value != has:
                raise InputError(
                    f"--{_option(name)} contradicts the run {run.path}, which was started with "
                    f"{name} = {has if has is not None else 'its default'}: leave it out, or start a new run"
                )
    training = replace(
        configs[2], **{n: v for n, v in settings.get("training", {}).items() if n in MAY_CHANGE}
    )
    return run, TextTask.from_run(run), training


def open_to_resume(path: Path) -> Run:
    """The run, found whole before anything is said about its training.

    Raises: RunError as `Run.open` and `Run.load_checkpoint`; where there is none, it says how to start it.
    """
    from throughtime.runs import Run

    if not path.exists():
        raise RunError(f"no such run: {path}: there is nothing to go on with; leave out --resume to start it")
    run = Run.open(path)
    run.load_checkpoint()
    return run


def _option(name: str) -> str:
    return {"reset_after": "reset-before"}.get(name, name.replace("_", "-"))


def _free_name(text: TextConfig, model: ModelConfig) -> Path:
    """runs/CELL-HIDDEN-TEXT, with the first number after it that makes it new."""
    source = Path(text.data[0]).stem if text.data else "python"
    hidden = "x".join(str(size) for size in dict.fromkeys(model.sizes))
    name = f"{model.cell}{hidden}-{source}"
    number, path = 1, Path("runs") / name
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path
