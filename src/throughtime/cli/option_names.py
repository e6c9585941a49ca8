"""Library messages name arguments; the command line names the options that were typed instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from throughtime.errors import ThroughtimeError

_VALUE = r"[\w.+-]*\w(?::[\w./+-]*\w)?"


def with_option_names(message: str, argv: Sequence[str], command: Any) -> str:
    """The message with options in the place of arguments.

    At its start, where it says what is wrong: "top_p must lie ..." becomes "--top-p must lie ...", if that option is in
    `argv`. Elsewhere, where it says what to write: "or validation = 0" becomes "or --validation 0", of any option that
    the command has. A value from a --config file or from Python keeps its name.
    Args: command, the whole command line: a click command or group; subcommands may be made on demand.
    """
    options, flags = _options(argv, command)
    typed = {word.partition("=")[0] for word in argv if word.startswith("--")}
    start = re.match(r"(\w+)(?= (?:must|needs)\b| = )", message)
    option = options.get(start[1]) if start else None
    if start and option in typed:
        # "layer_norm = True is a setting of ...": a flag has no value to show.
        rest = message[start.end() :]
        if option in flags:
            rest = re.sub(r"^ = \w+", "", rest)
        rest = re.sub(rf"^ = ({_VALUE})", r" \1", rest)
        rest = re.sub(
            r"\bgot [\[(]([\d, .-]*?),?[\])]", lambda found: f"got {found[1].replace(' ', '')}", rest
        )
        message = f"{option}{rest}"

    def as_option(found: re.Match[str]) -> str:
        name = options.get(found[1])
        return found[0] if name is None or name in flags else f"{name} {found[2]}"

    return re.sub(rf"(?<![\w-])(\w+) = (?!its default)({_VALUE})", as_option, message)


def called(argv: Sequence[str], command: Any) -> tuple[Any, Any]:
    """The click command that `argv` calls, and a context for it."""
    context = command.context_class(command, info_name=command.name, resilient_parsing=True)
    for word in argv:
        try:
            below = command.get_command(context, word) if hasattr(command, "get_command") else None
        except ThroughtimeError:  # a task that is not known, or whose file cannot be read
            break
        if below is not None:
            command = below
            context = command.context_class(command, info_name=word, parent=context, resilient_parsing=True)
        elif not word.startswith("-"):
            break
    return command, context


def _options(argv: Sequence[str], command: Any) -> tuple[dict[str, str], set[str]]:
    """The options of the command that `argv` calls, by the name of their argument, and those that take no value."""
    command, context = called(argv, command)
    params = [
        param for param in command.get_params(context) if param.param_type_name == "option" and param.opts
    ]
    options = {param.name: max(param.opts, key=len) for param in params}
    # An option that may be repeated is one argument with several values: "lengths must be ...".
    options |= {
        f"{param.name}s": options[param.name] for param in params if getattr(param, "multiple", False)
    }
    return options, {options[param.name] for param in params if getattr(param, "is_flag", False)}
