"""`throughtime page`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli.builder import OwnTask, RunFolder
from throughtime.errors import InputError

_STEPS = 2000


def page(
    run: RunFolder,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What the model reads: a text, a recording, or a file as the run's task reads them. Default: the validation "
            "part of the run's own data.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="OUT", help="The page to write.")] = Path("page.html"),
    example: Annotated[int, typer.Option(metavar="N", min=1, help="Which of several examples, from 1.")] = 1,
    steps: Annotated[
        int, typer.Option(metavar="T", min=1, max=20_000, help="Steps that are read at most, the first.")
    ] = _STEPS,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    task: OwnTask = None,
) -> None:
    """Write a page that shows what a trained model does over a text, a recording or a series, step by step.

    One HTML file that needs neither a server nor a network: the steps colored by any unit, the hidden state and the gates over
    time, the distribution of the next symbol or label, what each prediction depends on, units sorted by what they go with, and
    places where the same units are on. To type other texts, to continue them and to edit units, the page needs the model:
    see 'throughtime serve'.

    Examples:
    throughtime page runs/book --data chapter.txt
    throughtime page runs/book --data chapter.txt --steps 500 --out chapter.html --open
    throughtime page runs/morse --data message.wav --out message.html
    throughtime page runs/frames --example 3
    """
    from throughtime.files import check_writable
    from throughtime.page.sources import of_file, of_run
    from throughtime.page.write import write_page
    from throughtime.runtime import load

    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out must be a page, a file named .html, got {out}")
    check_writable(out)
    trained = load(run, task=task)
    if data is None:
        reading, source = (
            of_run(trained, example=example, steps=steps),
            f"example {example} of the validation part",
        )
    else:
        reading, source = of_file(trained, data, example=example, steps=steps), data.name
    size = write_page(trained, reading, out, source=source)
    remark = f" ({reading.remark})" if reading.remark else ""
    print(f"{len(reading):,} steps of {source}{remark}. Written: {out}, {size / 2**20:.1f} MiB")
    if open_it:
        import webbrowser

        if not webbrowser.open(out.resolve().as_uri()):
            raise InputError(f"no browser was found to open {out}: open it yourself, and leave --open out")
