"""Ragged batches: every row as if it were measured alone, in every form in which lengths come; padding is never read."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import throughtime as tt
from throughtime.data.batch import Batch
from throughtime.errors import InputError
from throughtime.flow import influence, measure

T, D, H, LENGTHS = 17, 3, 7, [9, 17, 0, 13, 15]


def padded(lengths: list[int] = LENGTHS, fill: float = math.nan) -> Tensor:
    x = torch.randn(T, len(lengths), D, generator=torch.Generator().manual_seed(1))
    for row, length in enumerate(lengths):
        x[length:, row] = fill
    return x


def layer_of(kind: str, bidirectional: bool = False) -> Any:
    torch.manual_seed(0)
    if kind == "mingru":
        return tt.Recurrent(lambda size: tt.MinGRUCell(size, H), D, num_layers=2, bidirectional=bidirectional)
    options = {"zoneout": 0.2} if kind == "LSTM" else {}
    layer = getattr(tt, kind)(D, H, 2, bidirectional=bidirectional, **options)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(1.7)
    return layer


def curves(flow: Any) -> dict[str, Tensor]:
    found = {}
    for name, layer in flow.layers.items():
        found[f"{name} h"] = layer.lag_h.mean
        if layer.lag_c is not None:
            found[f"{name} c"] = layer.lag_c.mean
        if layer.cell_path is not None:
            found[f"{name} path"] = layer.cell_path
    return found


def mean_of_rows(flows: list[Any]) -> dict[str, Tensor]:
    every = [curves(flow) for flow in flows]
    return {name: torch.stack([each[name] for each in every]).mean(0) for name in every[0]}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, each in wanted.items():
        torch.testing.assert_close(
            found[name], each, rtol=1e-10, atol=1e-15, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "mingru"])
def test_a_listed_end_counts_for_the_rows_that_have_it(kind: str, bidirectional: bool) -> None:
    layer, x = layer_of(kind, bidirectional), padded()
    options: dict[str, Any] = {"lags": 5, "ends": [8], "products": False}
    found = measure(layer, x, lengths=LENGTHS, **options)
    assert found.ends == (8,) and found.steps == T
    # Running backward, the others have no 5 steps after step 8.
    rows = [1, 4] if bidirectional else [0, 1, 3, 4]
    alone = [measure(layer, x[: LENGTHS[row], row : row + 1], **options) for row in rows]
    assert_same(curves(found), mean_of_rows(alone))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_a_number_of_ends_counts_back_from_each_rows_own_last_step(kind: str, bidirectional: bool) -> None:
    layer, x = layer_of(kind, bidirectional), padded()
    found = measure(layer, x, lengths=torch.tensor(LENGTHS), lags=6, ends=1, products=False)
    rows = [1, 3, 4] if bidirectional else [0, 1, 3, 4]
    alone = [measure(layer, x[: LENGTHS[row], row : row + 1], lags=6, ends=1, products=False) for row in rows]
    assert_same(curves(found), mean_of_rows(alone))
    # Several ends: each pair of a row and an end is one sample.
    found = measure(layer, x, lengths=LENGTHS, lags=4, ends=3, products=False)
    samples = []
    for row, length in enumerate(LENGTHS):
        ends = [end - (T - length) for end in found.ends]
        samples += [
            measure(layer, x[:length, row : row + 1], lags=4, ends=[end], products=False)
            for end in ends
            if end >= 4 and (not bidirectional or end + 5 <= length)
        ]
    assert len(found.ends) == 3 and len(samples) > 9 - 3 * bidirectional
    assert_same(curves(found), mean_of_rows(samples))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_loss_for_each_sequence_falls_at_its_rows_own_end(bidirectional: bool) -> None:
    layer, x = layer_of("GRU", bidirectional), padded()

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer

        def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
            final: Tensor = self.rnn(x, lengths=lengths)[1]
            return final.transpose(0, 1).flatten(1)  # [B, layers * directions * H]

    options: dict[str, Any] = {"loss": lambda o, t: (o * t).sum(-1), "lags": 11, "products": False}
    targets = torch.randn(len(LENGTHS), layer.num_layers * (1 + bidirectional) * H).double()
    found = measure(Last(), (x, targets), lengths=LENGTHS, **options)
    assert found.ends == (T - 1,)
    alone = [
        measure(Last(), (x[: LENGTHS[row], row : row + 1], targets[row : row + 1]), **options)
        for row in (1, 3, 4)
    ]
    assert_same(curves(found), mean_of_rows(alone))
    batch = Batch.of(x, targets, LENGTHS, per_sequence=True)

    class Stateful(Last):
        def forward(self, x: Tensor, state: Any = None, lengths: Any = None) -> Any:
            return super().forward(x, lengths), None

    assert_same(curves(measure(Stateful(), batch, **options)), curves(found))


def test_statistics_are_those_of_the_rows_own_steps() -> None:
    layer, x = layer_of("LSTM", True), padded()
    found = measure(layer, x, lengths=LENGTHS, lags=4)
    alone = [
        measure(layer, x[:length, row : row + 1], lags=4) for row, length in enumerate(LENGTHS) if length
    ]
    weights = torch.tensor([length for length in LENGTHS if length]).double()
    for name, each in found.layers.items():
        for gate, statistics in each.gates.items():
            parts = [one.layers[name].gates[gate] for one in alone]
            means = torch.tensor([part.mean for part in parts]).double()
            assert statistics.mean == pytest.approx(float((means * weights).sum() / weights.sum()))
            slopes = torch.tensor([part.slope_mean for part in parts]).double()
            assert statistics.slope_mean == pytest.approx(float((slopes * weights).sum() / weights.sum()))
            first = alone[0].layers[name].gates[gate].first
            assert statistics.first is not None and first is not None
            torch.testing.assert_close(statistics.first, first)
            torch.testing.assert_close(
                statistics.over_time[-1], alone[1].layers[name].gates[gate].over_time[-1]
            )
        # The whole loss: each row's gradient is that of the row alone, weighed by its steps.
        count, size = sum(LENGTHS), len(LENGTHS)
        rows = [one.layers[name].gradient_h * one.steps * size / count for one in alone]
        at_two = torch.stack([row[2] for row in rows]).mean()
        assert float(each.gradient_h[2]) == pytest.approx(float(at_two), rel=1e-9)
        last = next(row for row, one in zip(rows, alone, strict=True) if one.steps == T)
        assert float(each.gradient_h[-1]) == pytest.approx(float(last[-1]), rel=1e-9)
        assert each.products is not None and bool((each.products.singular_values[:, 0] > 0).all())
    assert math.isfinite(found.loss) and all(
        math.isfinite(n) for pair in found.parameters.values() for n in pair
    )


@pytest.mark.parametrize("bidirectional", [False, True])
def test_products_of_rows_of_one_length_do_not_see_their_padding(bidirectional: bool) -> None:
    layer, x = layer_of("GRU", bidirectional), padded([11, 11, 11], fill=math.nan)
    found = measure(layer, x, lengths=[11] * 3, lags=5, ends=[5])
    whole = measure(layer, x[:11], lags=5, ends=[5])
    mixed = measure(
        layer, torch.cat([x, torch.full((T, 1, D), math.nan)], 1), lengths=[11, 11, 11, 2], lags=5, ends=[5]
    )
    for each in (found, mixed):
        for name, wanted in whole.layers.items():
            products, exact = each.layers[name].products, wanted.products
            assert products is not None and exact is not None
            torch.testing.assert_close(products.singular_values, exact.singular_values)
            torch.testing.assert_close(products.lyapunov, exact.lyapunov)


def test_segments_and_lengths_together() -> None:
    layer, x = layer_of("LSTM", True), padded()
    options: dict[str, Any] = {"lengths": LENGTHS, "lags": 6, "ends": 2, "products": False}
    assert_same(curves(measure(layer, x, segment=4, **options)), curves(measure(layer, x, **options)))


class Tagger(nn.Module):
    """Encoder, layers and head; knows lengths, `batch_first` or not."""

    def __init__(self, batch_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.encoder = nn.Linear(D, 4)
        self.rnn = nn.LSTM(4, H, batch_first=batch_first) if batch_first else tt.LSTM(4, H)
        self.head = nn.Linear(H, 6)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        logits: Tensor = self.head(self.rnn(self.encoder(x), lengths=lengths)[0])
        return logits


def test_every_form_of_lengths_gives_the_same_and_padding_is_never_read() -> None:
    lengths = [9, 17, 13]
    x, size = padded(lengths), len(lengths)
    targets = torch.randint(6, (T, size), generator=torch.Generator().manual_seed(2))
    model = Tagger()
    options: dict[str, Any] = {"lags": 5, "ends": 2, "products": False}
    found = measure(model, (x, targets), lengths=lengths, **options)
    assert all(math.isfinite(n) for pair in found.parameters.values() for n in pair)
    other = padded(lengths, fill=1e30)
    targets_too = targets.clone()
    for row, length in enumerate(lengths):
        targets_too[length:, row] = 5
    again = measure(model, (other, targets_too), lengths=lengths, **options)
    first = measure(Tagger(batch_first=True), (x.transpose(0, 1), targets.T), lengths=lengths, **options)

    class Stateful(Tagger):
        def forward(self, x: Tensor, state: Any = None, lengths: Any = None) -> Any:
            return super().forward(x, lengths), state

    batch = measure(Stateful(), Batch.of(x, targets, lengths), **options)
    for each in (again, first, batch):
        assert_same(curves(each), curves(found))
        assert each.loss == pytest.approx(found.loss, rel=1e-12)
        assert each.parameters["head.weight"] == pytest.approx(found.parameters["head.weight"], rel=1e-9)


def test_real_targets_that_are_masked_do_not_count() -> None:
    x, lengths = padded([9, 17]), [9, 17]
    targets = torch.randn(T, 2, 4, generator=torch.Generator().manual_seed(3)).double()
    targets[16, 1] = math.nan

    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.rnn = tt.GRU(D, 4)

        def forward(self, x: Tensor, state: Any = None, lengths: Any = None) -> Any:
            return self.rnn(x, state, lengths=lengths)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum(-1)

    found = measure(
        Regression(), Batch.of(x, targets, lengths), loss=loss, ends=[8, 16], lags=4, products=False
    )
    assert found.ends == (8,)  # step 16 is masked in the only row that has it
    assert math.isfinite(found.loss)
    assert all(math.isfinite(gradient) for _, gradient in found.parameters.values())


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences(enforce_sorted: bool) -> None:
    lengths = [17, 13, 9] if enforce_sorted else [9, 17, 13]
    x = padded(lengths, fill=0.0)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=enforce_sorted)
    layer, options = layer_of("LSTM", True), {"lags": 4, "ends": 2}
    found = measure(layer, x, lengths=lengths, **options)
    assert_same(curves(measure(layer, packed, **options)), curves(found))

    class Packs(nn.Module):
        """Takes a PackedSequence, or packs by itself."""

        def __init__(self, packs: bool) -> None:
            super().__init__()
            self.rnn, self.packs = layer, packs

        def forward(self, x: Any) -> Any:
            if self.packs:
                x = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=enforce_sorted)
                return pad_packed_sequence(self.rnn(x)[0])[0]
            return self.rnn(x)[0]

    for model, inputs in ((Packs(False), packed), (Packs(True), x)):
        each = measure(model, inputs, **options)
        assert_same({n.removeprefix("rnn."): c for n, c in curves(each).items()}, curves(found))
        assert each.ends == found.ends


def test_a_model_may_know_the_lengths_itself() -> None:
    layer, x, lengths = layer_of("LSTM", True), padded([9, 17, 13]), [9, 17, 13]

    class Knows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.rnn(x, lengths=torch.tensor(lengths))[0]
            return y

    found = measure(Knows(), x, lags=4, ends=2)
    assert_same(
        {n.removeprefix("rnn."): c for n, c in curves(found).items()},
        curves(measure(layer, x, lengths=lengths, lags=4, ends=2)),
    )
    assert all(math.isfinite(n) for pair in found.parameters.values() for n in pair)


def test_as_many_steps_as_rows() -> None:
    """T == B: nothing is taken for its transpose."""
    lengths = [4, 2, 3, 4]
    x = torch.randn(4, 4, D)
    layer = layer_of("RNN")
    found = measure(layer, x, lengths=lengths, lags=1, ends=1, products=False)
    alone = [
        measure(layer, x[:n, row : row + 1], lags=1, ends=1, products=False) for row, n in enumerate(lengths)
    ]
    assert_same(curves(found), mean_of_rows(alone))


def test_a_batch_that_no_row_of_is_long_enough_is_refused() -> None:
    with pytest.raises(InputError, match="a Batch has lengths of its own"):
        measure(tt.RNN(D, H), Batch.of(padded(), None, LENGTHS), lengths=LENGTHS)
    with pytest.raises(InputError, match="not in a ragged batch"):
        measure(tt.RNN(D, H), padded(), lengths=LENGTHS, loss=lambda o, t: o.sum((1, 2)))


def test_influence_is_that_of_each_row_alone() -> None:
    layer, x = layer_of("GRU", True).double(), padded([9, 17, 13]).double()
    found = influence(layer, x, lengths=[9, 17, 13], examples=2)
    first, second = (influence(layer, x[:n, row : row + 1]).matrix for row, n in ((0, 9), (1, 17)))
    torch.testing.assert_close(found.matrix[:9, :9], (first + second[:9, :9]) / 2)
    torch.testing.assert_close(found.matrix[9:], second[9:])
    packed = pack_padded_sequence(x.nan_to_num(), torch.tensor([9, 17, 13]), enforce_sorted=False)
    assert torch.equal(influence(layer, packed, examples=2).matrix, found.matrix)
    assert torch.equal(influence(layer, Batch.of(x, None, [9, 17, 13]), examples=2).matrix, found.matrix)
    with pytest.raises(InputError, match="example 1 has no steps"):
        influence(layer, x, lengths=[9, 0, 13], examples=2)


def test_influence_of_a_batch_with_context_and_state() -> None:
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(6)
            self.rnn = tt.GRU(D, H, dtype=torch.float64)

        def forward(self, x: Tensor, state: Any = None, context: Any = None) -> Any:
            return self.rnn(x * context["scale"], state)

    x = padded([T, T]).double()
    scale = torch.tensor([[2.0], [3.0]]).double()
    state = torch.randn(1, 2, H).double()
    model = Conditioned()
    batch = Batch.of(x, context={"scale": scale})
    found = influence(model, batch, state, examples=2).matrix
    alone = [
        influence(model.rnn, scale[b] * x[:, b : b + 1], state[:, b : b + 1]).matrix * scale[b]
        for b in (0, 1)
    ]
    torch.testing.assert_close(found, (alone[0] + alone[1]) / 2)
