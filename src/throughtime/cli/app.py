"""The commands and their names. None of this imports torch; a command does, once it runs."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from throughtime.cli import (
    backends,
    bench,
    compare_bptt,
    compare_remedies,
    demo,
    evaluate,
    flow,
    generate,
    influence,
    train_memory,
    train_text,
    version,
)


class _Command(TyperCommand):
    """A command whose flags do not look as if they took a value, nor its arguments as if one had to choose."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub(r"^\{(.*)\}$", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def get_params(self, ctx: Any) -> list[Any]:
        return _bare_flags(super().get_params(ctx))


class _InOrder(TyperGroup):
    """Lists the commands in the order in which one meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = ("demo", "train", "evaluate", "generate", "flow", "influence", "compare", "bench", "backends")
        return sorted(self.commands, key=lambda name: order.index(name) if name in order else len(order))

    def get_params(self, ctx: Any) -> list[Any]:
        return _bare_flags(super().get_params(ctx))


def _bare_flags(params: list[Any]) -> list[Any]:
    """The same, each flag without the "<bool>" after its name in the help text."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


def _examples(text: str) -> str:
    """The same commands, set off; one that is too long for 80 columns on several lines, as a shell reads them."""
    title, *commands = text.splitlines()
    lines = [title]
    for line in commands:
        # An option and its value stay together.
        bound = line if len(line) <= 76 else re.sub(r"(--\S+) (?!-)", "\\1\0", line)
        parts = [bound] if bound == line else textwrap.wrap(bound, 72, break_on_hyphens=False)
        # The markup keeps the indentation, which the help text's own layout would take away.
        shown = ["  " + parts[0], *("    " + part for part in parts[1:])]
        ends = [" \\"] * (len(parts) - 1) + [""]
        lines += [
            f"[bold]{part}[/bold]{end}".replace("\0", " ") for part, end in zip(shown, ends, strict=True)
        ]
    return "\n".join(lines)


def _version(asked: bool) -> None:
    """Print one line and end; 'throughtime version' has more."""
    if asked:
        from throughtime import __version__

        print(f"throughtime {__version__}")
        raise typer.Exit


def _add(group: typer.Typer, name: str, function: Callable[..., None]) -> None:
    """Make a function a command; its docstring is the help text, wrapped to the terminal but for the examples."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    flowing = [
        _examples(text) if text.startswith("Examples:") else " ".join(text.splitlines())
        for text in paragraphs
    ]
    group.command(name, cls=_Command, help="\n\n".join(flowing))(function)


app = typer.Typer(
    cls=_InOrder,
    name="throughtime",
    help="Recurrent networks: train them, watch the gradient travel through time, let them write.",
    epilog="Start with: throughtime demo",
    add_completion=False,
    rich_markup_mode="rich",
    # The default map is for speed: it spares typer the import of pydantic, to learn that no --help is none.
    context_settings={"help_option_names": ["-h", "--help"], "default_map": {"help": False}},
)
train = typer.Typer(
    cls=_InOrder,
    help="Train a model; one command for each task.",
    rich_markup_mode="rich",
    context_settings={"default_map": {"help": False}},
)
compare = typer.Typer(
    cls=_InOrder,
    help="Compare ways to learn through time.",
    rich_markup_mode="rich",
    context_settings={"default_map": {"help": False}},
)

app.add_typer(train, name="train")
app.add_typer(compare, name="compare")
_add(train, "text", train_text.train_text)
_add(train, "adding", train_memory.train_adding)
_add(train, "copy", train_memory.train_copy)
_add(train, "echo", train_memory.train_echo)
_add(compare, "remedies", compare_remedies.compare_remedies)
_add(compare, "bptt", compare_bptt.compare_bptt)
_add(app, "evaluate", evaluate.evaluate)
_add(app, "generate", generate.generate)
_add(app, "flow", flow.flow)
_add(app, "influence", influence.influence)
_add(app, "demo", demo.demo)
_add(app, "backends", backends.backends)
_add(app, "bench", bench.bench)
_add(app, "version", version.version)


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Recurrent networks: train them, watch the gradient travel through time, let them write."""


@train.callback()
def _train() -> None:
    """Train a model; one command for each task."""


@compare.callback()
def _compare() -> None:
    """Compare ways to learn through time."""


def command() -> Any:
    """The whole command line as one command."""
    return typer.main.get_command(app)
