"""`throughtime compare`: strategies of BPTT, and remedies for vanishing gradients, beside each other."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.errors import RunError

if TYPE_CHECKING:
    from throughtime.studies import remedies as remedies_study
    from throughtime.studies import strategies as strategies_study
    from throughtime.studies.remedies_run import Comparison as RemediesComparison
    from throughtime.studies.strategies_run import Comparison as StrategiesComparison


def compare_bptt(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A text. Default: The Time Machine, or the text that ships inside."
        ),
    ] = None,
    window: Annotated[
        int, typer.Option(metavar="W", min=2, help="Steps on the text between cuts, on average where random.")
    ] = 35,
    cell: Annotated[str, typer.Option(metavar="CELL", help="rnn, gru or lstm.")] = "gru",
    task: Annotated[
        str, typer.Option(metavar="TASK", help="The task with a long memory: copy, adding, echo, or none.")
    ] = "copy",
    length: Annotated[
        int | None,
        typer.Option(metavar="T", min=1, help="Of the task. Default: copy 10, adding 70, echo 40."),
    ] = None,
    task_window: Annotated[
        int | None,
        typer.Option(metavar="W", min=2, help="Steps on the task between cuts. Default: 10; echo 5."),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:W", help="Repeat for more; W stands for the window. Default: the four below."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Updates of each training. Default: 400 on the text, 1,500 on the task."
        ),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(metavar="N", min=4, help="Of each random gradient. Default: 300.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trainings of each strategy. Default: 2.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Small models, less text, few updates and draws: under a minute."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Trainings side by side. Default: one for each core."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write bptt.md, bptt.json and bptt.png there.")
    ] = None,
) -> None:
    """Full, truncated and randomised BPTT: loss, time, memory, and the gradient's bias and variance.

    full, truncated:W (regular), randomized:W (a cut at every step with probability 1/W, reweighted), polynomial:W (cuts
    become rarer the longer the last one is ago), each on a text and on a task with a long memory. All make the same
    number of updates on the same sequences; only the gradient differs. Takes about eight minutes on two cores; Ctrl-C
    keeps what is done.

    Examples:
    throughtime compare bptt --quick
    throughtime compare bptt --out strategies
    throughtime compare bptt --task adding --strategy truncated:W --strategy polynomial:W/5
    """
    from throughtime.bench.table import plain
    from throughtime.progress import ProgressBar
    from throughtime.studies.strategies import QUICK, Settings
    from throughtime.studies.strategies_run import compare
    from throughtime.studies.strategies_table import LEGEND, sentences, table, to_dict
    from throughtime.studies.workers import cores

    settings = _chosen(
        QUICK if quick else Settings(),
        {
            "data": None if data is None else str(data),
            "window": window,
            "cell": cell,
            "task": task,
            "length": length,
            "task_window": task_window,
            "strategies": tuple(strategy) if strategy else None,
            "text_steps": steps,
            "task_steps": steps,
            "draws": draws,
            "seeds": seeds,
        },
    )
    if out is not None:
        _prepare(out)
    jobs = jobs or cores()
    if not as_json:
        print(_bptt_before(settings, jobs), flush=True)
    with ProgressBar("comparing") as progress:
        found = compare(settings, jobs=jobs, progress=progress.update)
    if out is not None and found.seconds:
        _write_bptt(out, found)
    if as_json:
        print(json.dumps(to_dict(found)))
    elif found.seconds:
        print(f"\n{plain(*table(found))}\n\n{LEGEND}\n")
        for sentence in sentences(found):
            print(sentence)
        if out is not None:
            print(f"The table and the picture are in {out}.")
    if not found.complete:
        print(
            f"throughtime: stopped after {len(found.gradients)} gradients and {len(found.trainings)} trainings",
            file=sys.stderr,
        )
        raise typer.Exit(130)


def _bptt_before(settings: strategies_study.Settings, jobs: int) -> str:
    lines = [
        f"{problem.title}: {settings.cell}, {problem.model.hidden} units, {problem.length} steps an update, batch "
        f"{problem.batch}, Adam {problem.lr:g}, clip {problem.clip}; {', '.join(problem.strategies)}; {problem.steps:,} updates"
        for problem in settings.problems()
    ]
    seeds = "once" if settings.seeds == 1 else f"{settings.seeds} times"
    return "\n".join([*lines, f"each trained {seeds}, {jobs} side by side"])


def _write_bptt(out: Path, found: StrategiesComparison) -> None:
    from throughtime.bench.table import markdown
    from throughtime.studies.strategies_plot import plot
    from throughtime.studies.strategies_table import LEGEND, sentences, table, to_dict

    _keep(out, "bptt", f"{markdown(*table(found))}\n\n{LEGEND}", sentences(found), to_dict(found))
    plot(found, out / "bptt.png")


def compare_remedies(
    length: Annotated[
        list[int] | None,
        typer.Option(
            metavar="T", help="Length of the sequences; repeat for more. Default: 20, 50, 100, 200."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Updates of one training at most. Default: 2,500.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trainings of each remedy and length. Default: 2.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Lengths 10 and 30, 400 steps, one seed: about a minute.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Trainings side by side. Default: one for each core."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write remedies.md, remedies.json and remedies.png there."),
    ] = None,
) -> None:
    """Who learns the adding problem at which length, and what the gradient's half-life says of it.

    Plain RNNs (tanh; orthogonal start; ReLU with identity start; clipped and not), GRU, LSTM, and an LSTM with
    forget bias 1. A length counts as learned when the squared error falls below 0.05; knowing nothing is 0.1667. The
    gradient is measured before and after. Takes about ten minutes on two cores; Ctrl-C keeps what is done.

    Examples:
    throughtime compare remedies --quick
    throughtime compare remedies --out remedies
    throughtime compare remedies --length 30 --length 200 --steps 3000
    """
    from throughtime.bench.table import plain
    from throughtime.progress import ProgressBar
    from throughtime.studies.remedies import QUICK, Settings
    from throughtime.studies.remedies_run import compare
    from throughtime.studies.remedies_table import CAPTION, sentences, table, to_dict
    from throughtime.studies.workers import cores

    typed = {"steps": steps, "seeds": seeds, "lengths": tuple(length) if length else None}
    settings = _chosen(QUICK if quick else Settings(), typed)
    if out is not None:
        _prepare(out)
    jobs = jobs or cores()
    if not as_json:
        print(_remedies_before(settings, jobs), flush=True)
    with ProgressBar("comparing") as bar:

        def done(share: float, last: remedies_study.Trial | None) -> None:
            if last is not None:
                bar.update(share, _last(last))

        comparison = compare(settings, jobs=jobs, progress=done)
    if out is not None and comparison.trials:
        _write_remedies(out, comparison)
    if as_json:
        print(json.dumps(to_dict(comparison)))
    elif comparison.trials:
        print(f"\n{plain(*table(comparison))}\n\n{CAPTION}\n")
        for sentence in sentences(comparison):
            print(sentence)
        if out is not None:
            print(f"The table and the picture are in {out}.")
    if not comparison.complete:
        print(f"throughtime: stopped after {len(comparison.trials)} trainings", file=sys.stderr)
        raise typer.Exit(130)


def _remedies_before(settings: remedies_study.Settings, jobs: int) -> str:
    from throughtime.studies.remedies import REMEDIES

    lengths = ", ".join(map(str, settings.lengths))
    return (
        f"adding problem, T = {lengths}; {len(REMEDIES)} remedies x {settings.seeds} seeds, {settings.hidden} units, "
        f"batch {settings.batch}, Adam, at most {settings.steps:,} steps each; {jobs} side by side"
    )


def _last(trial: remedies_study.Trial) -> str:
    what = "not learned" if trial.learned is None else f"learned after {trial.learned} steps"
    return f"{trial.remedy}, T = {trial.length}: {what}"


def _write_remedies(out: Path, comparison: RemediesComparison) -> None:
    from throughtime.bench.table import markdown
    from throughtime.studies.remedies_plot import plot
    from throughtime.studies.remedies_table import sentences, table, to_dict

    _keep(out, "remedies", markdown(*table(comparison)), sentences(comparison), to_dict(comparison))
    plot(comparison, out / "remedies.png")


def _chosen(settings: Any, typed: dict[str, Any]) -> Any:
    """The settings with what was typed in place of the defaults."""
    return replace(settings, **{name: value for name, value in typed.items() if value is not None})


def _keep(out: Path, name: str, table: str, sentences: list[str], found: dict[str, Any]) -> None:
    """`name`.md, a table and what it says, and `name`.json in the folder.

    Raises: RunError naming what could not be written.
    """
    from throughtime.files import write_whole

    said = "\n".join(f"- {sentence}" for sentence in sentences)
    write_whole(out / f"{name}.md", f"{table}\n\n{said}\n".encode())
    write_whole(out / f"{name}.json", f"{json.dumps(found, indent=1)}\n".encode())


def _prepare(out: Path) -> None:
    """Find out before minutes of work that their result could not be written.

    Raises: InputError without matplotlib, RunError where the folder cannot be written to.
    """
    from throughtime.flow.drawing import style

    style()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror}; choose another --out") from None
