"""A task of the user's own with dicts of inputs and targets and a context: it trains, and resumes to the same bits."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from throughtime.data import Assets, Batch
from throughtime.data.epochs import Epochs
from throughtime.errors import RunError
from throughtime.layers import GRU, LSTM
from throughtime.metrics import MeanLoss
from throughtime.models.config import ModelConfig
from throughtime.tasks import Task
from throughtime.training import TrainingConfig
from throughtime.training.checkpoint import CarriedState, own_part, restore_own_part
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import start_run, train

T, B = 7, 3


class Both(NamedTuple):
    """A state of two layers, one nested in the other."""

    symbols: Tensor
    numbers: tuple[Tensor, Tensor]


class TwoInputs(nn.Module):
    """Symbols through a GRU, numbers through an LSTM; two heads."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.gru, self.lstm = GRU(3, hidden), LSTM(2, hidden)
        self.dropout = nn.Dropout(0.3)
        self.next, self.value = nn.Linear(2 * hidden + 4, 5), nn.Linear(2 * hidden + 4, 2)

    def forward(self, inputs, state=None, lengths=None, context=None):
        first, second = (None, None) if state is None else state
        a, first = self.gru(self.embedding(inputs["symbols"]), first, lengths=lengths)
        b, second = self.lstm(inputs["numbers"], second, lengths=lengths)
        whole = torch.cat([a, b, context["speaker"].expand(len(a), -1, -1)], dim=-1)
        y = self.dropout(whole)
        return {"symbols": self.next(y), "numbers": self.value(y)}, Both(first, tuple(second))


class Windows(Epochs):
    """Long recordings in windows of T steps, 6 an epoch; the state is carried within one."""

    def __init__(self, batch: int, seed: int, rank: int, world: int) -> None:
        super().__init__(rank, world)
        self.batch, self.seed = batch, seed

    def __len__(self) -> int:
        return 6

    def _batches(self, epoch):
        return lambda index: make_batch(f"{self.seed}/{epoch}/{index}", self.batch, index % 3 == 0)

    @property
    def _identity(self):
        return {"batch": self.batch, "seed": self.seed}


