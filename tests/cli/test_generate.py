"""`throughtime generate`: text on stdout, remarks on stderr."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from throughtime.kernels.native.generation.generator import unavailable

Fails = Callable[..., str]
RUNS_ON = "native" if unavailable() is None else f"reference ({unavailable()})"
native = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")


def test_nothing_but_the_text_goes_to_stdout(command, trained: Path) -> None:
    ended = command("generate", trained, "--prompt", "the q", "--length", 30, "--seed", 1)
    assert ended.status == 0
    assert ended.err == f"throughtime: {RUNS_ON}, seed 1\n"
    assert ended.out.startswith("the q")
    assert len(ended.out) == 35
    assert ended == command("generate", trained, "--prompt", "the q", "--length", 30, "--seed", 1)
    assert ended.out != command("generate", trained, "--prompt", "the q", "--length", 30, "--seed", 2).out


def test_greedy_is_the_temperature_zero(command, fails: Fails, trained: Path) -> None:
    greedy = command("generate", trained, "--prompt", "the", "--length", 20, "--greedy").out
    assert (
        greedy
        == command(
            "generate", trained, "--prompt", "the", "--length", 20, "--temperature", 0, "--seed", 5
        ).out
    )
    assert "--greedy draws nothing, so --top-k has no effect" in fails(
        "generate", trained, "--greedy", "--top-k", 3
    )


def test_unknown_symbols_are_reported_on_stderr(command, trained: Path) -> None:
    ended = command("generate", trained, "--prompt", "é the €é", "--length", 5, "--seed", 0)
    assert ended.status == 0
    assert ended.out.startswith("é the €é")
    report = "throughtime: the prompt has symbols that the model has never seen: 'é', '€'\n"
    assert ended.err == f"{report}throughtime: {RUNS_ON}, seed 0\n"
    many = "".join(chr(0x4E00 + i) for i in range(14))
    assert (
        command("generate", trained, "--prompt", many, "--length", 1)
        .err.splitlines()[0]
        .endswith(" and 4 more")
    )


def test_an_empty_prompt_starts_by_itself_and_stop_ends(command, trained: Path) -> None:
    assert len(command("generate", trained, "--length", 12, "--seed", 0).out) == 12
    whole = command("generate", trained, "--prompt", "the", "--length", 60, "--seed", 3).out
    stop = whole[20:22]
    cut = command("generate", trained, "--prompt", "the", "--length", 60, "--seed", 3, "--stop", stop).out
    assert cut == "the" + whole[3:].split(stop)[0]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--temperature", -1], "--temperature must be"),
        (["--top-k", 0], "--top-k must be at least 1"),
        (["--top-p", 1.5], "--top-p must lie above 0"),
        (["--length", "many"], "--length must be a valid integer, got 'many'"),
        (["--stop", ""], "--stop must be a string"),
    ],
)
def test_sampling_that_cannot_be_is_refused(
    fails: Fails, trained: Path, options: list[object], line: str
) -> None:
    assert line in fails("generate", trained, *options)


def test_a_pipe_gets_utf8_whatever_the_locale_and_may_close(executable: list[str], trained: Path) -> None:
    call = [*executable, "generate", str(trained), "--prompt", "é", "--length", "100000", "--seed", "0"]
    process = subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(2) == "é".encode()  # long before the end: it streams
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert len(process.stderr.read().splitlines()) == 2  # that é is unknown, and what runs
    process.stderr.close()


def test_what_is_said_on_stderr_writes_the_same_text_again(command, trained: Path) -> None:
    options = ["generate", trained, "--prompt", "the q", "--length", 30]
    for asked in ([], ["--backend", "reference"]):
        first = command(*options, *asked)
        backend, reason, seed = re.fullmatch(
            r"throughtime: (\w+)(?: \((.+)\))?, seed (\d+)\n", first.err
        ).groups()
        assert (backend, reason) == (("reference", "asked for by name") if asked else (backend, reason))
        again = command(*options, "--backend", backend, "--seed", seed)
        assert again.out == first.out
        assert again.out != command(*options, "--backend", backend, "--seed", int(seed) + 1).out
    assert first.out != command(*options).out  # without a seed, another text
    greedy = command(*options, "--greedy", "--backend", "reference")
    assert greedy.err == "throughtime: reference (asked for by name), greedy\n"


@native
def test_the_two_backends_are_told_apart(command, fails: Fails, trained: Path) -> None:
    options = ["generate", trained, "--prompt", "the q", "--length", 30, "--seed", 1]
    assert command(*options, "--backend", "native") == command(*options)
    assert command(*options, "--backend", "reference").out != command(*options).out
    assert "backend must be one of native, reference" in fails(*options, "--backend", "nativ")
    assert "leave one out" in fails(*options, "--backend", "reference", "--weights", "int8")


@native
def test_it_generates_with_quantized_weights(command, trained: Path) -> None:
    options = ["--prompt", "the quick", "--length", 40, "--seed", 1]
    texts = {
        weights: command("generate", trained, *options, "--weights", weights).out
        for weights in ("float32", "bf16", "int8")
    }
    assert all(text.startswith("the quick") and len(text) == 49 for text in texts.values())
    assert texts["float32"] == command("generate", trained, *options).out
    assert texts["int8"] == command("generate", trained, *options, "--weights", "int8").out


def test_a_temperature_of_one_is_the_default_and_greedy_takes_none(
    command, fails: Fails, trained: Path
) -> None:
    options = ["generate", trained, "--prompt", "the", "--length", 20, "--seed", 1]
    assert command(*options).out == command(*options, "--temperature", 1).out
    assert command(*options).out != command(*options, "--temperature", 0.2).out
    for value in (0.5, 1):
        assert "--greedy draws nothing, so --temperature has no effect" in fails(
            *options, "--greedy", "--temperature", value
        )


def test_runs_that_are_no_language_model_are_refused(fails: Fails, runs, tmp_path: Path) -> None:
    for task in ("adding", "copy", "echo", "classify"):
        said = (
            f"only models of the next symbol can generate, and {runs[task]} is a run of {task}: use predict"
        )
        assert fails("generate", runs[task]) == said
    assert "no such run" in fails("generate", tmp_path / "none")
