"""The options of `train text` that watch: they reach the run, and may change when it goes on."""

from __future__ import annotations

import tomllib
from pathlib import Path

from throughtime.runs import Run


def steps_of(run: Path, kind: str) -> list[int]:
    return [record["step"] for record in Run.open(run).history() if record["kind"] == kind]


def test_watching_reaches_the_run_and_may_change_when_it_goes_on(
    command, text: Path, tmp_path: Path, small: list[str]
) -> None:
    run = tmp_path / "run"
    options = [
        "--watch",
        "4",
        "--on-spike",
        "rollback",
        "--rollback-lr",
        "0.25",
        "--rollback-clip",
        "value:0.5",
        "--rollbacks",
        "3",
    ]
    ended = command("train", "text", "--data", text, *small, *options, "--steps", 10, "--out", run)
    assert (ended.status, ended.err) == (0, "")
    assert steps_of(run, "watch") == [4, 8]
    training = tomllib.loads((run / "config.toml").read_text())["training"]
    found = [training[name] for name in ("watch", "on_spike", "rollback_lr", "rollback_clip", "rollbacks")]
    assert found == [4, "rollback", 0.25, "value:0.5", 3]
    ended = command("train", "text", "--resume", "--watch", 0, "--on-spike", "stop", "--out", run)
    assert (ended.status, ended.err) == (0, "")


def test_what_cannot_be_is_refused(fails, text: Path, tmp_path: Path, small: list[str]) -> None:
    run = tmp_path / "run"
    line = fails("train", "text", "--data", text, *small, "--on-spike", "rolback", "--out", run)
    assert "--on-spike" in line
    assert "Did you mean 'rollback'?" in line
    assert not run.exists()
