"""Custom cells: over time with `scan`, and as a layer with `Recurrent`."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import throughtime as tt

T, B, D, H = 7, 4, 3, 13
LENGTHS = torch.tensor([4, 7, 0, 5])


class LeakyCell(tt.Cell):
    """The ten lines of the contract's own docstring."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.mix = torch.nn.Linear(input_size, hidden_size)

    def project(self, x: Tensor) -> Tensor:
        return self.mix(x)

    def step(self, state: Any, u: Tensor) -> Any:
        return tt.HiddenState(0.9 * state.h + 0.1 * u.tanh())


class CountState(NamedTuple):
    h: Tensor  # [B, H]
    seen: Tensor  # [B] steps so far, a tensor without features
    grid: Tensor  # [B, 2, 3]


class CountingCell(tt.Cell):
    """A state of unlike shapes, and no `project`."""

    def initial_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> CountState:
        make = partial(torch.zeros, device=device, dtype=dtype)
        return CountState(make(batch, self.hidden_size), make(batch), make(batch, 2, 3))

    def step(self, state: Any, u: Tensor) -> CountState:
        h = torch.tanh(u.sum(-1, keepdim=True) + state.h)
        return CountState(h, state.seen + 1, state.grid + u.sum(-1)[:, None, None])


def poisoned() -> Tensor:
    x = torch.randn(T, B, D)
    for row, length in enumerate(LENGTHS):
        x[length:, row] = float("nan")
    return x


def by_hand(cell: LeakyCell, x: Tensor, h: Tensor) -> Tensor:
    outputs = []
    for u in x:
        h = 0.9 * h + 0.1 * torch.tanh(u @ cell.mix.weight.T + cell.mix.bias)
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cell_of_ten_lines_over_time(reverse: bool) -> None:
    cell, x, h = LeakyCell(D, H), poisoned(), torch.randn(B, H)
    y, state = tt.scan(cell, x, tt.HiddenState(h), lengths=LENGTHS, reverse=reverse)
    assert isinstance(state, tt.HiddenState)
    for row, length in enumerate(LENGTHS.tolist()):
        real = x[:length, row]
        expected = by_hand(cell, real.flip(0) if reverse else real, h[row]) if length else torch.empty(0, H)
        torch.testing.assert_close(state.h[row], expected[-1] if length else h[row])
        torch.testing.assert_close(y[:length, row], expected.flip(0) if reverse else expected)
        assert not y[length:, row].any()


def test_the_state_is_the_cell_s_own_at_the_start() -> None:
    cell, x = LeakyCell(D, H), torch.randn(T, B, D)
    torch.testing.assert_close(tt.scan(cell, x)[0], by_hand(cell, x, torch.zeros(B, H)))
    state = cell(x[0])
    torch.testing.assert_close(state.h, by_hand(cell, x[:1], torch.zeros(B, H))[0])
    torch.testing.assert_close(cell(x[1], state).h, by_hand(cell, x[:2], torch.zeros(B, H))[1])


@pytest.mark.parametrize("reverse", [False, True])
def test_state_tensors_of_any_shape(reverse: bool) -> None:
    x = poisoned()
    y, state = tt.scan(CountingCell(D, H), x, lengths=LENGTHS, reverse=reverse)
    assert y.shape == (T, B, H) and isinstance(state, CountState)
    assert state.seen.tolist() == LENGTHS.tolist()
    total = torch.stack([x[:n, row].sum() for row, n in enumerate(LENGTHS.tolist())])
    torch.testing.assert_close(state.grid, total[:, None, None].expand(B, 2, 3))


