"""`throughtime chat`: one line for one line in a pipe, commands, a terminal, refusals."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from throughtime.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two greetings after 40 steps."""
    folder = tmp_path_factory.mktemp("chat")
    rows = [
        f"{ask} {n}\t{reply}"
        for n in range(20)
        for ask, reply in (("hello", "Good day."), ("bye", "See you."))
    ]
    (folder / "d.tsv").write_text("\n".join(rows) + "\n")
    options = [
        "--hidden",
        "16",
        "--embedding",
        "8",
        "--steps",
        "80",
        "--lr",
        "0.03",
        "--batch",
        "16",
        "--no-baselines",
        "--evaluate-every",
        "100",
    ]
    data = ["--data", str(folder / "d.tsv"), "--max-length", "9"]
    assert main(["train", "chat", *data, *options, "--device", "cpu", "--out", str(folder / "run")]) == 0
    return folder / "run"


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_each_line_gives_one_line(
    command, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    piped(
        monkeypatch,
        f"hello 3\n\n/save {state}\nbye 4\n/reset\n/load {state}\n/what\n/load {tmp_path}/none\n/reset\nhello 5\n/quit\nbye 1\n",
    )
    ended = command("chat", run)
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert len(lines) == 10 and lines[0] == "Good day." and lines[1] == ""
    assert (
        lines[2] == f"(saved {state}: 2 turns)"
        and lines[4] == "(reset)"
        and lines[5] == f"(loaded {state}: 2 turns)"
    )
    assert lines[6].startswith("(unknown command '/what': /reset, ") and lines[7].startswith(
        "(no such file: "
    )
    assert lines[9] == "Good day." and state.exists()


def test_a_line_is_answered_before_the_next_one_comes(run: Path) -> None:
    program = [sys.executable, "-m", "throughtime", "chat", str(run), "--device", "cpu"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        for said, reply in (("hello 2", "Good day.\n"), ("bye 2", "See you.\n")):
            process.stdin.write(f"{said}\n")
            process.stdin.flush()
            assert process.stdout.readline() == reply
        process.stdin.close()
        assert process.wait() == 0


def test_ctrl_d_ends_cleanly(command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["hello 2", "", "/reset"])

    def read(prompt: str) -> str:
        assert prompt == "> "
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", read)
    ended = command("chat", run)
    assert ended.status == 0 and ended.out.splitlines() == ["Good day.", "(reset)", ""]
    assert ended.err == "throughtime: /reset, /save FILE, /load FILE, /quit\n"


def test_a_terminal_has_a_prompt_and_ctrl_c_ends_cleanly(run: Path) -> None:
    main_end, other = pty.openpty()
    program = [sys.executable, "-m", "throughtime", "chat", str(run), "--device", "cpu"]
    environment = os.environ | {"TERM": "dumb"}
    with subprocess.Popen(program, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True,
                          preexec_fn=_own_terminal) as process:  # fmt: skip
        os.close(other)
        shown = _until(main_end, b"> ")
        os.write(main_end, b"hello 2\n")
        shown += _until(main_end, b"\r\n> ")
        try:
            assert _interrupted(process, main_end) == 130
        finally:
            process.kill()
        shown += _until(main_end, b"never")
    os.close(main_end)
    assert (
        b"throughtime: /reset, /save FILE" in shown and b"Traceback" not in shown and b"stopped" not in shown
    )


def _interrupted(process: subprocess.Popen[bytes], terminal: int) -> int:
    """The exit status after ctrl-C; like a person, it is pressed again where one came just before the program waits for a key."""
    for _ in range(20):
        os.write(terminal, b"\x03")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(3)
    raise AssertionError("ctrl-C did not end it")


def _own_terminal() -> None:
    """Make the terminal the one that controls the process, so that it sends the signals of its keys."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that runs the tests in the background ignores it


def _until(number: int, end: bytes) -> bytes:
    """What a terminal shows up to `end`, or all of it."""
    shown, limit = b"", time.monotonic() + 60
    # readline switches modes of the terminal before and after its prompt.
    while (
        not re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).endswith(end)
        and (left := limit - time.monotonic()) > 0
    ):
        if not select.select([number], [], [], left)[0]:
            break
        try:
            part = os.read(number, 1000)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        shown += part
    return shown


def test_turns_of_the_command_line_share_a_state(command, run: Path) -> None:
    ended = command("chat", run, "--say", "hello 1", "--say", "bye 1")
    assert ended.status == 0 and len(ended.out.splitlines()) == 2
    one = command("chat", run, "--say", "hello 1", "--temperature", 2, "--seed", 5)
    assert (
        one.out == command("chat", run, "--say", "hello 1", "--temperature", 2, "--seed", 5).out
        and one.err == ""
    )
    drawn = command("chat", run, "--say", "hello 1", "--top-p", 0.5)
    assert drawn.status == 0 and drawn.err.startswith("throughtime: seed ")
    assert command("chat", run, "--say", "hello 1", "--min-confidence", 1).out == "I do not know.\n"
    assert command("chat", run, "--say", "hello 1", "--beam", 3).status == 0


def test_refusals(fails, run: Path, runs, tmp_path: Path) -> None:
    assert "chat is for runs of the task chat" in fails("chat", runs["classify"], "--say", "hi")
    assert "no such run" in fails("chat", tmp_path / "none")
    assert "--seed is for replies that are drawn" in fails("chat", run, "--say", "x", "--seed", 1)
    assert "drawn (temperature, top_p) or searched for (beam)" in fails(
        "chat", run, "--say", "x", "--beam", 2, "--temperature", 1
    )
    assert "got an empty text" in fails("chat", run, "--say", " ")
    assert "temperature must" in fails("chat", run, "--say", "x", "--temperature", "-1")
