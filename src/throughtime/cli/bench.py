"""`throughtime bench`, `backends` and `version`: speed, backends and versions on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

# Large and small, one row and many; about a minute in all.
SHAPES = ["35,32,256,256", "100,1,64,64", "64,32,512,512"]


def bench(
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T,B,D,H", help=f"Steps, batch, features, hidden. Default: {'; '.join(SHAPES)}."
        ),
    ] = None,
    cell: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="RNN, GRU or LSTM. Default: all three.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=0, help="Time for each line of the table.")
    ] = 2.0,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Threads. Default: torch's choice.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare the speed of the layers with torch.nn's on this machine, in about a minute.

    Both are first compared with torch.nn in float64, outputs and all gradients, then timed in turn in
    this process. Shown are medians and quartiles; "~" marks a time that other work on the machine disturbed.

    Examples:
    throughtime bench
    throughtime bench --cell LSTM --shape 100,16,40,256
    """
    import torch

    from throughtime.bench import CELLS, compare, describe, gemm_peak
    from throughtime.bench.machine import sentence
    from throughtime.bench.recurrences import parse_shape
    from throughtime.bench.table import HEAD, geometric_mean, plain, row
    from throughtime.errors import one_of
    from throughtime.files import json_text

    shapes = [parse_shape(text) for text in shape or SHAPES]
    cells = [one_of("cell", name, CELLS) for name in cell or CELLS]
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        machine = describe()
        peak = gemm_peak(seconds=seconds)
        if not as_json:
            print(f"{sentence(machine)}; GEMM peak {peak / 1e9:.0f} GFLOP/s\n", flush=True)
        results = [
            compare(name, each, train=train, seconds=seconds, peak=peak)
            for name in cells
            for each in shapes
            for train in (True, False)
        ]
    finally:
        torch.set_num_threads(before)
    if as_json:
        print(json_text({"machine": machine, "gemm_gflops": peak / 1e9, "results": results}))
        return
    print(plain(HEAD, [row(result) for result in results]))
    print(
        f"\nGeometric mean of torch.nn / ours: {geometric_mean([result['ratio'] for result in results]):.2f}"
    )


def backends() -> None:
    """Print the backends that run recurrences on this machine, and why the others do not."""
    from throughtime.kernels import dispatch

    print(dispatch.backends())


def version() -> None:
    """Print the versions of throughtime and of the packages that it uses."""
    import platform
    from importlib import metadata

    from throughtime import __version__

    print(f"throughtime {__version__}")
    for package in ("torch", "numpy", "accelerate", "safetensors", "tokenizers"):
        print(f"{package} {metadata.version(package)}")
    print(f"python {platform.python_version()} on {platform.platform()}")
