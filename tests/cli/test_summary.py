"""What a training says at its end: a next command that works for this run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from throughtime.cli.summary import _quoted, prompt_for
from throughtime.models import ModelConfig
from throughtime.tasks import TextConfig, TextTask


def task(tmp_path: Path, text: str, **settings: object) -> TextTask:
    file = tmp_path / "text.txt"
    file.write_text(text)
    return TextTask.create(TextConfig(data=(str(file),), **settings), ModelConfig())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "settings", "prompt"),
    [
        ("The time traveller said the end. " * 9, {}, "The "),
        ("The time traveller said the end. " * 9, {"normalize": "lower"}, "the "),
        ("\nЕхал грека через реку, видит грека: в реке рак.\n" * 9, {}, "Ехал грека"),
        ("acgtacgtaccgttacagtagatagcca" * 9, {}, "acgtacgtaccgttac"),
        ("The time traveller said the end. " * 9, {"tokens": "bpe"}, "The "),
        (" \n \t\n" * 9, {}, ""),
    ],
)
def test_the_prompt_that_is_suggested_can_be_spelt(
    tmp_path: Path, text: str, settings: dict[str, object], prompt: str
) -> None:
    found = task(tmp_path, text, **settings)
    assert prompt_for(found) == prompt
    assert found.vocabulary.unknown_symbols(prompt) == []


def test_a_prompt_of_words_is_of_known_words(tmp_path: Path) -> None:
    found = task(tmp_path, "roses are red violets are blue " * 30, tokens="word", vocab_size=20)
    prompt = prompt_for(found)
    assert prompt
    assert found.vocabulary.unknown_symbols(prompt) == []


@pytest.mark.parametrize("text", ["The ", "it's", 'say "no"', "$HOME `ls` \\", "a!b"])
def test_the_shell_reads_the_prompt_as_it_is(text: str) -> None:
    assert shlex.split(_quoted(text)) == [text]
    assert _quoted("The ") == '"The "'


def test_a_training_suggests_it(command, tmp_path: Path, small: list[str]) -> None:
    file = tmp_path / "dna.txt"
    file.write_text("acgtacgtaccgttacagtagatagcca" * 9)
    run = tmp_path / "run"
    ended = command("train", "text", file, *small, "--steps", 1, "--out", run)
    assert f'throughtime generate {run} --prompt "acgtacgtaccgttac"' in ended.out
    done = command("generate", run, "--prompt", "acgtacgtaccgttac", "--length", 5)
    assert (done.status, done.err) == (0, "")


def test_a_short_training_is_validated_now_and_then(
    command, text: Path, tmp_path: Path, small: list[str]
) -> None:
    ended = command("train", "text", text, *small, "--steps", 12, "--out", tmp_path / "run")
    looks = [
        line.split(",")[0] for line in ended.out.splitlines() if "validation:" in line and "step" in line[:5]
    ]
    assert looks == ["step 5", "step 10", "step 12"]
