"""`throughtime compare bptt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from throughtime.cli.comparison import chosen, keep, prepare
from throughtime.progress import ProgressBar

if TYPE_CHECKING:
    from throughtime.studies.strategies import Settings
    from throughtime.studies.strategies_run import Comparison


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
    import json

    from throughtime.bench.table import plain
    from throughtime.studies.strategies import QUICK, Settings
    from throughtime.studies.strategies_run import compare
    from throughtime.studies.strategies_table import LEGEND, sentences, table, to_dict
    from throughtime.studies.workers import cores

    settings = chosen(
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
        prepare(out)
    jobs = jobs or cores()
    if not as_json:
        print(_before(settings, jobs), flush=True)
    with ProgressBar("comparing", delay=0) as progress:
        found = compare(settings, jobs=jobs, progress=progress.update)
    if out is not None and found.seconds:
        _write(out, found)
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


def _before(settings: Settings, jobs: int) -> str:
    lines = [
        f"{problem.title}: {settings.cell}, {problem.model.hidden} units, {problem.length} steps an update, batch "
        f"{problem.batch}, Adam {problem.lr:g}, clip {problem.clip}; {', '.join(problem.strategies)}; {problem.steps:,} updates"
        for problem in settings.problems()
    ]
    seeds = "once" if settings.seeds == 1 else f"{settings.seeds} times"
    return "\n".join([*lines, f"each trained {seeds}, {jobs} side by side"])


def _write(out: Path, found: Comparison) -> None:
    from throughtime.bench.table import markdown
    from throughtime.studies.strategies_plot import plot
    from throughtime.studies.strategies_table import LEGEND, sentences, table, to_dict

    keep(out, "bptt", f"{markdown(*table(found))}\n\n{LEGEND}", sentences(found), to_dict(found))
    plot(found, out / "bptt.png")