def test_gradients_reach_the_cell_the_input_and_the_state() -> None:
    cell, x, h = LeakyCell(D, H).double(), poisoned().double(), torch.randn(B, H, dtype=torch.float64)
    clean = x.masked_fill(x.isnan(), 0)

    class Tied(LeakyCell):
        """The same step with a weight from outside, so that finite differences can move it."""

        weight: Tensor

        def project(self, x: Tensor) -> Tensor:
            return torch.nn.functional.linear(x, self.weight, cell.mix.bias)

    def run(x: Tensor, h: Tensor, weight: Tensor) -> Any:
        tied = Tied(D, H)
        tied.weight = weight
        y, state = tt.scan(tied, x, tt.HiddenState(h), lengths=LENGTHS)
        return y, state.h

    inputs = (clean.requires_grad_(), h.requires_grad_(), cell.mix.weight.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_a_layer_of_it_in_both_directions_and_two_floors() -> None:
    layer = tt.Recurrent(partial(LeakyCell, hidden_size=H), D, num_layers=2, bidirectional=True)
    assert [cell.input_size for cell in layer.cells] == [D, D, 2 * H, 2 * H]
    assert len({cell.mix.weight.data_ptr() for cell in layer.cells}) == 4
    x, hx = poisoned(), [tt.HiddenState(torch.randn(B, H)) for _ in range(4)]
    y, states = layer(x, hx, lengths=LENGTHS)
    floor = x
    for first in (0, 2):
        runs = [
            tt.scan(layer.cells[first + d], floor, hx[first + d], lengths=LENGTHS, reverse=bool(d))
            for d in (0, 1)
        ]
        torch.testing.assert_close([runs[0][1], runs[1][1]], list(states[first : first + 2]))
        floor = torch.cat([run[0] for run in runs], -1)
    torch.testing.assert_close(y, floor)


def test_a_layer_takes_every_form_of_input() -> None:
    layer = tt.Recurrent(LeakyCell(D, H), batch_first=True)
    x, lengths = torch.randn(B, T, D), torch.tensor([4, 7, 2, 5])
    y, (state,) = layer(x, lengths=lengths)
    assert y.shape == (B, T, H)
    packed, (from_packed,) = layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    assert isinstance(packed, PackedSequence)
    torch.testing.assert_close(pad_packed_sequence(packed, batch_first=True)[0], y)
    torch.testing.assert_close(from_packed, state)
    hx = tt.HiddenState(torch.randn(B, H))
    again = layer(x, [hx], lengths=lengths)
    torch.testing.assert_close(
        layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), [hx])[1], again[1]
    )
    alone, (last,) = layer(x[0, :4], [tt.HiddenState(hx.h[0])])
    torch.testing.assert_close((alone, last.h), (again[0][0, :4], again[1][0].h[0]))


def test_dropout_acts_between_the_floors_and_only_in_training() -> None:
    layer = tt.Recurrent(partial(LeakyCell, hidden_size=H), D, num_layers=2, dropout=0.5)
    x = torch.randn(T, B, D)
    torch.manual_seed(2)
    y, _ = layer(x)
    torch.manual_seed(2)
    between = torch.nn.functional.dropout(tt.scan(layer.cells[0], x)[0], 0.5)
    torch.testing.assert_close(y, tt.scan(layer.cells[1], between)[0])
    torch.testing.assert_close(layer.eval()(x)[0], tt.scan(layer.cells[1], tt.scan(layer.cells[0], x)[0])[0])


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_the_library_s_own_cells_as_a_layer_are_its_layers(name: str) -> None:
    own, layer = (
        getattr(tt, name)(D, H, 2, bidirectional=True),
        tt.Recurrent(partial(getattr(tt, f"{name}Cell"), hidden_size=H), D, num_layers=2, bidirectional=True),
    )
    for number, cell in enumerate(layer.cells):
        suffix = f"_l{number // 2}" + "_reverse" * (number % 2)
        cell.load_state_dict({key: own.state_dict()[key + suffix] for key in cell.state_dict()})
    x = poisoned()
    y, states = layer(x, lengths=LENGTHS)
    expected, final = own(x, lengths=LENGTHS)
    torch.testing.assert_close(y, expected)
    for field, whole in zip(("h", "c"), final if name == "LSTM" else (final,), strict=False):
        torch.testing.assert_close(torch.stack([getattr(state, field) for state in states]), whole)


def test_a_projected_lstm_stacks_on_its_projection() -> None:
    layer = tt.Recurrent(
        partial(tt.LSTMCell, hidden_size=H, proj_size=4), D, num_layers=2, bidirectional=True
    )
    assert [cell.input_size for cell in layer.cells] == [D, D, 8, 8]
    assert layer(torch.randn(T, B, D))[0].shape == (T, B, 8)


