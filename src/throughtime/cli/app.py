"""The commands and their names. None of this imports torch; a command does, once it runs."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from throughtime.cli import backends, bench, demo, evaluate, generate, train_text, version


class _InOrder(TyperGroup):
    """Lists the commands in the order in which one meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = ("demo", "train", "evaluate", "generate")
        return sorted(self.commands, key=lambda name: order.index(name) if name in order else len(order))


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
    help="Train a model; one command for each task.",
    rich_markup_mode="rich",
    context_settings={"default_map": {"help": False}},
)

app.add_typer(train, name="train")
train.command("text")(train_text.train_text)
app.command("evaluate")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("demo")(demo.demo)
app.command("backends")(backends.backends)
app.command("bench")(bench.bench)
app.command("version")(version.version)


@train.callback()
def _train() -> None:
    """Train a model; one command for each task."""


def command() -> Any:
    """The whole command line as one command."""
    return typer.main.get_command(app)
