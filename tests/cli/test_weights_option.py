"""`--weights` of `throughtime generate` and `throughtime evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from throughtime.kernels.native.generation.generator import Generator, unavailable
from throughtime.runs import Run
from throughtime.runtime.engine import Engine
from throughtime.tasks import TextTask

Fails = Callable[..., str]
native = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")


def by_generator(generator: Generator, ids: torch.Tensor) -> float:
    """The mean loss of symbols that the generator reads one by one."""
    state, logits = generator.initial(1), []
    for number in ids[:-1]:
        state = generator.feed(number.reshape(1), state)
        logits.append(state.logits[0])
    return float(F.cross_entropy(torch.stack(logits), ids[1:]))


@native
@pytest.mark.parametrize("weights", ["float32", "bf16", "int8"])
def test_the_loss_is_what_generation_computes_with(
    command, trained: Path, tmp_path: Path, line: str, weights: str
) -> None:
    file = tmp_path / "new.txt"
    file.write_text(line[7:60] + "?")
    options = ["--data", file, "--batch", 1, "--weights", weights, "--device", "cpu", "--json"]
    found = json.loads(command("evaluate", trained, *options).out)["total"]["loss"]
    model, task = TextTask.restore(Run.open(trained))
    ids = task.vocabulary.encode(file.read_text())
    # The mean of 53 numbers in float32.
    assert found == pytest.approx(by_generator(Engine(model, weights).generator, ids), rel=1e-6)
    if weights != "float32":  # else it could be the loss of any of them
        plain = by_generator(Engine(model).generator, ids)
        assert found != pytest.approx(plain, rel=4e-6)
        assert found == pytest.approx(plain, rel=0.02)


@native
def test_generate_writes_with_rounded_weights(command, trained: Path) -> None:
    options = ["--prompt", "the quick", "--length", 40, "--seed", 1]
    texts = {
        weights: command("generate", trained, *options, "--weights", weights).out
        for weights in ("float32", "bf16", "int8")
    }
    assert all(text.startswith("the quick") and len(text) == 49 for text in texts.values())
    assert texts["float32"] == command("generate", trained, *options).out
    assert texts["int8"] == command("generate", trained, *options, "--weights", "int8").out


@native
def test_a_model_that_native_cannot_run_is_an_error(
    fails: Fails, command, text: Path, tmp_path: Path, small: list[str]
) -> None:
    run = tmp_path / "normed"
    ended = command("train", "text", text, *small, "--layer-norm", "--steps", 1, "--out", run)
    assert ended.status == 0, ended
    assert "native generation has no LSTM with layer_norm" in fails("generate", run, "--weights", "int8")
    assert "native generation has no LSTM with layer_norm" in fails("evaluate", run, "--weights", "bf16")
    assert command("generate", run, "--length", 3).status == 0


def test_another_form_is_refused(fails: Fails, trained: Path) -> None:
    for name in ("generate", "evaluate"):
        line = fails(name, trained, "--weights", "int4")
        assert "weights must be one of float32, bf16, int8, got 'int4'" in line