def test_mistakes_are_named() -> None:
    cell, x = LeakyCell(D, H), torch.randn(T, B, D)
    with pytest.raises(ValueError, match=r"2 layers in 2 direction\(s\) need 4 cells .* got one LeakyCell"):
        tt.Recurrent(cell, num_layers=2, bidirectional=True)
    with pytest.raises(ValueError, match="input_size is needed to make the first cell"):
        tt.Recurrent(partial(LeakyCell, hidden_size=H))
    with pytest.raises(ValueError, match="num_layers must be greater than zero"):
        tt.Recurrent(partial(LeakyCell, hidden_size=H), D, num_layers=0)
    with pytest.raises(RuntimeError, match="Expected 3, got 4"):
        tt.Recurrent(cell)(torch.randn(T, B, D + 1))
    with pytest.raises(ValueError, match="one state for each of 1 layers and directions, got 2"):
        tt.Recurrent(cell)(x, [cell.initial_state(B)] * 2)
    with pytest.raises(ValueError, match=r"x must be \[T, B, ...\] with at least one step, got \[0, 4, 3\]"):
        tt.scan(cell, x[:0])
    with pytest.raises(NotImplementedError, match=r"Unfinished has no step\(state, u\): write one"):
        tt.scan(type("Unfinished", (tt.Cell,), {})(D, H), x)


def test_a_state_of_one_row_is_not_spread_over_the_batch_in_silence() -> None:
    cell, x, one = LeakyCell(D, H), torch.randn(T, B, D), torch.zeros(1, H)
    with pytest.raises(
        ValueError, match=r"state must have one row for each of the 4 rows of the input, got .* \[1, 13\]"
    ):
        tt.scan(cell, x, tt.HiddenState(one))
    with pytest.raises(ValueError, match=r"hx\[0\] must have one row for each of the 4 rows"):
        tt.Recurrent(cell)(x, [tt.HiddenState(one)])
    with pytest.raises(
        ValueError, match=r"state must be a tuple of tensors \[B, ...\], got one tensor \[4, 13\]"
    ):
        tt.scan(cell, x, torch.zeros(B, H))
    with pytest.raises(
        ValueError, match=r"hx\[0\] must be a tuple of tensors \[B, ...\], got one tensor \[4, 13\]"
    ):
        tt.Recurrent(cell)(x, torch.zeros(1, B, H))


class NoTuple(LeakyCell):
    """Its state is a bare tensor, of which state[0] would be the first row."""

    def step(self, state: Any, u: Tensor) -> Any:
        return u


@pytest.mark.parametrize(
    ("cell", "advice"),
    [
        (tt.LSTMCell, r"got the class LSTMCell: make one, LSTMCell\(input_size, hidden_size\)"),
        (torch.nn.GRUCell(D, H), "got torch.nn's GRUCell: take throughtime.GRUCell"),
        (tt.LSTM(D, H), "got the layer LSTM: it runs over time by itself"),
        (torch.nn.Linear(D, H), "got Linear: write one as a subclass of throughtime.Cell"),
        (None, "got NoneType: write one as a subclass"),
    ],
)
def test_what_is_no_cell_is_refused_with_what_to_do(cell: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=f"cell must be a throughtime.Cell, {advice}"):
        tt.scan(cell, torch.randn(T, B, D))
    if not isinstance(cell, type):
        with pytest.raises(TypeError, match=f"cell must be a throughtime.Cell, {advice}"):
            tt.Recurrent(cell)
        with pytest.raises(TypeError, match=f"cell must be a throughtime.Cell, {advice}"):
            tt.Recurrent(lambda features: cell, D)


def test_a_function_that_needs_more_than_the_input_size_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"MinGRUCell\(3\) does not work: missing a required argument: 'hidden_size'"
    ):
        tt.Recurrent(tt.MinGRUCell, D)


