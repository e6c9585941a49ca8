"""A library's message about an argument, as one about the option that was typed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_VALUE = r"[\w.+-]*\w(?::[\w./+-]*\w)?"


def as_typed(message: str, argv: Sequence[str], command: Any) -> str:
    """The message with the names of options in the place of arguments' names.

    At its start, where it says what is wrong: "top_p must lie ..." becomes "--top-p must lie ...", if that option is in `argv`.
    Elsewhere, where it says what to write: "or validation = 0" becomes "or --validation 0", of any option that the command has.
    What came from a --config file or from Python keeps its name.
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

    def advised(found: re.Match[str]) -> str:
        name = options.get(found[1])
        return found[0] if name is None or name in flags else f"{name} {found[2]}"

    return re.sub(rf"(?<![\w-])(\w+) = (?!its default)({_VALUE})", advised, message)


def _options(argv: Sequence[str], command: Any) -> tuple[dict[str, str], set[str]]:
    """The options of the command that `argv` calls, by the name of their argument, and those that take no value."""
    for word in argv:
        if word in getattr(command, "commands", {}):
            command = command.commands[word]
        elif not word.startswith("-"):
            break
    named = [param for param in command.params if param.param_type_name == "option"]
    options = {param.name: max(param.opts, key=len) for param in named}
    # What can be given several times is one value of several: "lengths must be ...".
    options |= {f"{param.name}s": options[param.name] for param in named if getattr(param, "multiple", False)}
    # The one option whose setting has another name, as it says the opposite.
    if "reset_before" in options:
        options["reset_after"] = options["reset_before"]
    return options, {options[param.name] for param in named if getattr(param, "is_flag", False)}
