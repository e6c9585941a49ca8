"""`throughtime compare`: strategies of BPTT, and remedies for vanishing gradients, compared in many small trainings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from throughtime.errors import RunError

_Quick = Annotated[bool, typer.Option("--quick", help="Small models, few steps: about a minute.")]
_Jobs = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Trainings at a time. Default: one for each core.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Also write the table (Markdown), the numbers (JSON) and a picture there."
    ),
]


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
        str, typer.Option(metavar="TASK", help="The task with a long delay: copy, adding, echo, or none.")
    ] = "copy",
    length: Annotated[
        int | None,
        typer.Option(metavar="T", min=1, help="Length of the task. Default: copy 10, adding 70, echo 40."),
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
        int | None, typer.Option(metavar="N", min=4, help="Draws of each random gradient. Default: 300.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trainings of each strategy. Default: 2.")
    ] = None,
    quick: _Quick = False,
    jobs: _Jobs = None,
    as_json: _Json = False,
    out: _Out = None,
) -> None:
    """Full, truncated and randomized BPTT: loss, time, memory, and the gradient's bias and variance.

    full, truncated:W (regular), randomized:W (a cut at every step with probability 1/W, reweighted), polynomial:W (cuts
    become rarer the longer the last one is ago), each on a text and on a task with a long delay. All make the same
    number of updates on the same sequences; only the gradient differs. Takes about eight minutes on two cores; Ctrl-C
    keeps what is done.

    Examples:
    throughtime compare bptt --quick
    throughtime compare bptt --out strategies
    throughtime compare bptt --task adding --strategy truncated:W --strategy polynomial:W/5
    """
    from throughtime.progress import ProgressBar
    from throughtime.studies import strategies_report
    from throughtime.studies.strategies import QUICK_STRATEGIES, StrategySettings
    from throughtime.studies.strategies_run import compare_strategies
    from throughtime.studies.workers import available_cores

    settings = _with_typed(
        QUICK_STRATEGIES if quick else StrategySettings(),
        data=None if data is None else str(data),
        window=window,
        cell=cell,
        task=task,
        length=length,
        task_window=task_window,
        strategies=tuple(strategy) if strategy else None,
        text_steps=steps,
        task_steps=steps,
        draws=draws,
        seeds=seeds,
    )
    _check_out(out)
    jobs = jobs or available_cores()
    if not as_json:
        for problem in settings.problems():
            print(
                f"{problem.title}: {settings.cell}, {problem.model.hidden} units, {problem.length} steps an update, batch "
                f"{problem.batch}, Adam {problem.lr:g}, clip {problem.clip}; {', '.join(problem.strategies)}; "
                f"{problem.steps:,} updates"
            )
        print(_times(settings.seeds, jobs), flush=True)
    with ProgressBar("comparing", delay=0.0) as progress:
        comparison = compare_strategies(settings, jobs=jobs, progress=progress.update)
    _show("bptt", strategies_report, comparison, as_json, out)


def compare_remedies(
    length: Annotated[
        list[int] | None,
        typer.Option(
            metavar="T", help="Length of the sequences; repeat for more. Default: 20, 50, 100, 200."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Steps of one training, at most. Default: 2,500.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trainings of each remedy and length. Default: 2.")
    ] = None,
    quick: _Quick = False,
    jobs: _Jobs = None,
    as_json: _Json = False,
    out: _Out = None,
) -> None:
    """Which models learn the adding problem at which length, and how far back their gradient reaches.

    Plain RNNs (tanh; orthogonal initialization; ReLU with identity initialization; clipped and not), GRU, LSTM, and an LSTM
    with forget bias 1. A length counts as learned when the squared error falls below 0.05; always predicting 1 gives 0.1667.
    The gradient is measured before and after training. Takes about ten minutes on two cores; Ctrl-C keeps what is done.

    Examples:
    throughtime compare remedies --quick
    throughtime compare remedies --out remedies
    throughtime compare remedies --length 30 --length 200 --steps 3000
    """
    from throughtime.progress import ProgressBar
    from throughtime.studies import remedies_report
    from throughtime.studies.remedies import QUICK_REMEDIES, REMEDIES, RemedySettings
    from throughtime.studies.remedies import compare_remedies as compare
    from throughtime.studies.workers import available_cores

    settings = _with_typed(
        QUICK_REMEDIES if quick else RemedySettings(),
        lengths=tuple(length) if length else None,
        steps=steps,
        seeds=seeds,
    )
    _check_out(out)
    jobs = jobs or available_cores()
    if not as_json:
        print(
            f"adding problem, T = {', '.join(map(str, settings.lengths))}: {len(REMEDIES)} remedies, {settings.hidden} units, "
            f"batch {settings.batch}, Adam, at most {settings.steps:,} steps\n{_times(settings.seeds, jobs)}",
            flush=True,
        )
    with ProgressBar("comparing", delay=0.0) as progress:
        comparison = compare(settings, jobs=jobs, progress=progress.update)
    _show("remedies", remedies_report, comparison, as_json, out)


def _times(seeds: int, jobs: int) -> str:
    return f"each trained {'once' if seeds == 1 else f'{seeds} times'}, {jobs} at a time"


def _with_typed(settings: Any, **typed: Any) -> Any:
    """The settings with the typed values in place of the defaults."""
    return replace(settings, **{name: value for name, value in typed.items() if value is not None})


def _check_out(out: Path | None) -> None:
    """Report before minutes of work that their result could not be written.

    Raises: InputError without matplotlib, RunError where the folder cannot be made.
    """
    if out is None:
        return
    from throughtime.flow.drawing import style

    style()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror}; choose another --out") from None


def _show(name: str, report: Any, comparison: Any, as_json: bool, out: Path | None) -> None:
    """Print a comparison, and write `name`.md, `name`.json and `name`.png into `out`; exit with 130 after Ctrl-C.

    Args: report, the module with its `table`, `LEGEND`, `sentences`, `to_dict` and `plot`.
    Raises: RunError for a file that cannot be written.
    """
    from throughtime.bench.table import markdown, plain
    from throughtime.files import json_text, write_whole

    values = report.to_dict(comparison)
    if out is not None and comparison.finished:
        said = "\n".join(f"- {sentence}" for sentence in values["sentences"])
        page = f"{markdown(*report.table(comparison))}\n\n{report.LEGEND}\n\n{said}\n"
        write_whole(out / f"{name}.md", page.encode())
        write_whole(out / f"{name}.json", f"{json_text(values, indent=1)}\n".encode())
        report.plot(comparison, out / f"{name}.png")
    if as_json:
        print(json_text(values))
    elif comparison.finished:
        print(f"\n{plain(*report.table(comparison))}\n\n{report.LEGEND}\n")
        print("\n".join(values["sentences"]))
        if out is not None:
            print(f"The table and the picture are in {out}.")
    if not comparison.complete:
        done = f"after {comparison.finished}" if comparison.finished else "before the first result"
        print(f"throughtime: stopped {done}", file=sys.stderr)
        raise typer.Exit(130)
