"""Influence against closed forms and finite differences, and what it leaves as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.errors import InputError
from throughtime.flow import influence
from throughtime.models import ModelConfig
from throughtime.models.build import many_to_many, many_to_one, symbol_embedding

STEPS, SYMBOLS = 7, 11


def model_of(cell: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = ModelConfig(cell=cell, hidden=13, **{"embedding": 5, **options})
    made = many_to_many(config, symbol_embedding(config, SYMBOLS), SYMBOLS)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(2.0)
    return made.double()


IDS = torch.randint(SYMBOLS, (STEPS, 3), generator=torch.Generator().manual_seed(1))


def brute(run: Any, x: Tensor) -> Tensor:
    """Finite differences of one example [T, D] -> [T, q], block by block."""
    step, result = 1e-6, torch.zeros(len(x), len(x), dtype=torch.float64)
    with torch.no_grad():
        for k in range(len(x)):
            for d in range(x.shape[1]):
                change = torch.zeros_like(x)
                change[k, d] = step
                result[:, k] += ((run(x + change) - run(x - change)) / (2 * step)).square().sum(-1)
    return result.sqrt()


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "mingru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_is_what_finite_differences_give(cell: str, bidirectional: bool) -> None:
    model = model_of(cell, layers=2, bidirectional=bidirectional)
    found = influence(model, IDS, examples=2)

    def run(vectors: Tensor) -> Tensor:
        return model.head(model.layers(vectors[:, None])[0])[:, 0]

    expected = torch.stack([brute(run, model.embedding(IDS[:, b]).detach()) for b in (0, 1)]).mean(0)
    torch.testing.assert_close(found.matrix, expected, rtol=1e-6, atol=1e-8)
    assert (found.wrt, found.examples, found.directions) == ("embedding", 2, None)
    above = torch.ones(STEPS, STEPS).triu(1).bool()
    if bidirectional:
        assert bool((found.matrix > 0).all())
    else:
        assert found.matrix[above].tolist() == [0.0] * int(above.sum())
        assert bool((found.matrix[~above] > 0).all())


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_forward_network_gives_an_exact_triangle_on_every_backend(cell: str, dtype: torch.dtype) -> None:
    matrix = influence(model_of(cell, embedding="onehot").to(dtype), IDS).matrix
    assert matrix.triu(1).count_nonzero() == 0
    assert bool((matrix.diagonal() > 0).all())


def test_a_linear_network_in_closed_form() -> None:
    """`o_t = h_t`, `d o_t / d x_k = W^{t-k} U`."""
    torch.manual_seed(2)
    layer = tt.RNN(5, 7, nonlinearity="identity", dtype=torch.float64)
    x = torch.randn(STEPS, 2, 5, dtype=torch.float64)
    found = influence(layer, x, torch.randn(1, 2, 7, dtype=torch.float64))
    u, w = layer.weight_ih_l0.detach(), layer.weight_hh_l0.detach()
    expected = torch.zeros(STEPS, STEPS, dtype=torch.float64)
    for t in range(STEPS):
        for k in range(t + 1):
            expected[t, k] = (torch.linalg.matrix_power(w, t - k) @ u).norm()
    torch.testing.assert_close(found.matrix, expected)
    assert found.wrt == "input"


def test_the_state_counts_and_so_does_which_example() -> None:
    model = model_of("lstm")
    state = tuple(torch.randn(1, 3, 13, dtype=torch.float64) for _ in "hc")
    with_state = influence(model, IDS, state).matrix
    assert not torch.allclose(with_state, influence(model, IDS).matrix)
    first = tuple(part[:, :1] for part in state)
    torch.testing.assert_close(with_state, influence(model, IDS[:, :1], first).matrix)
    assert not torch.allclose(with_state, influence(model, IDS, state, examples=3).matrix)


def test_random_directions_estimate_the_same_and_keep_the_triangle() -> None:
    model = model_of("gru")
    exact, rough = influence(model, IDS).matrix, influence(model, IDS, directions=2000)
    below = torch.ones(STEPS, STEPS).tril().bool()
    torch.testing.assert_close(rough.matrix[below], exact[below], rtol=0.1, atol=0)
    assert rough.matrix.triu(1).count_nonzero() == 0
    assert rough.directions == 2000
    assert torch.equal(influence(model, IDS, directions=4).matrix, influence(model, IDS, directions=4).matrix)


def test_the_model_is_left_as_it_was() -> None:
    model = model_of("lstm", layers=2, dropout=0.5).train()
    model.head.eval()
    random = torch.get_rng_state()
    first = influence(model, IDS).matrix
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(first, influence(model, IDS).matrix)  # no dropout in it
    assert model.training and model.layers.training and not model.head.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_parameters_and_no_grad_measure_the_same() -> None:
    model = model_of("gru")
    expected = influence(model, IDS).matrix
    with torch.no_grad():
        assert torch.equal(expected, influence(model.requires_grad_(False), IDS).matrix)


def test_more_outputs_than_rows_run_side_by_side() -> None:
    torch.manual_seed(3)
    layer = tt.GRU(3, 70, dtype=torch.float64)
    x = torch.randn(5, 1, 3, dtype=torch.float64)
    told: list[tuple[int, int]] = []
    found = influence(layer, x, progress=lambda done, total: told.append((done, total)))
    expected = brute(lambda one: layer(one[:, None])[0][:, 0].detach(), x[:, 0])
    torch.testing.assert_close(found.matrix, expected, rtol=1e-6, atol=1e-8)
    assert told[-1] == (350, 350)
    assert told == sorted(told)


def test_outputs_that_no_input_reaches_are_zero() -> None:
    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), x.shape[1], 2)

    assert influence(Deaf(), torch.ones(5, 1, 3)).matrix.tolist() == [[0.0] * 5] * 5


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (IDS[:, 0], {}, r"ids \[T, B\] or numbers \[T, B, D\].*got torch.int64 \[7\]"),
        (IDS[:0], {}, r"not empty.*\[0, 3\]"),
        (IDS, {"directions": 0}, "directions must be at least 1"),
        (IDS, {"examples": 4}, "between 1 and the batch's 3, got 4"),
        (IDS, {"symbols": "abc"}, "one for each of 7 steps, got 3"),
        (IDS, {"state": torch.zeros(1, 2, 13)}, r"must be \[..., 3, H\].*got \[1, 2, 13\]"),
    ],
)
def test_what_does_not_fit_is_refused(x: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        influence(model_of("gru"), x, **options)


def test_models_of_another_form_are_refused_in_words() -> None:
    class OneHotInside(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return nn.functional.one_hot(ids, SYMBOLS).double()

    with pytest.raises(InputError, match="give the vectors themselves as x"):
        influence(OneHotInside(), IDS)
    with pytest.raises(InputError, match="got one with batch_first"):
        influence(tt.GRU(3, 4, batch_first=True), torch.ones(5, 2, 3))
    with pytest.raises(InputError, match=r"outputs must be \[T, B, q\].*got \[5, 1\]"):
        influence(nn.Flatten(1), torch.ones(5, 2, 1))


def test_a_layer_with_batch_first_inside_a_model_is_refused() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.rnn = torch.nn.Embedding(9, 5), torch.nn.LSTM(5, 7, batch_first=True)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.rnn(self.embedding(ids))[0]
            return outputs

    with pytest.raises(InputError, match="one whose layer rnn has batch_first"):
        influence(Model(), torch.randint(9, (4, 7)))


@pytest.mark.parametrize("pooling", ["last", "max", "attention"])
def test_a_model_with_one_output_for_a_sequence_has_a_row_for_each_output(pooling: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(cell="gru", hidden=6, embedding=5, pooling=pooling, bidirectional=pooling != "last")
    model = many_to_one(config, symbol_embedding(config, SYMBOLS), 4).double()
    names = ("a", "b", "c", "d")
    found = influence(model, IDS, outputs=names, examples=2, lengths=[STEPS, STEPS - 2, STEPS])
    assert found.outputs == names and found.matrix.shape == (4, STEPS)
    lengths = (STEPS, STEPS - 2)
    expected = torch.full((2, 4, STEPS), torch.nan, dtype=torch.float64)
    for b, length in enumerate(lengths):
        vectors = model.embedding(IDS[:length, b : b + 1]).detach()

        def run(x: Tensor) -> Tensor:
            return model.head(model._pool(model.layers(x)[0], None))[0]

        step = 1e-6
        for k in range(length):
            squares = torch.zeros(4, dtype=torch.float64)
            for d in range(vectors.shape[2]):
                change = torch.zeros_like(vectors)
                change[k, 0, d] = step
                with torch.no_grad():
                    squares += ((run(vectors + change) - run(vectors - change)) / (2 * step)).square()
            expected[b, :, k] = squares
    torch.testing.assert_close(found.matrix, expected.sqrt().nanmean(0), rtol=1e-5, atol=1e-8)
    with pytest.raises(InputError, match="3 outputs are named"):
        influence(model, IDS, outputs=names[:3])
    with pytest.raises(InputError, match="leave one out"):
        influence(model, IDS, outputs=names, directions=3)
