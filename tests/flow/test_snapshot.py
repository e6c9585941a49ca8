"""The short measurement while training: what it finds, on which batches, and that it changes nothing."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import throughtime as tt
from throughtime.data.batch import Batch, unmasked
from throughtime.errors import InputError
from throughtime.flow import LayerSnapshot, measure, snapshot
from throughtime.flow.measurement import snapshot as module
from throughtime.flow.measurement.fit import half_life
from throughtime.models import ModelConfig
from throughtime.models.build import many_to_many, symbol_embedding

SYMBOLS, EXAMPLES = 11, module.EXAMPLES


def model_of(**settings: Any) -> Any:
    torch.manual_seed(3)
    config = ModelConfig(**{"cell": "gru", "hidden": 13, "embedding": 5, **settings})
    made = many_to_many(config, symbol_embedding(config, SYMBOLS), SYMBOLS)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.5)
    return made


def text_of(steps: int = 12, size: int = EXAMPLES + 3) -> Batch:
    ids = torch.randint(SYMBOLS, (steps + 1, size), generator=torch.Generator().manual_seed(1))
    return Batch.of(ids[:-1], ids[1:])


def state_of(model: Any, size: int = EXAMPLES + 3) -> Any:
    """After a window of its own."""
    with torch.no_grad():
        return model(text_of(7, size).inputs, None)[1]


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), ignore_index=-100, reduction="sum")


def per_step(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")


def expected(model: Any, batch: Batch, state: Any, end: int, **more: Any) -> Any:
    """By `measure`, over the first examples."""
    options: dict[str, Any] = {
        "loss": per_step,
        "ends": [end],
        "examples": EXAMPLES,
        "products": False,
        **more,
    }
    return measure(model, batch, state=state, **options).layers


def test_it_touches_neither_gradients_nor_modes_nor_random_numbers() -> None:
    model, batch = model_of(cell="lstm", layers=2, dropout=0.5), text_of()
    state = state_of(model)
    model.train()
    model.head.eval()
    cross_entropy(model(batch.inputs, state)[0], batch).backward()
    before = {name: (p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters()}
    carried, random = copy.deepcopy(state), torch.get_rng_state()
    assert list(snapshot(model, cross_entropy, batch, state)) == ["layers.l0", "layers.l1"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert torch.equal(parameter.grad, before[name][1])
    assert model.training and model.layers.training and not model.head.training
    assert torch.equal(torch.get_rng_state(), random)
    for mine, theirs in zip(state, carried, strict=True):
        assert torch.equal(mine, theirs)
        assert not mine.requires_grad


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_it_is_what_measure_measures(cell: str) -> None:
    model, batch = model_of(cell=cell, layers=2), text_of()
    state = state_of(model)
    found = snapshot(model, cross_entropy, batch, state)
    wanted = expected(model, batch, state, end=11, lags=11)
    assert list(found) == list(wanted)
    for name, each in wanted.items():
        layer = found[name]
        assert layer.half_life == pytest.approx(each.lag_h.half_life.steps, rel=1e-9)
        assert layer.r_squared == pytest.approx(each.lag_h.half_life.r_squared, rel=1e-9)
        assert (layer.reach, layer.lags) == (each.lag_h.reach, 11)
        assert layer.slope == pytest.approx({name: gate.slope_mean for name, gate in each.gates.items()})
        assert layer.saturated == pytest.approx({name: gate.saturated for name, gate in each.gates.items()})
        if cell == "lstm":
            assert layer.half_life_c == pytest.approx(each.lag_c.half_life.steps, rel=1e-9)
        else:
            assert layer.half_life_c is None


def test_both_directions_are_measured_from_the_middle() -> None:
    model, batch = model_of(bidirectional=True), text_of(13)
    found = snapshot(model, cross_entropy, batch, None)
    wanted = expected(model, batch, None, end=6, lags=6)
    assert list(found) == list(wanted) == ["layers.l0", "layers.l0_reverse"]
    for name, each in wanted.items():
        assert found[name].half_life == pytest.approx(each.lag_h.half_life.steps, rel=1e-9)
        assert found[name].lags == 6


def test_of_a_long_batch_the_last_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their state comes from the steps before, so the gradient over the lags that remain is the same."""
    model, batch = model_of(cell="lstm"), text_of()
    state = state_of(model)
    wanted = expected(model, batch, state, end=11, lags=6)["layers.l0"]
    monkeypatch.setattr(module, "STEPS", 7)
    found = snapshot(model, cross_entropy, batch, state)["layers.l0"]
    assert found.lags == 6
    assert found.half_life == pytest.approx(wanted.lag_h.half_life.steps, rel=1e-9)


def test_examples_without_a_target_at_the_end_do_not_count() -> None:
    model, batch = model_of(), text_of()
    state = state_of(model)
    targets = batch.targets.clone()
    targets[-1, 1:EXAMPLES] = -100
    found = snapshot(model, cross_entropy, batch._replace(targets=targets), state)
    first = batch._replace(targets=targets).rows(slice(0, 1))
    one = snapshot(model, cross_entropy, first, state[:, :1])
    assert found["layers.l0"].half_life == pytest.approx(one["layers.l0"].half_life, rel=1e-9)
    targets[-1] = -100
    nothing = snapshot(model, cross_entropy, batch._replace(targets=targets), state)["layers.l0"]
    assert nothing.text == "unknown"
    assert nothing.record()["half_life"] is None


