"""`throughtime influence`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

_EXACT = 256  # up to so many outputs all of them are sent back; more are estimated
_DIRECTIONS = 64
_STEPS = 400


def influence(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained run.")],
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The text that the model reads. Runs of adding, copy and echo draw a sequence without it.",
        ),
    ] = None,
    directions: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Estimate from N random directions of the output. Default: exact up to 256 symbols, else 64.",
        ),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a picture; the suffix may be .svg or .pdf too.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="OUT", help="Write a page, one file.")] = None,
) -> None:
    """Show which symbols of a text each output depends on.

    One row for each output, one column for each symbol read: the size of the derivative of the logits by
    the symbol's vector. A model that reads forward gives a triangle.

    Examples:
    throughtime influence runs/demo --prompt "The cat sat on the mat"
    throughtime influence runs/demo --prompt "for x in range(" --png influence.png
    """
    import shutil

    from throughtime.cli.measured import opened, read_prompt
    from throughtime.cli.progress import Waiting
    from throughtime.flow import influence as measure
    from throughtime.flow.drawing import check, style

    for path in (html, png):
        if path is not None:
            check(path, picture=path is png)
            style()
    model, task = opened(run)
    inputs, symbols, unknown = read_prompt(task, prompt, most=_STEPS)
    if unknown:
        print(f"unknown to the model: {' '.join(map(repr, unknown))}", file=sys.stderr)
    if directions is None and model.head.out_features > _EXACT:
        directions = _DIRECTIONS
    with Waiting("measuring") as progress:
        found = measure(model, inputs, directions=directions, symbols=symbols, progress=progress)
    print(found.text(width=shutil.get_terminal_size().columns))
    if directions is not None:
        print(f"estimated from {directions} random directions of the output")
    if png is not None:
        found.plot(str(png))
    if html is not None:
        found.html(str(html))
    if written := [str(path) for path in (png, html) if path is not None]:
        print(f"Written: {', '.join(written)}")
