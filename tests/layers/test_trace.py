"""`trace` shows every step's states and gates as stepping the cell by hand gives them, and changes nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime as tt

T, B, D, H = 7, 4, 3, 13
LENGTHS = torch.tensor([4, 7, 0, 5])
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("GRU", {}),
    ("GRU", {"reset_after": False}),
    ("LSTM", {}),
    ("LSTM", {"peepholes": True}),
]


def leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


def make(name: str, options: dict[str, Any], **more: Any) -> Any:
    layer = getattr(tt, name)(D, H, **options, **more).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def poisoned() -> Tensor:
    x = torch.randn(T, B, D, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        x[length:, row] = float("nan")
    return x


def gates_by_hand(
    name: str, cell: Any, x: Tensor, state: list[Tensor], after: list[Tensor]
) -> dict[str, Tensor]:
    """The gates from the cell's own parameters, one product at a time."""
    h = state[0]
    a_x = x @ cell.weight_ih.T + cell.bias_ih
    a_h = h @ cell.weight_hh.T + cell.bias_hh
    if name == "RNN":
        return {"a": a_x + a_h}
    if name == "GRU":
        r, z = torch.sigmoid(a_x + a_h)[:, : 2 * H].chunk(2, -1)
        reset = (
            r * a_h[:, 2 * H :]
            if cell.reset_after
            else (r * h) @ cell.weight_hh[2 * H :].T + cell.bias_hh[2 * H :]
        )
        return {"r": r, "z": z, "n": torch.tanh(a_x[:, 2 * H :] + reset)}
    i, f, g, o = (a_x + a_h).chunk(4, -1)
    if cell.weight_peephole is not None:
        p = cell.weight_peephole.chunk(3)
        i, f, o = i + p[0] * state[1], f + p[1] * state[1], o + p[2] * after[1]
    return {"i": i.sigmoid(), "f": f.sigmoid(), "g": g.tanh(), "o": o.sigmoid()}


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_states_and_gates_are_those_of_stepping_the_cell_by_hand(name: str, options: dict[str, Any]) -> None:
    layer = make(name, options, bidirectional=True)
    x = poisoned()
    hx = [torch.randn(2, B, H, dtype=torch.float64) for _ in range(2 if name == "LSTM" else 1)]
    trace = layer.trace(x, tuple(hx) if name == "LSTM" else hx[0], lengths=LENGTHS)
    assert list(trace.steps) == ["l0", "l0_reverse"]
    for direction, suffix in enumerate(("_l0", "_l0_reverse")):
        cell = getattr(tt, f"{name}Cell")(D, H, **options).double()
        names = [f"{key}{suffix}" for key in cell.state_dict()]
        cell.load_state_dict(
            dict(zip(cell.state_dict(), (layer.state_dict()[n] for n in names), strict=True))
        )
        seen = trace.steps[suffix.removeprefix("_")]
        for row, length in enumerate(LENGTHS.tolist()):
            state = [h[direction, row : row + 1] for h in hx]
            for t in range(length)[:: -1 if direction else 1]:
                new = leaves(cell(x[t, row : row + 1], tuple(state) if name == "LSTM" else state[0]))
                expected = dict(zip(("h", "c"), new, strict=False))
                expected |= gates_by_hand(name, cell, x[t, row : row + 1], state, new)
                assert seen.keys() == expected.keys()
                for key, value in expected.items():
                    torch.testing.assert_close(seen[key][t, row : row + 1], value)
                state = new
            assert all((value[length:, row] == 0).all() for value in seen.values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_what_it_returns_is_what_forward_returns(name: str, options: dict[str, Any], training: bool) -> None:
    layer = make(
        name,
        options,
        num_layers=2,
        bidirectional=True,
        dropout=0.3,
        zoneout=0.2,
        recurrent_dropout=0.2,
        batch_first=True,
        backend="reference",  # trace runs there: the same bits
    ).train(training)
    x = poisoned().transpose(0, 1)
    torch.manual_seed(1)
    expected = layer(x, lengths=LENGTHS)
    torch.manual_seed(1)
    output, hx, steps = layer.trace(x, lengths=LENGTHS)
    torch.testing.assert_close((output, hx), expected, rtol=0, atol=0)
    assert list(steps) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    last = torch.cat([steps["l1"]["h"], steps["l1_reverse"]["h"]], -1)
    torch.testing.assert_close(last.transpose(0, 1), output, rtol=0, atol=0)


def test_it_agrees_with_the_backend_that_forward_chooses() -> None:
    layer = tt.LSTM(D, H)
    x = torch.randn(T, B, D)
    torch.testing.assert_close(layer.trace(x)[:2], layer(x))
    trace = layer.trace(x[:, 0])
    torch.testing.assert_close((trace.output, trace.hx), layer(x[:, 0]))
    assert trace.steps["l0"]["c"].shape == (T, 1, H)


@pytest.mark.parametrize(
    "make_layer", [partial(make, "LSTM", {}), lambda: tt.Recurrent(tt.LSTMCell(D, H)).double()]
)
def test_the_rows_of_a_packed_sequence_are_in_the_caller_s_order(make_layer: Any) -> None:
    layer, lengths = make_layer(), torch.tensor([4, 7, 2, 5])
    x = torch.randn(T, B, D, dtype=torch.float64)
    packed = layer.trace(pack_padded_sequence(x, lengths, enforce_sorted=False))
    padded = layer.trace(x, lengths=lengths)
    torch.testing.assert_close(packed.steps, padded.steps)
    torch.testing.assert_close(packed.hx, padded.hx)


def test_a_trace_is_differentiable() -> None:
    layer = make("LSTM", {})
    x = poisoned().requires_grad_()
    steps = layer.trace(x, lengths=LENGTHS).steps["l0"]
    sum((value * value).sum() for value in steps.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())
    for row, length in enumerate(LENGTHS.tolist()):
        assert (x.grad[length:, row] == 0).all() and x.grad[:length, row].ne(0).all()


def test_any_cell_can_be_traced() -> None:
    layer = tt.Recurrent(partial(tt.MinGRUCell, hidden_size=H), D, num_layers=2, bidirectional=True).double()
    x = poisoned()
    trace = layer.trace(x, lengths=LENGTHS)
    torch.testing.assert_close((trace.output, trace.hx), layer(x, lengths=LENGTHS), rtol=0, atol=0)
    assert {tuple(kept) for kept in trace.steps.values()} == {("h", "z", "n")}
    first = torch.sigmoid(layer.cells[0].project(x[:4, 0]).chunk(2, -1)[0])
    torch.testing.assert_close(trace.steps["l0"]["z"][:4, 0], first)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_a_visit_may_change_the_state_and_what_follows_reads_it(name: str) -> None:
    layer = make(name, {}, num_layers=2)
    x = torch.randn(T, B, D, dtype=torch.float64)
    plain = layer.trace(x)

    def visit(number: int, step: int, state: Any) -> None:
        if (number, step) == (0, 3):
            state.h[:, 2] = 0.5

    with torch.no_grad():
        changed = layer.trace(x, visit=visit)
    below, above = changed.steps["l0"]["h"], changed.steps["l1"]["h"]
    assert torch.equal(below[:3], plain.steps["l0"]["h"][:3])
    assert bool((below[3, :, 2] == 0.5).all())
    first = layer.trace(x[:4]).hx
    own = [part[:1].clone() for part in (first if name == "LSTM" else (first,))]
    own[0][0, :, 2] = 0.5
    alone = make(name, {})
    alone.load_state_dict({key: value for key, value in layer.state_dict().items() if key.endswith("l0")})
    wanted, _ = alone(x[4:], tuple(own) if name == "LSTM" else own[0])
    torch.testing.assert_close(below[4:], wanted)  # its own layer goes on from the changed state
    assert torch.equal(above[:3], plain.steps["l1"]["h"][:3]) and not torch.equal(
        above[3], plain.steps["l1"]["h"][3]
    )


def test_a_visit_of_a_layer_over_any_cell() -> None:
    layer = tt.Recurrent(partial(tt.MinGRUCell, hidden_size=H), D, num_layers=2).double()
    seen: list[tuple[int, int]] = []

    def visit(number: int, step: int, state: Any) -> None:
        seen.append((number, step))
        state[0][:, 1] = 2.0

    with torch.no_grad():
        found = layer.trace(torch.randn(T, B, D, dtype=torch.float64), visit=visit)
    assert seen == [(number, step) for number in range(2) for step in range(T)]
    assert bool((found.output[..., 1] == 2).all())
