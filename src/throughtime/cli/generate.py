"""`throughtime generate`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from throughtime.cli.builder import OwnTask, RunFolder
from throughtime.errors import InputError


def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Text to continue; it is printed first.")] = "",
    style: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a run of write: the style of the text. Without: the average of its styles.",
        ),
    ] = None,
    length: Annotated[
        int, typer.Option(metavar="N", min=0, help="Symbols to write: characters, words or byte pairs.")
    ] = 500,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T", help="Below 1: likelier symbols; above 1: more varied; 0: as --greedy. Default: 1."
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Draw from the K likeliest symbols only.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Draw from the likeliest symbols that together have probability P."),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always write the likeliest symbol.")] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The same seed and backend write the same text. Without: another each time, named on stderr.",
        ),
    ] = None,
    stop: Annotated[
        str | None, typer.Option(metavar="TEXT", help="End before this text would appear.")
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="float32, or quantized: bf16, int8. Faster from about 512 hidden units; "
            "'throughtime evaluate RUN --weights NAME' shows what it costs in quality.",
        ),
    ] = "float32",
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="native, many symbols in one call of C++, or reference, symbol by symbol through the layers. "
            "The same seed gives each another text. Default: native for models that it can run.",
        ),
    ] = None,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Let the model write its symbol for unknown ones.")
    ] = False,
    task: OwnTask = None,
) -> None:
    """Generate text with a trained model, symbol by symbol.

    Nothing but the text goes to stdout; on a terminal a line end follows it, in a file or a pipe
    nothing does. A line on stderr says which backend runs, why if it is the reference, and with which
    seed: "throughtime: native, seed 1234". The same options with --backend native --seed 1234 write the
    same text again. Symbols of the prompt that the model has never seen are named on stderr too, and
    read as "unknown". Without a prompt the model starts after a newline.

    Examples:
    throughtime generate runs/demo --prompt "The " --temperature 0.8
    throughtime generate runs/demo --length 2000 --top-p 0.9 --seed 1 > text.txt
    throughtime generate runs/demo --weights int8
    throughtime generate runs/lines --style docstring --prompt "Return "
    """
    chosen = [
        name
        for name, value in (("temperature", temperature), ("top_k", top_k), ("top_p", top_p))
        if value is not None
    ]
    if greedy and chosen:
        raise InputError(
            f"--greedy draws nothing, so --{chosen[0].replace('_', '-')} has no effect: leave one out"
        )

    from throughtime.cli.output import Stream
    from throughtime.runtime import load

    prompt = _as_utf8(prompt)
    temperature = 0.0 if greedy else 1.0 if temperature is None else temperature
    chunks = load(run, task=task).generate(
        prompt,
        style=style,
        length=length,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop,
        allow_unknown=allow_unknown,
        on_unknown=_report,
        weights=weights,
        backend=backend,
    )
    reason = "" if chunks.reason is None else f" ({chunks.reason})"
    sampled = "greedy" if temperature == 0 else f"seed {chunks.seed}"
    print(f"throughtime: {chunks.backend}{reason}, {sampled}", file=sys.stderr)
    with Stream() as stream:
        stream.write(prompt)
        for chunk in chunks:
            stream.write(chunk)


def _as_utf8(text: str) -> str:
    """Text that was typed as UTF-8 where the locale is another: Python passes its bytes through one by one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "replace")
    return text


def _report(symbols: list[str]) -> None:
    names = ", ".join(repr(symbol) for symbol in symbols[:10])
    more = f" and {len(symbols) - 10} more" if len(symbols) > 10 else ""
    print(
        f"throughtime: the prompt has symbols that the model has never seen: {names}{more}", file=sys.stderr
    )