def make_batch(place: str, batch: int, reset: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(sum(map(ord, place)) * 7919 + len(place))
    symbols = torch.randint(5, (T, batch), generator=generator)
    numbers = torch.randn(T, batch, 2, generator=generator)
    lengths = torch.randint(0, T + 1, (batch,), generator=generator)
    lengths[0] = T
    inputs = {"symbols": symbols, "numbers": numbers}
    targets = {"symbols": symbols.clone(), "numbers": numbers.cumsum(0).clamp(-2, 2)}
    context = {"speaker": torch.randn(batch, 4, generator=generator)}
    return Batch.of(inputs, targets, lengths, context=context, reset=reset)


@dataclass(frozen=True)
class TreeTask(Task):
    """Two kinds of inputs and of targets."""

    name = "tree"

    def prepare(self, like=None):
        return Assets()

    def build(self, config, assets):
        return TwoInputs(config.hidden)

    def batches(self, assets, *, steps, batch, seed=0, rank=0, world=1):
        return Windows(batch, seed, rank, world)

    def evaluation_batches(self, assets, split, *, steps, batch):
        return (make_batch(f"{split}/{index}", batch, index == 0) for index in range(3))

    def loss(self, outputs, batch):
        kept = batch.targets["symbols"] >= 0
        known = ~batch.targets["numbers"].isnan()
        entropy = nn.functional.cross_entropy(
            outputs["symbols"][kept], batch.targets["symbols"][kept], reduction="sum"
        )
        return entropy + (outputs["numbers"][known] - batch.targets["numbers"][known]).square().sum()

    def metrics(self, assets):
        return [MeanLoss()]


def made(path, **settings):
    config = TrainingConfig(
        **{"bptt": "truncated:3", "steps": 20, "batch": B, "log_every": 3, "evaluate_every": 4, **settings}
    )
    task, run = start_run(TreeTask(), ModelConfig(hidden=5), config, path)
    return task, config, run


def test_it_trains_and_counts_all_leaves(tmp_path):
    task, config, run = made(tmp_path / "run", steps=60, lr=0.02)
    result = train(task, config, run)
    records = [record for record in run.history() if record["kind"] == "training"]
    assert records[-1]["loss"] < records[0]["loss"]
    data, targets = task.batches(Assets(), steps=T, batch=B), 0
    for _ in range(10):
        targets += sum(
            3 * int(batch.lengths.sum()) for batch in data.epoch()
        )  # a symbol and two numbers a step
    assert result.targets == targets
    assert set(result.results) == {"validation", "test"}


@pytest.mark.parametrize("at", [4, 8, 16])
def test_interrupted_and_resumed_it_ends_with_the_same_bits(tmp_path, weights, without_times, Recording, at):
    reference = made(tmp_path / "reference")
    train(*reference)
    task, config, run = made(tmp_path / "run")
    report = Recording()
    report.evaluation = lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == at else None
    with pytest.raises(Interrupted):
        train(task, config, run, report=report)
    assert run.load_checkpoint()["parts"][0]["carried"] is not None
    train(task, config, run, resume=True)
    assert weights(run) == weights(reference[2])
    assert without_times(run.history()) == without_times(reference[2].history())


@pytest.fixture
def carried():
    """A model, a batch, and the state after it."""
    torch.manual_seed(1)
    model, batch = TwoInputs(5), make_batch("x", B)
    with torch.no_grad():
        _, state = batch.run(model)
    return model, batch, state


def test_a_restored_state_has_the_structure_that_the_model_returns(carried):
    model, _, state = carried
    model.lstm.eval()  # frozen: stays so
    before = torch.get_rng_state()
    part = own_part(Windows(B, 0, 0, 1), state, torch.Generator(), torch.device("cpu"))
    restored = CarriedState(part["carried"]).restore(model, make_batch("y", B, reset=False))
    assert isinstance(restored, Both) and isinstance(restored.numbers, tuple)
    for mine, theirs in zip(tree_leaves(restored), tree_leaves(state), strict=True):
        assert torch.equal(mine, theirs)
    assert model.training and not model.lstm.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "leaves",
    [
        [],
        [torch.zeros(1, B, 5)],
        [torch.zeros(1, B, 5), torch.zeros(1, B, 5), torch.zeros(1, B, 6)],
        [torch.zeros(1, B + 1, 5)] * 3,
        [torch.zeros(1, B, 5), torch.zeros(1, B, 5), 3],
    ],
)
def test_the_state_of_another_model_is_refused(carried, leaves):
    model, batch, _ = carried
    with pytest.raises(RunError, match="carried state is not one of this model's") as error:
        CarriedState(leaves).restore(model, batch)
    assert "\n" not in str(error.value)


def test_every_generator_is_restored(carried):
    _, _, state = carried
    data, generator = Windows(B, 0, 0, 1), torch.Generator().manual_seed(5)
    for _ in zip(range(2), data.epoch(), strict=False):
        pass
    part = own_part(data, state, generator, torch.device("cpu"))
    expected = torch.rand(3), torch.rand(3, generator=generator), next(iter(data.epoch())).inputs["symbols"]
    torch.manual_seed(99)
    again, other = Windows(B, 0, 0, 1), torch.Generator()
    restore_own_part(part, again, other, torch.device("cpu"))
    found = torch.rand(3), torch.rand(3, generator=other), next(iter(again.epoch())).inputs["symbols"]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_batch_of_trees_in_float64(carried):
    model, batch, _ = carried
    double = batch._replace(
        inputs={"symbols": batch.inputs["symbols"], "numbers": batch.inputs["numbers"].double()},
        context=tree_map_only(Tensor, lambda leaf: leaf.double(), batch.context),
    )
    outputs, _ = double.run(model.double().eval())
    assert TreeTask().loss(outputs, double).dtype == torch.float64
