"""Command-line options from settings classes: a field is an option. None of this imports torch."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from throughtime.errors import InputError, nearest
from throughtime.options import Field, Settings, checked, default_text, fields_of, parse

if TYPE_CHECKING:
    from throughtime.tasks.task import Task

Tables = dict[str, dict[str, Any]]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained run.")]
OwnTask = Annotated[
    str | None,
    typer.Option("--task", metavar="FILE.py:CLASS", help="The run's task, where it is a file of your own."),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1.")]
OtherValues = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another value for an option of the task, such as beam=10; repeat for more.",
    ),
]


class Command(TyperCommand):
    """A command whose flags do not look as if they took a value, nor its arguments as if one had to choose."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub(r"^\{(.*)\}(\.\.\.)?$", r"\1\2", piece) for piece in super().collect_usage_pieces(ctx)]

    def get_params(self, ctx: Any) -> list[Any]:
        return bare_flags(super().get_params(ctx))


def bare_flags(params: list[Any]) -> list[Any]:
    """The same, each flag without the "<bool>" after its name in the help text."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


def help_text(docstring: str | None, examples: Sequence[str] = ()) -> str:
    """A docstring as a help text: paragraphs wrapped to the terminal, "Examples:" and indented lines as they are."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    parts = []
    for paragraph in paragraphs:
        lines = paragraph.splitlines()
        if lines[0].startswith("Examples:"):
            parts.append(_examples(lines[1:]))
        elif lines[0].startswith("    "):
            parts.append("\n".join(f"[bold] [/bold]{_escaped(line)}" for line in lines))
        elif not lines[0].startswith(("Raises:", "Source:")):
            parts.append(_escaped(" ".join(line.strip() for line in lines)))
    if examples:
        parts.append(_examples(examples))
    return "\n\n".join(parts)


def option_parameters(
    kind: type[Settings], defaults: Mapping[str, Any], without: Sequence[str]
) -> list[inspect.Parameter]:
    """A parameter of a command function for each field of a settings class; values are taken as they are typed, as text."""
    return [
        _parameter(field._replace(default=defaults.get(field.name, field.default)))
        for field in fields_of(kind)
        if field.name not in without and field.option.help
    ]


def typed_values(kinds: Sequence[type[Settings]], typed: Mapping[str, Any]) -> Tables:
    """What was typed, by the section of its settings class, in the types of the fields; what was not typed is left out.

    Raises: InputError naming an option whose value is of another type.
    """
    tables: Tables = {}
    for kind in kinds:
        for field in fields_of(kind):
            value = typed.get(field.name)
            if value is None or value == []:
                continue
            if not _is_flag(field):
                name = option_name(field.name)
                value = checked(
                    field, parse(field, value if isinstance(value, list) else [value], name), name
                )
            tables.setdefault(kind.section, {})[field.name] = value
    return tables


def option_name(name: str) -> str:
    """--name-of-a-field; of a field whose name Python keeps for itself, such as from_, without the last _."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def make_command(
    name: str, function: Callable[..., None], parameters: Sequence[inspect.Parameter], help: str
) -> Any:
    """A command that calls `function` with keyword arguments for the parameters."""

    def run(**values: Any) -> None:
        function(**values)

    run.__name__ = name
    run.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(name, cls=Command, help=help)(run)
    return typer.main.get_command(single)


def over(upper: Tables, lower: Tables) -> Tables:
    """The settings of both; where they disagree, those of `upper`. What is no table in `lower` stays as it is."""
    merged = dict(lower)
    for name, table in upper.items():
        below = lower.get(name, {})
        merged[name] = {**below, **table} if isinstance(below, dict) else below
    return merged


def refuse_flag_values(words: Sequence[str], flags: Sequence[str]) -> None:
    """Refuse a "true" that stands where a file's name is expected: it was meant for a flag.

    Raises: InputError naming the flags.
    """
    names = [option_name(name) for name in flags]
    for word in words:
        if (
            word.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0")
            and names
            and not Path(word).exists()
        ):
            raise InputError(
                f"{' and '.join(names)} {'takes' if len(names) == 1 else 'take'} no value, got {word!r}: "
                "a flag that is set means yes, one that is left out no"
            )


def _parameter(field: Field) -> inspect.Parameter:
    rule = field.option
    shown = default_text(field)
    text = _escaped(rule.help) + (rf" [dim]\[default: {_escaped(shown)}][/dim]" if shown else "")
    details: dict[str, Any] = {"help": text, "rich_help_panel": rule.panel, "show_default": False}
    many, name = "tuple[str" in str(field.hint), option_name(field.name)
    annotation: Any
    if _is_flag(field):
        # What a task sets by default can be switched off.
        form = name if field.default is False else f"{name}/--no-{name.removeprefix('--')}"
        annotation = Annotated[bool | None, typer.Option(form, **details)]
    elif many:
        annotation = Annotated[list[str] | None, typer.Option(name, metavar=rule.metavar, **details)]
    else:
        annotation = Annotated[str | None, typer.Option(name, metavar=rule.metavar, **details)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _is_flag(field: Field) -> bool:
    """Whether an option takes no value: yes or no, or neither where nothing is said."""
    return field.hint in (bool, bool | None)


def _escaped(text: str) -> str:
    """Square brackets are markup to the help text."""
    return text.replace("[", r"\[")


def _examples(commands: Sequence[str]) -> str:
    """Commands, set off; one that is too long for 80 columns on several lines, as a shell reads them."""
    lines = ["Examples:"]
    for line in commands:
        # An option and its value stay together.
        bound = line if len(line) <= 76 else re.sub(r"(--\S+) (?!-)", "\\1\0", line)
        parts = [bound] if bound == line else textwrap.wrap(bound, 72, break_on_hyphens=False)
        # The markup keeps the indentation, which the help text's own layout would take away.
        shown = ["  " + parts[0], *("    " + part for part in parts[1:])]
        ends = [" \\"] * (len(parts) - 1) + [""]
        lines += [
            f"[bold]{_escaped(part)}[/bold]{end}".replace("\0", " ")
            for part, end in zip(shown, ends, strict=True)
        ]
    return "\n".join(lines)


def with_options(task: Task, typed: Sequence[str]) -> Task:
    """The task with other values of its `predict_options`, typed as NAME=VALUE.

    Raises: InputError for another name, or a value that does not fit.
    """
    values: dict[str, Any] = {}
    for each in typed:
        name, equals, text = each.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in task.predict_options:
            known = ", ".join(task.predict_options)
            can = f"{known} of {task.name} can be set" if known else f"a run of {task.name} has none to set"
            raise InputError(
                f"--set must be NAME=VALUE: {can}, got {each!r}.{nearest(name, task.predict_options)}"
            )
        field = next(field for field in fields_of(type(task)) if field.name == name)
        values[name] = checked(field, parse(field, [text.strip()], name), name)
    return replace(task, **values)
