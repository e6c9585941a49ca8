"""Small measurements run with one thread, and the caller's number is restored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.data.batch import Batch
from throughtime.errors import InputError
from throughtime.flow.measurement import threads
from throughtime.flow.measurement.threads import SMALL, recurrent_weights, threads_for


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class Watched(nn.Module):
    """A layer whose model remembers how many threads there were when it ran."""

    def __init__(self, layer: nn.Module, seen: list[int]) -> None:
        super().__init__()
        self.layer, self.seen = layer, seen

    def __deepcopy__(self, memo: object) -> Watched:
        return Watched(tt.LSTM(5, 7), self.seen)

    def forward(self, x: torch.Tensor, state: object = None) -> object:
        self.seen.append(torch.get_num_threads())
        return self.layer(x, state)


def test_the_rule() -> None:
    with threads_for(SMALL // 64 - 1, 64):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with threads_for(SMALL // 64, 64):
        assert torch.get_num_threads() == 3


def test_the_weights_that_count() -> None:
    assert recurrent_weights([tt.LSTM(1000, 7, 2)]) == 4 * 7 * 7
    assert recurrent_weights([tt.LSTM(5, (7, 9)), tt.GRU(5, 6)]) == 4 * 9 * 9
    assert recurrent_weights([tt.Recurrent(tt.MinGRUCell(5, 11))]) == 5 * 22
    assert recurrent_weights([tt.Recurrent(tt.IndRNNCell(5, 11))]) == 5 * 11
    assert recurrent_weights([]) == 0


def test_a_measurement_has_one_thread_and_leaves_the_caller_s() -> None:
    seen: list[int] = []
    model, x = Watched(tt.LSTM(5, 7), seen), torch.randn(9, 3, 5)
    tt.flow.measure(
        model, x, ends=1, lags=3, progress=lambda done, total: seen.append(torch.get_num_threads())
    )
    assert len(seen) > 2
    assert set(seen) == {1}
    assert torch.get_num_threads() == 3
    seen.clear()
    tt.flow.snapshot(model, lambda y, batch: y.sum(), Batch.of(x, torch.zeros(9, 3)), None)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_count_where_the_batch_is(batch_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 steps of 3 examples."""
    layer = tt.GRU(5, 7, batch_first=batch_first)
    x = torch.randn(*((3, 20) if batch_first else (20, 3)), 5)
    seen: list[int] = []
    before = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda number: (seen.append(number), before(number)))
    monkeypatch.setattr(threads, "SMALL", 1 + 3 * 3 * 7 * 7)
    tt.flow.measure(layer, x, ends=1, lags=3, products=False)
    assert 1 in seen
    seen.clear()
    monkeypatch.setattr(threads, "SMALL", 3 * 3 * 7 * 7)
    tt.flow.measure(layer, x, ends=1, lags=3, products=False)
    tt.flow.measure(layer, x, ends=1, lags=3, products=False, lengths=[20, 12, 20])
    assert not seen


def test_an_exception_restores_them() -> None:
    with pytest.raises(InputError):
        tt.flow.measure(tt.LSTM(5, 7), torch.randn(1, 3, 5))
    assert torch.get_num_threads() == 3