def runs(cell: tt.Cell, x: Tensor, lengths: Tensor | None = None) -> list[Any]:
    """The ways in which a cell is run over time: over one layer, and over each of two directions."""
    return [
        lambda: tt.scan(cell, x, lengths=lengths),
        lambda: tt.scan(cell, x, lengths=lengths, reverse=True),
        lambda: tt.Recurrent(cell)(x, lengths=lengths),
        lambda: tt.Recurrent(lambda features: cell, D, bidirectional=True).trace(x, lengths=lengths),
    ]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_a_bare_tensor_as_a_state_is_refused(lengths: Tensor | None) -> None:
    for run in runs(NoTuple(D, H), torch.randn(T, B, D), lengths):
        with pytest.raises(
            tt.InputError,
            match=r"^what step of NoTuple returns must be a tuple of tensors \[B, ...\], got one tensor \[4, 13\]: make it "
            r"one, as throughtime.HiddenState\(h\) is$",
        ):
            run()


def test_a_bare_tensor_as_the_initial_state_is_refused() -> None:
    class Bare(LeakyCell):
        def initial_state(self, batch: int, **_: Any) -> Any:
            return torch.zeros(batch, self.hidden_size)

    with pytest.raises(tt.InputError, match="initial_state of Bare must be a tuple of tensors"):
        tt.scan(Bare(D, H), torch.randn(T, B, D), lengths=LENGTHS)
    with pytest.raises(tt.InputError, match="initial_state of Bare must be a tuple of tensors"):
        tt.Recurrent(Bare(D, H))


def test_a_state_with_more_tensors_than_before_is_refused() -> None:
    class Growing(LeakyCell):
        def step(self, state: Any, u: Tensor) -> Any:
            return (*state, u)

    for run in runs(Growing(D, H), torch.randn(T, B, D), LENGTHS):
        with pytest.raises(
            tt.InputError, match=r"what step of Growing returns must have 1 tensors, .* got 2"
        ):
            run()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_a_state_changed_in_place_is_refused(lengths: Tensor | None, mode: Any) -> None:
    class InPlace(LeakyCell):
        def step(self, state: Any, u: Tensor) -> Any:
            return tt.HiddenState(state.h.mul_(0.9).add_(u.detach()))

    class InPlaceLater(CountingCell):
        """Only a second tensor, and not at the first step."""

        def step(self, state: Any, u: Tensor) -> Any:
            if bool(state.seen[0] >= 2):
                state.grid.add_(1)
            return super().step(state, u)

    lengths = None if lengths is None else lengths.clamp(min=3)
    for cell in (InPlace(D, H), InPlaceLater(D, D)):
        with mode():
            for run in runs(cell, torch.randn(T, B, D), lengths)[: 4 if cell.hidden_size == H else 2]:
                with pytest.raises(
                    tt.InputError,
                    match=rf"^step of {type(cell).__name__} must not change its state in place: ",
                ):
                    run()


def test_a_cell_that_keeps_nan_or_its_state_object_is_not_refused() -> None:
    class Still(LeakyCell):
        def step(self, state: Any, u: Tensor) -> Any:
            return state

    start = tt.HiddenState(torch.full((B, H), float("nan")))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y, final = tt.scan(Still(D, H), torch.randn(T, B, D), tt.HiddenState(start.h.clone()))
            assert y.isnan().all() and final.h.isnan().all()


def test_a_projection_that_is_no_single_tensor_is_refused() -> None:
    class Pair(LeakyCell):
        def project(self, x: Tensor) -> Any:
            return self.mix(x), x

        def step(self, state: Any, u: Any) -> Any:
            return tt.HiddenState(u[0])

    for lengths in (None, LENGTHS):
        for run in runs(Pair(D, H), torch.randn(T, B, D), lengths):
            with pytest.raises(
                tt.InputError,
                match=r"^project of Pair must return one tensor \[T, B, ...\], got tuple: join its parts with torch.cat",
            ):
                run()

    class LastOnly(LeakyCell):
        def project(self, x: Tensor) -> Tensor:
            return self.mix(x[-1])

    for run in runs(LastOnly(D, H), torch.randn(T, B, D)):
        with pytest.raises(
            tt.InputError, match=r"project of LastOnly must return one row for each of the 7 steps"
        ):
            run()


def test_an_input_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be a tensor \[T, B, ...\], got list"):
        tt.scan(LeakyCell(D, H), [1.0])  # type: ignore[arg-type]
