"""The commands and their names. None of this imports torch; a command does, once it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from throughtime.cli import (
    bench,
    chat,
    compare,
    demo,
    evaluate,
    flow,
    generate,
    help,
    page,
    predict,
    runs,
    search,
    serve,
    tasks,
)
from throughtime.cli.builder import Command, bare_flags, help_text
from throughtime.cli.train import TrainGroup

_ORDER = (
    "demo",
    "help",
    "tasks",
    "train",
    "evaluate",
    "predict",
    "search",
    "chat",
    "generate",
    "serve",
    "runs",
    "flow",
    "influence",
    "page",
    "compare",
    "bench",
    "backends",
)


class _InOrder(TyperGroup):
    """Lists the commands in the order in which one meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))

    def get_params(self, ctx: Any) -> list[Any]:
        return bare_flags(super().get_params(ctx))


def _version(asked: bool) -> None:
    """Print one line and end; 'throughtime version' has more."""
    if asked:
        from throughtime import __version__

        print(f"throughtime {__version__}")
        raise typer.Exit


def _add(group: typer.Typer, name: str, function: Callable[..., None]) -> None:
    """Make a function a command; its docstring is the help text."""
    # Its own default map: the group's has an entry "help", which click would take for that of the command help.
    settings = {"default_map": {"help": False}}
    group.command(name, cls=Command, help=help_text(function.__doc__), context_settings=settings)(function)


app = typer.Typer(
    cls=_InOrder,
    name="throughtime",
    epilog="Start with: throughtime demo",
    add_completion=False,
    rich_markup_mode="rich",
    # The default map is for speed: it spares typer the import of pydantic, to learn that no --help is none.
    context_settings={"help_option_names": ["-h", "--help"], "default_map": {"help": False}},
)
train = typer.Typer(
    cls=TrainGroup,
    help="Train a model; one command for each task, or for a task of your own: train path/to/file.py:MyTask.",
    rich_markup_mode="rich",
    context_settings={"default_map": {"help": False}},
)
comparing = typer.Typer(
    cls=_InOrder,
    help="Compare ways to learn through time.",
    rich_markup_mode="rich",
    context_settings={"default_map": {"help": False}},
)

app.add_typer(train, name="train")
app.add_typer(comparing, name="compare")
_add(comparing, "remedies", compare.compare_remedies)
_add(comparing, "bptt", compare.compare_bptt)
_add(app, "tasks", tasks.tasks)
_add(app, "evaluate", evaluate.evaluate)
_add(app, "predict", predict.predict)
_add(app, "search", search.search)
_add(app, "chat", chat.chat)
_add(app, "generate", generate.generate)
_add(app, "serve", serve.serve)
_add(app, "runs", runs.runs)
_add(app, "flow", flow.flow)
_add(app, "influence", flow.influence)
_add(app, "page", page.page)
_add(app, "demo", demo.demo)
_add(app, "help", help.help_)
_add(app, "backends", bench.backends)
_add(app, "bench", bench.bench)
_add(app, "version", bench.version)


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Recurrent networks: train, evaluate, predict, generate, and measure the gradient through time."""


def command() -> Any:
    """The whole command line as one command."""
    return typer.main.get_command(app)
