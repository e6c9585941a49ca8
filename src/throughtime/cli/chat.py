"""`throughtime chat`."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from throughtime.cli.builder import Device, OwnTask, RunFolder
from throughtime.errors import InputError, ThroughtimeError

if TYPE_CHECKING:
    from throughtime.runtime.chat import Chat

_COMMANDS = "/reset, /save FILE, /load FILE, /quit"


def chat(
    run: RunFolder,
    say: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Say this and end; repeat for more turns."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T", help="Draw the reply; below 1: likelier words. Default: the best one found."
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Draw from the likeliest words that together have probability P."),
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Hypotheses of beam search; 1: greedy. Default: the run's."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of what is drawn. Default: another each time, named on stderr."),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0,
            max=1,
            help="Say that the answer is not known where it is less likely to be right than P.",
        ),
    ] = None,
    task: OwnTask = None,
    device: Device = "auto",
) -> None:
    """Talk with a trained model of dialogues; its state is kept from turn to turn.

    On a terminal each line is a turn. In a pipe each line that comes gives one line, written at once, so that a program can
    hold a dialogue. /reset forgets what was said; /save FILE writes the state and /load FILE goes on from it, for the same
    weights; /quit or Ctrl-D ends.

    Examples:
    throughtime chat runs/chat
    throughtime chat runs/chat --say "what is truncated BPTT?" --say "and in Python?"
    cat turns.txt | throughtime chat runs/chat --temperature 0.7 --seed 1
    """
    from throughtime.cli.output import Stream
    from throughtime.runtime import load

    drawn = temperature is not None or top_p is not None
    if seed is not None and not drawn:
        raise InputError(
            "--seed is for replies that are drawn: give --temperature or --top-p too, or leave it out"
        )
    dialogue = load(run, task=task, device=device).chat()
    number = secrets.randbits(32) if drawn and seed is None else seed

    def reply(text: str) -> str:
        first = not dialogue.turns
        found = dialogue.say(
            text, temperature=temperature, top_p=top_p, beam=beam, seed=number, min_confidence=min_confidence
        )
        if first and number != seed:
            print(f"throughtime: seed {number}", file=sys.stderr)
        return found

    if say:
        with Stream() as stream:
            for text in say:
                stream.write(f"{reply(text)}\n")
        return
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):  # lines can be edited and recalled where it is there
            import readline  # noqa: F401
        print(f"throughtime: {_COMMANDS}", file=sys.stderr)
    with Stream() as stream:
        try:
            for line in _typed() if terminal else sys.stdin:
                if line.strip() == "/quit":
                    return
                answer = _answer(dialogue, line.strip(), reply)
                if answer or not terminal:
                    stream.write(f"{answer}\n")
        except KeyboardInterrupt:
            if not terminal:
                raise
            print(file=sys.stderr)
            raise typer.Exit(130) from None


def _typed() -> Iterator[str]:
    """Lines of a terminal, until Ctrl-D."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def _answer(dialogue: Chat, line: str, reply: Callable[[str], str]) -> str:
    """One line for one line: a reply, what a command did, or why it did not; an empty line for an empty one."""
    command, _, name = line.partition(" ")
    try:
        if not line:
            return ""
        if not command.startswith("/"):
            return reply(line)
        if command == "/reset":
            dialogue.reset()
            return "(reset)"
        if command in ("/save", "/load") and name.strip():
            (dialogue.save if command == "/save" else dialogue.load)(name.strip())
            return f"({command[1:]}{'d' if command == '/save' else 'ed'} {name.strip()}: {len(dialogue.turns)} turns)"
        return f"(unknown command {line!r}: {_COMMANDS})"
    except ThroughtimeError as error:
        return f"({' '.join(str(error).split())})"
