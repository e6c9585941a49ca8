"""How every command ends: a failure becomes one line on stderr and an exit status."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import TextIO

from throughtime.errors import ThroughtimeError, nearest

# torch has one type for most of its errors. The calculation is that of a tensor's bytes, more than can be counted.
_OUT_OF_MEMORY = (
    *(
        "allocate memory",
        "not enough memory",
        "out of memory",
        "memory allocation",
        "bad_alloc",
        "unable to mmap",
    ),
    *("calculation overflowed", "ALLOC_FAILED", "Invalid buffer size", "multiplication overflow"),
)
_TOO_LARGE = (
    "Overflow when unpacking",
    "int too big",
    "int too large",
    "too large to convert",
    "without overflow",
)
_LARGEST = 2**63 - 1
OK, INTERNAL, USER, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141  # the last two: 128 + the signal's number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status.

    0: done. 1: a defect of throughtime. 2: something that the user can correct. 130: stopped by Ctrl-C. 141: the reader
    of the output closed the pipe, about which nothing is printed. 128 + N: a training that signal N stopped, saved.
    With THROUGHTIME_DEBUG=1 in the environment the stack trace comes before the line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _limit_spinning()
    _prepare_streams()
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _discard(sys.stdout)
        return BROKEN_PIPE
    except (Exception, KeyboardInterrupt) as error:
        try:
            status, message = _explain(error, arguments)
        except Exception as second:  # also an explanation may not end in a stack trace
            status, message = (
                INTERNAL,
                f"internal error: {type(error).__name__}, then {type(second).__name__}: {second}",
            )
        try:
            if os.environ.get("THROUGHTIME_DEBUG", "0") != "0":
                traceback.print_exception(error)
            print(f"throughtime: {' '.join(message.split())}", file=sys.stderr, flush=True)
        except OSError:
            _discard(sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _discard(sys.stdout)
        return status


def _limit_spinning() -> None:
    """Let torch's threads sleep sooner when they have nothing to do, before torch is imported.

    GNU OpenMP, which torch's wheels for Linux bring, lets a thread spin for 300,000 rounds, several milliseconds, after its
    work. Where another process needs the core, each of these waits costs a time slice. A hundredth of the rounds is enough
    between the operations of a training step: docs/performance.md has the figures.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "3000"


def _prepare_streams() -> None:
    """Have streams that can be written to, whatever the caller closed and whatever characters they know.

    What the caller closed becomes /dev/null: otherwise the next file to be opened would take the number of stdout, and
    what a C library prints would go into that file.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass  # the system gives the lowest free number
        os.close(null)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115  lasts as long as the process
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # a "?" for a character that the encoding lacks


def _discard(stream: TextIO) -> None:
    """Send what is still to be written to /dev/null: Python flushes once more as it exits, which must not fail."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


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
        from throughtime.cli.option_names import with_option_names

        return int(getattr(error, "status", USER)), with_option_names(str(error), argv, command())
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "stopped"
    if hasattr(error, "format_message"):
        return USER, _usage(error, argv)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return USER, f"cannot write: {error.strerror}; free some space, then run the command again"
    if isinstance(error, OSError) and error.errno in (errno.EBADF, errno.EIO) and error.filename is None:
        return USER, f"cannot write: {error.strerror}; see where the output goes, then run the command again"
    if _is_out_of_memory(error):
        return USER, f"out of memory: {_smaller(argv)}"
    if _is_too_large(error):
        return USER, _too_large(argv)
    if isinstance(error, RecursionError):
        return USER, (
            "a file or a value is nested too deeply to be read; with THROUGHTIME_DEBUG=1 in the environment "
            "the command shows where"
        )
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
    """The value of an option, to append."""
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
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _is_too_large(error: BaseException) -> bool:
    """Whether a whole number does not fit into what torch or the C library takes."""
    return isinstance(error, OverflowError) or (
        isinstance(error, (RuntimeError, TypeError, ValueError))
        and any(words in str(error) for words in _TOO_LARGE)
    )


def _too_large(argv: list[str]) -> str:
    """The line about the first number in `argv` that is too large, with its option."""
    option = ""
    for word in argv:
        name, equals, value = word.partition("=") if word.startswith("-") else (option, "", word)
        if re.search(r"\d{10,}", value or name):
            found = [digits for digits in re.findall(r"\d+", value) if int(digits[:4000]) > _LARGEST]
            if found:
                return f"{name or 'a number'} must be at most 2**63 - 1, got {value!r}"
        option = word if word.startswith("-") and not equals else ""
    return "a number is too large to compute with; make the numbers of the command or of its files smaller"