class Ragged(nn.Module):
    """Pytrees in, [T, B, q] out; `lengths=` goes to the layer."""

    def __init__(self, bidirectional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.encoder = nn.Linear(3, 6)
        self.rnn = tt.GRU(6, 9, 2, bidirectional=bidirectional)
        self.head = nn.Linear(18 if bidirectional else 9, 2)

    def forward(self, x: dict[str, Tensor], state: Any = None, lengths: Any = None) -> tuple[Tensor, Any]:
        y, state = self.rnn(self.encoder(torch.cat([x["a"], x["b"]], -1)), state, lengths=lengths)
        return self.head(y), None if self.rnn.bidirectional else state


def squared(outputs: Tensor, batch: Batch) -> Tensor:
    """Sum over the unmasked targets, per step or at each row's own end."""
    if batch.per_sequence:
        assert batch.lengths is not None
        outputs = outputs[batch.lengths.clamp(min=1) - 1, torch.arange(batch.size)]
    return (outputs - batch.targets)[unmasked(batch.targets)].square().sum()


def ragged(lengths: list[int], *, per_sequence: bool, steps: int = 14) -> Batch:
    generator = torch.Generator().manual_seed(2)
    a, b = (
        torch.randn(steps, len(lengths), 2, generator=generator),
        torch.randn(steps, len(lengths), 1, generator=generator),
    )
    shape = (len(lengths), 2) if per_sequence else (steps, len(lengths), 2)
    targets = torch.randn(shape, generator=generator)
    for row, length in enumerate(lengths):
        a[length:, row] = b[length:, row] = math.nan
        if not per_sequence:
            targets[length:, row] = math.nan
    return Batch.of({"a": a, "b": b}, targets, lengths, per_sequence=per_sequence)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("per_sequence", [False, True])
def test_in_a_ragged_batch_lag_counts_back_from_each_rows_own_end(
    per_sequence: bool, bidirectional: bool
) -> None:
    model, lengths = Ragged(bidirectional), [14, 9, 0, 12, 12]
    batch = ragged(lengths, per_sequence=per_sequence)
    found = snapshot(model, squared, batch, None)
    halves = not per_sequence and bidirectional
    lags = 5 if halves else 11  # half of the rows have 12 steps
    assert {layer.lags for layer in found.values()} == {lags}
    curves: dict[str, list[Tensor]] = {}
    for row in (0, 3, 4):
        length = lengths[row]
        inputs = {name: leaf[:length, row : row + 1] for name, leaf in batch.inputs.items()}
        targets = batch.targets[row : row + 1] if per_sequence else batch.targets[:length, row : row + 1]
        one = Batch.of(inputs, targets, [length], per_sequence=per_sequence)
        end = (length - 1) // 2 if halves else length - 1

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            return ((outputs[-1] if per_sequence else outputs) - targets).square().sum(-1)

        alone = measure(model, one, loss=loss, ends=[end], lags=lags, products=False)
        for name, layer in alone.layers.items():
            curves.setdefault(name, []).append(layer.lag_h.mean)
    assert not math.isnan(found["rnn.l0"].half_life)
    for name, each in curves.items():
        fit = half_life(torch.stack(each).mean(0))
        assert found[name].half_life == pytest.approx(fit.steps, rel=1e-9, nan_ok=True)
        assert found[name].r_squared == pytest.approx(fit.r_squared, rel=1e-6, nan_ok=True)


def test_windows_of_targets_per_sequence_count_the_rows_that_end_there() -> None:
    model, lengths = Ragged(), [14, 5, 14, 7]
    batch = ragged(lengths, per_sequence=True)
    with torch.no_grad():
        _, state = batch.window(0, 7).run(model, None)
    last = snapshot(model, squared, batch.window(7, 14), state)["rnn.l0"]
    long = ragged([14, 14], per_sequence=True)._replace(
        inputs={name: leaf[:, [0, 2]] for name, leaf in batch.inputs.items()}, targets=batch.targets[[0, 2]]
    )
    alone = snapshot(model, squared, long.window(7, 14), state[:, [0, 2]])["rnn.l0"]
    assert last.lags == alone.lags == 6
    assert last.half_life == pytest.approx(alone.half_life, rel=1e-9)
    nothing = snapshot(model, squared, ragged([14, 14], per_sequence=True).window(0, 7), None)["rnn.l0"]
    assert (nothing.text, nothing.record()["half_life"]) == ("unknown", None)


def test_rows_without_a_target_do_not_set_the_lags() -> None:
    batch = ragged([14, 14, 6, 6, 6], per_sequence=True)
    targets = batch.targets.clone()
    targets[:2] = math.nan
    assert snapshot(Ragged(), squared, batch, None)["rnn.l0"].lags == 5
    assert snapshot(Ragged(), squared, batch.rows(slice(0, 3)), None)["rnn.l0"].lags == 13
    masked = batch._replace(targets=targets).rows(slice(0, 3))
    assert snapshot(Ragged(), squared, masked, None)["rnn.l0"].lags == 5


def test_what_cannot_be_measured_has_a_reason() -> None:
    with pytest.raises(InputError, match="no recurrent layer to measure"):
        snapshot(nn.Linear(3, 3), squared, Batch.of(torch.randn(5, 2, 3), torch.randn(5, 2, 3)), None)
    with pytest.raises(InputError, match="the batch has no targets"):
        snapshot(model_of(), cross_entropy, text_of()._replace(targets=None), None)


def test_the_record_is_strict_json() -> None:
    layer = LayerSnapshot(math.inf, "keeps", math.nan, None, 7, math.nan, {"h": math.nan}, {"h": 0.25})
    assert json.loads(json.dumps(layer.record(), allow_nan=False)) == {
        "half_life": None,
        "text": "keeps",
        "r_squared": None,
        "reach": None,
        "lags": 7,
        "half_life_c": None,
        "slope": {"h": None},
        "saturated": {"h": 0.25},
    }
