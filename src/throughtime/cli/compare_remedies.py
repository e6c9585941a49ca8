"""`throughtime compare remedies`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from throughtime.cli.comparison import chosen, keep, prepare
from throughtime.progress import ProgressBar

if TYPE_CHECKING:
    from throughtime.studies.remedies import Settings, Trial
    from throughtime.studies.remedies_run import Comparison


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
    import json

    from throughtime.bench.table import plain
    from throughtime.studies.remedies import QUICK, Settings
    from throughtime.studies.remedies_run import compare
    from throughtime.studies.remedies_table import CAPTION, sentences, table, to_dict
    from throughtime.studies.workers import cores

    given = {"steps": steps, "seeds": seeds, "lengths": tuple(length) if length else None}
    settings = chosen(QUICK if quick else Settings(), given)
    if out is not None:
        prepare(out)
    jobs = jobs or cores()
    if not as_json:
        print(_before(settings, jobs), flush=True)
    with ProgressBar("comparing", delay=0) as progress:

        def done(share: float, last: Trial | None) -> None:
            if last is not None:
                progress.update(share, _last(last))

        comparison = compare(settings, jobs=jobs, progress=done)
    if out is not None and comparison.trials:
        _write(out, comparison)
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


def _before(settings: Settings, jobs: int) -> str:
    from throughtime.studies.remedies import REMEDIES

    lengths = ", ".join(map(str, settings.lengths))
    return (
        f"adding problem, T = {lengths}; {len(REMEDIES)} remedies x {settings.seeds} seeds, {settings.hidden} units, "
        f"batch {settings.batch}, Adam, at most {settings.steps:,} steps each; {jobs} side by side"
    )


def _last(trial: Trial) -> str:
    what = "not learned" if trial.learned is None else f"learned after {trial.learned} steps"
    return f"{trial.remedy}, T = {trial.length}: {what}"


def _write(out: Path, comparison: Comparison) -> None:
    from throughtime.bench.table import markdown
    from throughtime.studies.remedies_plot import plot
    from throughtime.studies.remedies_table import sentences, table, to_dict

    keep(out, "remedies", markdown(*table(comparison)), sentences(comparison), to_dict(comparison))
    plot(comparison, out / "remedies.png")
