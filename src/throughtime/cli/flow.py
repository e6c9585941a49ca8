"""`throughtime flow`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from throughtime.progress import ProgressBar


def flow(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained run.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="UTF-8 text. Default: the validation part of the run's own text."),
    ] = None,
    lags: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Steps to look back. Default: three quarters of those that are read, at most 127.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="T", min=2, help="Steps of text to read. Default: 128, or twice --lags if that is more."
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pieces of the text, or sequences, to measure on.")
    ] = 8,
    products: Annotated[
        bool,
        typer.Option(
            "--products/--no-products",
            help="Also the Jacobian products and Lyapunov exponents: most of the time. --no-products leaves them out.",
        ),
    ] = True,
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a report with all pictures, one file.")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write all pictures as one; the suffix may be .svg or .pdf too."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="OUT", help="Write all numbers.")] = None,
) -> None:
    """Show how the gradient of a trained model travels back through time.

    Reads some text (or sequences of adding, copy, echo), sends single losses back, and prints how fast the
    gradient dies or grows on its way, why, and what changes it. Nothing is trained.

    Cost: about half a minute of one core for one LSTM of 512 units, most of it for the Jacobian products;
    --no-products takes a quarter of that. It grows with the layers and with the square of their units.

    Examples:
    throughtime flow runs/demo
    throughtime flow runs/demo --data book.txt --lags 100
    throughtime flow runs/demo --html flow.html --png flow.png
    """
    from throughtime.cli.chart import lag_chart
    from throughtime.cli.measured import sample
    from throughtime.files import write_whole
    from throughtime.flow import measure
    from throughtime.flow.drawing import check, style

    # Before the work, not after it.
    for path in (html, png, json):
        if path is not None:
            check(path, picture=path is png)
    if html is not None or png is not None:
        style()
    chosen = sample(run, data=data, steps=steps, lags=lags, batch=batch)
    with ProgressBar("measuring") as progress:
        found = measure(
            chosen.model,
            (chosen.inputs, chosen.targets),
            loss=chosen.loss,
            lags=lags,
            ends=chosen.ends,
            examples=batch,
            products=products,
            symbols=chosen.symbols,
            progress=progress,
        )
    print(f"{found}\n")
    if chosen.task is not None:
        from throughtime.cli.memory_report import levels

        print(f"What losses mean here: {levels(chosen.task)}.\n")
    for layer in found.layers.values():
        print(f"{layer.name}, h: {lag_chart(layer.lag_h)}\n")
    print(found.explain())
    if html is not None:
        found.html(str(html))
    if png is not None:
        found.plot(str(png))
    if json is not None:
        write_whole(json, found.to_json().encode())
    written = [str(path) for path in (html, png, json) if path is not None]
    if written:
        print(f"\nWritten: {', '.join(written)}")
