"""`throughtime generate`."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from typing import Annotated, Any

import typer

from throughtime.cli.builder import OwnTask, RunFolder
from throughtime.errors import InputError

MUSIC = "Music (runs of compose)"


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
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Symbols to write: characters, words or byte pairs; notes, or frames of polyphony. Default: 500; "
            "until a melody ends; 64 frames.",
        ),
    ] = None,
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
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Music: .mid, .abc, or .png, a piano roll; -: ABC to standard output.",
            rich_help_panel=MUSIC,
        ),
    ] = "-",
    genre: Annotated[
        str, typer.Option(metavar="NAME", help="Music: one of the training data's.", rich_help_panel=MUSIC)
    ] = "",
    start: Annotated[
        str,
        typer.Option(
            metavar="NOTE",
            help="Music: the first note, C4; of polyphony also several, C3,E4,G4.",
            rich_help_panel=MUSIC,
        ),
    ] = "",
    key: Annotated[
        str, typer.Option(metavar="KEY", help="Music: a melody's key, D, Em, Ddor.", rich_help_panel=MUSIC)
    ] = "",
    metre: Annotated[
        str,
        typer.Option(
            metavar="M/N", help="Music: 6/8. Default: the genre's usual one.", rich_help_panel=MUSIC
        ),
    ] = "",
    roll: Annotated[
        bool,
        typer.Option("--roll", help="Music: also draw the piano roll, on stderr.", rich_help_panel=MUSIC),
    ] = False,
    task: OwnTask = None,
) -> None:
    """Generate text, or write music, with a trained model, symbol by symbol.

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
    throughtime generate runs/melodies --genre jig --key D --out jig.mid
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

    trained = load(run, task=task)
    prompt = _as_utf8(prompt)
    temperature = 0.0 if greedy else 1.0 if temperature is None else temperature
    music = {"genre": genre, "start": start, "key": key, "metre": metre}
    if trained.task.writes_music:
        text = {
            "prompt": prompt, "top_k": top_k, "top_p": top_p, "stop": stop, "backend": backend, "allow_unknown": allow_unknown,
            "style": style, "weights": weights if weights != "float32" else None,
        }  # fmt: skip
        _refuse(text, "text", trained)
        _write_music(trained, out, roll, length=length, temperature=temperature, seed=seed, **music)
        return
    _refuse({**music, "out": out if out != "-" else "", "roll": roll}, "music", trained)
    chunks = trained.generate(
        prompt,
        style=style,
        length=500 if length is None else length,
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


def _refuse(options: dict[str, Any], what: str, trained: Any) -> None:
    """Raise InputError for an option of another kind of run."""
    if given := [name for name, value in options.items() if value]:
        name = given[0].replace("_", "-")
        raise InputError(
            f"--{name} is for runs that write {what}, and this is one of {trained.task.name}: leave it out"
        )


def _write_music(trained: Any, out: str, roll: bool, *, seed: int | None, **options: Any) -> None:
    """Write a piece of music, and on stderr what it is and with which seed."""
    from throughtime.files import check_writable
    from throughtime.runtime.music import check_suffix, roll_text, save_music

    check_suffix(out)
    check_writable(out)
    seed = secrets.randbits(32) if seed is None else seed
    tune = trained.compose(seed=seed, **options)
    save_music(tune, out)
    sampled = "greedy" if options["temperature"] == 0 else f"seed {seed}"
    print(
        f"throughtime: {len(tune.notes)} notes, {float(tune.length * 4):g} quarter notes long, {sampled}",
        file=sys.stderr,
    )
    if roll:
        print(roll_text(tune, shutil.get_terminal_size().columns), end="", file=sys.stderr)


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
