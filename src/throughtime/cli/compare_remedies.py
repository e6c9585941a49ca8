"""`throughtime compare remedies`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.errors import InputError, RunError

if TYPE_CHECKING:
    from throughtime.studies.remedies import Settings
    from throughtime.studies.remedies_run import Comparison, Progress


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
    from throughtime.studies.remedies_run import compare, cores
    from throughtime.studies.remedies_table import CAPTION, sentences, table, to_dict

    settings = _settings(length, steps, seeds, quick)
    if out is not None:
        _prepare(out)
    jobs = jobs or cores()
    if not as_json:
        print(_before(settings, jobs), flush=True)
    with _told() as progress:
        comparison = compare(settings, jobs=jobs, progress=progress)
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


def _settings(lengths: list[int] | None, steps: int | None, seeds: int | None, quick: bool) -> Settings:
    from dataclasses import replace

    from throughtime.studies.remedies import QUICK, Settings

    given: dict[str, Any] = {"steps": steps, "seeds": seeds, "lengths": tuple(lengths) if lengths else None}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(QUICK if quick else Settings(), **given)


def _before(settings: Settings, jobs: int) -> str:
    from throughtime.studies.remedies import REMEDIES

    lengths = ", ".join(map(str, settings.lengths))
    return (
        f"adding problem, T = {lengths}; {len(REMEDIES)} remedies x {settings.seeds} seeds, {settings.hidden} units, "
        f"batch {settings.batch}, Adam, at most {settings.steps:,} steps each; {jobs} side by side"
    )


@contextmanager
def _told() -> Iterator[Progress]:
    """A bar on a terminal, a line for each training elsewhere; both on stderr."""
    import time

    from throughtime.training.reporter import duration

    start = time.monotonic()

    def left(share: float) -> str:
        return f"about {duration((time.monotonic() - start) * (1 - share) / share)} left" if share else ""

    def text(last: Any) -> str:
        if last is None:
            return "starting"
        what = "not learned" if last.learned is None else f"learned after {last.learned} steps"
        return f"{last.remedy}, T = {last.length}: {what}"

    def line(share: float, last: Any) -> None:
        if last is not None:
            print(f"{share:.0%}, {left(share)}: {text(last)}", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Rich

    columns = (BarColumn(bar_width=None), TextColumn("{task.percentage:>3.0f}%  {task.description}"))
    with Rich(*columns, console=Console(stderr=True), transient=True, expand=True) as rich:
        bar = rich.add_task("starting", total=1.0)

        def move(share: float, last: Any) -> None:
            rich.update(bar, completed=share, description=f"{text(last)}  {left(share)}")

        yield move


def _prepare(out: Path) -> None:
    """Find out before ten minutes of work that they could not be kept."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError(
            'the picture of --out needs matplotlib, which is not installed: pip install "throughtime[plot]"'
        ) from None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror}; choose another --out") from None


def _write(out: Path, comparison: Comparison) -> None:
    import json

    from throughtime.bench.table import markdown
    from throughtime.studies.remedies_plot import plot
    from throughtime.studies.remedies_table import sentences, table, to_dict

    text = (
        markdown(*table(comparison))
        + "\n\n"
        + "\n".join(f"- {line}" for line in sentences(comparison))
        + "\n"
    )
    (out / "remedies.md").write_text(text, encoding="utf-8")
    (out / "remedies.json").write_text(json.dumps(to_dict(comparison), indent=1) + "\n", encoding="utf-8")
    plot(comparison, out / "remedies.png")
