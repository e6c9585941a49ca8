"""The one place where a command ends: every failure becomes one line on stderr and an exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise

from throughtime.errors import ThroughtimeError, nearest

# torch has one type for most of its errors. The third: a tensor of more bytes than can be counted.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "calculation overflowed", "out of memory")
OK, INTERNAL, USER, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141  # the last two: 128 + the signal's number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status.

    0: done. 1: a defect of throughtime. 2: something that the user can put right. 130: stopped by Ctrl-C.
    141: the reader of the output went away, which is not worth a word.
    With THROUGHTIME_DEBUG=1 in the environment the stack trace comes before the line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Python flushes stdout once more as it exits; that must not fail aloud.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("THROUGHTIME_DEBUG", "0") != "0":
            traceback.print_exc()
        status, message = _explain(error, arguments)
        print(f"throughtime: {' '.join(message.split())}", file=sys.stderr)
        return status


def _run(argv: list[str]) -> int:
    import typer

    from throughtime.cli.app import command

    try:
        # Not the command's own main(): that one prints errors over several lines, and swallows Ctrl-C.
        with command().make_context("throughtime", argv or ["--help"]) as context:
            context.command.invoke(context)
    except typer.Exit as exit_:  # after --help, and where a command chooses its status
        return exit_.exit_code
    return OK


def _explain(error: BaseException, argv: list[str]) -> tuple[int, str]:
    """The exit status and the line for what went wrong."""
    if isinstance(error, ThroughtimeError):
        from throughtime.cli.app import command
        from throughtime.cli.named import as_typed

        return int(getattr(error, "status", USER)), as_typed(str(error), argv, command())
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "stopped"
    if hasattr(error, "format_message"):
        return USER, _usage(error, argv)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return USER, f"cannot write: {error.strerror}; free some space, then run the command again"
    if _is_out_of_memory(error):
        return USER, f"out of memory: {_smaller(argv)}"
    return INTERNAL, (
        f"internal error: {type(error).__name__}: {error}; "
        "run again with THROUGHTIME_DEBUG=1 in the environment, and report what it prints"
    )


def _usage(error: BaseException, argv: list[str]) -> str:
    """What is wrong with the arguments, and the option that was probably meant or where to look.

    Typer's exceptions have moved between packages; what they carry has not, so they are read by attribute.
    """
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        known = [name for p in context.command.params for name in p.opts] if context else []
        message = f"no such option: {option}.{nearest(option, known)}"
    else:
        message = str(error.format_message())  # type: ignore[attr-defined]
        # "Invalid value for '--lr': Input should be a valid number, unable to parse string as a number"
        wrong = re.fullmatch(r"Invalid value for '(\S+)'.*: Input should be ([^,]*).*", message, re.DOTALL)
        if wrong:
            message = f"{wrong[1]} must be {wrong[2]}{_came(wrong[1], argv)}"
        message = message[:1].lower() + message[1:]
    if context is None or "Did you mean" in message:
        return message
    return f"{message.rstrip('.')}; see '{context.command_path} --help'"


def _came(option: str, argv: list[str]) -> str:
    """The value that an option was given, to append."""
    values = [value for name, value in pairwise(argv) if name == option]
    values += [word.partition("=")[2] for word in argv if word.startswith(option + "=")]
    return f", got {values[-1]!r}" if values else ""


def _smaller(argv: list[str]) -> str:
    """What to make smaller, of what the command has."""
    command = next((word for word in argv if not word.startswith("-")), "")
    if command == "train":
        return "make --batch or --window smaller, or the model (--hidden, --layers, --vocab-size)"
    if command == "evaluate":
        return "make --batch or --window smaller"
    if command == "bench":
        return "make --shape smaller"
    return "close other programs, or take a smaller model"


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
    )
