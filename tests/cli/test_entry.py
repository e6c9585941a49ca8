"""How commands end: one line on stderr, a status, and never a stack trace that was not asked for."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from throughtime.cli import app as app_module
from throughtime.cli import entry
from throughtime.cli.app import app
from throughtime.cli.app import command as whole_command
from throughtime.cli.option_names import with_option_names
from throughtime.errors import InputError

Fails = Callable[..., str]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generate"], "missing argument 'RUN'; see 'throughtime generate --help'"),
        (["generate", "r", "--lenght", "3"], "no such option: --lenght. Did you mean '--length'?"),
        (["train", "text", "--hiden=3"], "no such option: --hiden. Did you mean '--hidden'?"),
        (["train", "text", "--zzzzzz"], "no such option: --zzzzzz; see 'throughtime train text --help'"),
        (["generate", "r", "--length"], "option '--length' requires an argument"),
        (["genrate"], "no such command 'genrate'. Did you mean 'generate'?"),
        (
            ["train", "txt"],
            "task must be one of text, classify, intent, tag, fill, search, recommend, frames, forecast, "
            "transcribe, adding, copy, echo, "
            "or a file with a class, path/to/file.py:MyTask, got "
            "'txt'. Did you mean 'text'?",
        ),
        (["train"], "missing command; see 'throughtime train --help'"),
        (["train", "text", "--lr", "fast"], "--lr must be a number, got 'fast'"),
        (["train", "text", "--layers=two"], "--layers must be a whole number, got 'two'"),
        (["generate", "r", "--length", "-1"], "--length must be greater than or equal to 0, got '-1'; see"),
    ],
)
def test_a_wrong_call_is_one_line_that_helps(fails: Fails, arguments: list[str], line: str) -> None:
    assert fails(*arguments).startswith(line)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `throughtime version` raise."""

    def install(error: BaseException) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setattr(app_module.bench, "version", fail)
        entry = next(each for each in app.registered_commands if each.name == "version")
        monkeypatch.setattr(entry, "callback", fail)

    return install


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("one\n  two"), 2, "throughtime: one two\n"),
        (KeyboardInterrupt(), 130, "throughtime: stopped\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "throughtime: cannot write: No space left on device;",
        ),
        (
            MemoryError("large"),
            2,
            "throughtime: out of memory: close other programs, or take a smaller model\n",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            2,
            "throughtime: out of memory: close other programs",
        ),
        (
            TypeError(
                "empty(): argument 'size' failed to unpack the object: Overflow when unpacking long long"
            ),
            2,
            "throughtime: a number is too large to compute with; make the numbers",
        ),
        (OverflowError("Python int too large to convert to C long"), 2, "throughtime: a number is too large"),
        (
            RuntimeError("value cannot be converted to type int64_t without overflow"),
            2,
            "throughtime: a number is",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), 2, "throughtime: out of memory: "),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), 2, "throughtime: out of memory: "),
        (
            RuntimeError("unable to mmap 8 bytes from file <x>: Cannot allocate"),
            2,
            "throughtime: out of memory: ",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "throughtime: out of memory: "),
        (OSError(errno.EBADF, "Bad file descriptor"), 2, "throughtime: cannot write: Bad file descriptor; "),
        (
            RecursionError("maximum recursion depth exceeded"),
            2,
            "throughtime: a file or a value is nested too deeply",
        ),
        (
            ZeroDivisionError("by zero"),
            1,
            "throughtime: internal error: ZeroDivisionError: by zero; run again with",
        ),
    ],
)
def test_every_failure_is_one_line(command, raising, error: BaseException, status: int, line: str) -> None:
    raising(error)
    ended = command("version")
    assert ended.status == status
    assert ended.err.startswith(line)
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err


