"""`throughtime runs`: list runs, or compare them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.errors import RunError

if TYPE_CHECKING:
    from throughtime.runs import Run


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER|RUN", help="A folder of runs, or the runs to compare."),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT", help="Draw the histories of the runs that are compared; .svg and .pdf too."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the runs in a folder, or compare runs: the settings in which they differ, and their histories.

    Without arguments it lists those in runs/.

    Examples:
    throughtime runs
    throughtime runs runs/a runs/b --png compared.png
    """
    import json

    from throughtime.bench.table import plain
    from throughtime.errors import InputError
    from throughtime.runs import Run
    from throughtime.runs.run import CONFIG

    paths = folders or [Path("runs")]
    comparing = len(paths) > 1 or (paths[0] / CONFIG).is_file()
    if comparing:
        opened = [Run.open(path) for path in paths]
        head, rows = compared(opened)
        if png is not None:
            from throughtime.flow.drawing import check, style

            check(png, picture=True)
            style()
            draw(opened, png)
    else:
        if png is not None:
            raise InputError("--png draws the histories of runs that are compared: name at least one run")
        if not paths[0].is_dir():
            raise InputError(
                f"no such folder: {paths[0]}; name a folder of runs, or train one: throughtime train text"
            )
        opened = _readable(config.parent for config in sorted(paths[0].rglob(CONFIG)))
        if not opened:
            raise InputError(f"there is no run in {paths[0]}; train one: throughtime train text")
        head, rows = listed(opened)
    if as_json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows], indent=2))
        return
    print(plain(tuple(head), [tuple(row) for row in rows]))
    if png is not None:
        print(f"Written: {png}")


def _readable(folders: Iterable[Path]) -> list[Run]:
    """The runs that can be read; the others are named on standard error."""
    from throughtime.runs import Run

    found = []
    for folder in folders:
        try:
            run = Run.open(folder)
            run.history()
        except RunError as error:
            print(error, file=sys.stderr)
        else:
            found.append(run)
    return found


def listed(found: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One row for each run: task, model, steps, the main metric of its best evaluation, and when it was last written."""
    import time

    rows = []
    for run in found:
        history = run.history()
        step = max((int(record.get("step", 0)) for record in history), default=0)
        model = run.config.get("model", {})
        hidden = model.get("hidden", "")
        name, value = _best(history)
        changed = max(file.stat().st_mtime for file in run.path.iterdir())
        rows.append(
            [
                str(run.path),
                str(run.config.get("task", "")),
                f"{model.get('cell', '')} {'+'.join(map(str, hidden)) if isinstance(hidden, list) else hidden}",
                f"{step:,}",
                f"{name} {value:.4g}" if value is not None else "",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(changed)),
            ]
        )
    return ["run", "task", "model", "steps", "best validation", "changed"], rows


def compared(found: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One row for each setting in which the runs differ, then one for each number of their histories."""
    from throughtime.runs.history import best_evaluation

    settings = [_flat(run.config) for run in found]
    names = list(dict.fromkeys(name for each in settings for name in each))
    rows = [
        [name, *(_shown(each.get(name)) for each in settings)]
        for name in names
        if len({_shown(each.get(name)) for each in settings}) > 1 and name != "command"
    ]
    histories = [run.history() for run in found]
    rows.append(
        ["steps", *(f"{max((int(r.get('step', 0)) for r in each), default=0):,}" for each in histories)]
    )
    seconds = [max((float(r.get("seconds") or 0) for r in each), default=0.0) for each in histories]
    rows.append(["seconds", *(f"{each:.1f}" for each in seconds)])
    losses = [[r.get("loss") for r in each if r.get("kind") == "training"] for each in histories]
    rows.append(["last training loss", *(_shown(each[-1] if each else None) for each in losses)])
    bests = [best_evaluation(each) for each in histories]
    rows.append(["best validation loss", *(_shown(each.get("loss")) for each in bests)])
    rows.append(["at step", *(_shown(each.get("step")) for each in bests)])
    rows.extend(
        [f"best {metric}", *(_shown(each.get("metrics", {}).get(metric)) for each in bests)]
        for metric in dict.fromkeys(name for each in bests for name in each.get("metrics", {}))
        if metric != "loss"
    )
    return ["", *(str(run.path) for run in found)], rows


def draw(found: list[Run], path: Path) -> None:
    """Training and validation loss over steps, one line for each run."""
    from throughtime.flow import drawing

    with drawing.style():
        figure = drawing.figure(11, 4)
        left, right = figure.subplots(1, 2)
        for number, run in enumerate(found):
            history = run.history()
            for axes, kind in ((left, "training"), (right, "evaluation")):
                points = [
                    (r["step"], r["loss"])
                    for r in history
                    if r.get("kind") == kind and r.get("loss") is not None
                ]
                steps, losses = zip(*points, strict=True) if points else ((), ())
                axes.plot(
                    steps, losses, label=str(run.path), **drawing.line_style(number, max(1, len(steps)))
                )
        for axes, title in ((left, "training loss"), (right, "validation loss")):
            axes.set(title=title, xlabel="step")
            axes.legend()
        drawing.save(figure, path)


def _best(history: list[dict[str, Any]]) -> tuple[str, float | None]:
    """The main metric of the best evaluation."""
    from throughtime.runs.history import best_evaluation

    record = best_evaluation(history)
    return next(iter(record.get("metrics", {}).items()), ("loss", record.get("loss")))


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """section.name -> value."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= (
            {f"{name}.{key}": each for key, each in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