def test_a_stack_trace_is_there_for_the_asking(command, raising, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(ZeroDivisionError("by zero"))
    monkeypatch.setenv("THROUGHTIME_DEBUG", "1")
    ended = command("version")
    assert ended.status == 1
    assert "Traceback" in ended.err
    assert "ZeroDivisionError: by zero" in ended.err


def test_an_error_says_its_own_status(command, raising) -> None:
    error = InputError("saved")
    error.status = 143  # as a training that was stopped by SIGTERM
    raising(error)
    assert command("version").status == 143


def test_version_and_backends_print_their_answers(command) -> None:
    import throughtime

    ended = command("version")
    assert ended.out.startswith(f"throughtime {throughtime.__version__}\ntorch ")
    ended = command("backends")
    assert ended.status == 0
    assert ended.out.strip() == str(throughtime.backends()).strip()


def test_the_version_is_one_line(command) -> None:
    import throughtime

    ended = command("--version")
    assert (ended.status, ended.out, ended.err) == (0, f"throughtime {throughtime.__version__}\n", "")


@pytest.mark.parametrize(
    ("typed", "message", "line"),
    [
        ("--hidden 0", "hidden must be at least 1, got 0", "--hidden must be at least 1, got 0"),
        ("--rollback-lr=2", "rollback_lr must be above 0, got 2", "--rollback-lr must be above 0, got 2"),
        ("--config c.toml", "hidden must be at least 1, got 0", "hidden must be at least 1, got 0"),
        (
            "",
            "the validation part must be at least 2: or validation = 0",
            "the validation part must be at least 2: or --validation 0",
        ),
        ("", "cut it with bptt = truncated:N", "cut it with --bptt truncated:N"),
        (
            "--layer-norm",
            "layer_norm = True is a setting of rnn: leave it out",
            "--layer-norm is a setting of rnn: leave it out",
        ),
        (
            "--forget-bias 1",
            "forget_bias = 1.0 is a setting of lstm",
            "--forget-bias 1.0 is a setting of lstm",
        ),
        ("--normalize letters", "left with normalize = letters: give", "left with --normalize letters: give"),
        ("--hidden 0", "hidden must be at least 1, got (0, 4)", "--hidden must be at least 1, got 0,4"),
        (
            "--lr 1",
            "--lr contradicts, started with lr = 0.02: x",
            "--lr contradicts, started with --lr 0.02: x",
        ),
        ("--window 1", "started with window = its default: x", "started with window = its default: x"),
    ],
)
def test_an_argument_has_the_name_that_wwith_option_names(typed: str, message: str, line: str) -> None:
    argv = ["train", "text", "book.txt", *typed.split()]
    assert with_option_names(message, argv, whole_command()) == line


class Lazy(type(whole_command())):  # type: ignore[misc]
    """A group that makes its commands when they are asked for."""

    def get_command(self, ctx: Any, name: str) -> Any:
        return whole_command() if name == "later" else None


def test_options_of_a_command_that_is_made_on_demand() -> None:
    group = Lazy(name="throughtime")
    assert not group.commands
    argv = ["later", "train", "text", "--hidden", "0"]
    assert with_option_names("hidden must be 1", argv, group) == "--hidden must be 1"
    assert with_option_names("hidden must be 1", ["none", "--hidden", "0"], group) == "hidden must be 1"


HUGE = "99999999999999999999"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train", "text", "--hidden", HUGE], f"--hidden must be at most 2**63 - 1, got '{HUGE}'"),
        (
            ["train", "text", f"--hidden={HUGE}", "--lr", "1"],
            f"--hidden must be at most 2**63 - 1, got '{HUGE}'",
        ),
        (
            ["train", "text", "--bptt", f"truncated:{HUGE}"],
            f"--bptt must be at most 2**63 - 1, got 'truncated:{HUGE}'",
        ),
        (["train", "text", "--seed", "9223372036854775807"], "a number is too large to compute with"),
        (["train", "text", "--data", "9" * 5000], "--data must be at most"),
    ],
)
def test_the_number_that_is_too_large_is_named(arguments: list[str], line: str) -> None:
    status, message = entry._explain(OverflowError("int too big to convert"), arguments)
    assert status == 2 and message.startswith(line)


def test_a_layer_of_too_many_units_is_one_line(fails: Fails, text: Path, tmp_path: Path) -> None:
    line = fails("train", "text", "--data", text, "--out", tmp_path / "run", "--hidden", HUGE)
    assert line.startswith("--hidden must be") and line.endswith(f"got {HUGE}")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "</dev/null >&-"])
def test_closed_streams_are_no_error(executable: list[str], closed: str) -> None:
    line = f"{shlex.join([*executable, 'version'])} {closed}; echo $? >&3"
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec 3>&1; {line}"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0"
    assert ("throughtime" in done.stdout) == (closed == "2>&-")


def test_the_next_file_does_not_become_standard_output(executable: list[str], tmp_path: Path) -> None:
    """What C code prints would land in it."""
    code = (
        "import os, sys\n"
        "from throughtime.cli import main\n"
        "main(['--version'])\n"
        "number = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
        "os.write(1, b'from C')\n"
        "assert number > 2"
    )
    command = shlex.join([executable[0], "-c", code, str(tmp_path / "file")])
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} <&- >&-"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_bytes() == b""


def test_an_encoding_without_the_characters_is_no_error(executable: list[str]) -> None:
    code = (
        "from throughtime.cli import entry\n"
        "entry._run = lambda argv: print('h\u00e9llo \u2588') or 0\n"
        "raise SystemExit(entry.main([]))"
    )
    done = subprocess.run(
        [executable[0], "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "h?llo ?\n", "")


def test_an_error_into_a_closed_pipe_keeps_its_status(executable: list[str]) -> None:
    line = f"({shlex.join([*executable, 'genrate'])} 2>&1; echo $? >&3) | true"
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec 3>&1; {line}"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_output_that_was_not_read_is_no_second_error(executable: list[str]) -> None:
    """As of a training whose reader went away: it saves, and says so with status 141."""
    code = (
        "import sys, time; from throughtime.cli import entry; from throughtime.training.interrupt import Interrupted\n"
        "def run(argv):\n"
        "    time.sleep(0.5)\n"
        "    sys.stdout = open(1, 'w', closefd=False)\n"  # buffered, also under PYTHONUNBUFFERED
        "    try: print('x' * 100, flush=True)\n"
        "    except BrokenPipeError:\n"
        "        raise Interrupted('saved', 13)\n"
        "entry._run = run\n"
        "raise SystemExit(entry.main([]))"
    )
    line = f"({shlex.join([executable[0], '-c', code])}; echo $? >&3) | true"
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec 3>&1; {line}"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("141\n", "throughtime: saved\n")


def test_a_reader_that_goes_away_is_not_worth_a_word(executable: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*executable, "version"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_a_full_disk_under_stdout_is_one_line(executable: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*executable, "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("throughtime: cannot write: No space left on device")
    assert done.stderr.count("\n") == 1
