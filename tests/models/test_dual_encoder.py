"""Two encoders: unit vectors, scores against an index that is the model's state, and padding that is never read."""

from __future__ import annotations

import math

import pytest
import torch

from throughtime.data.query_pairs import pair_batch
from throughtime.models.config import ModelConfig
from throughtime.models.dual_encoder import LARGEST_SCALE, DualEncoder, dual_encoder

SYMBOLS, SIZE = 11, 6


def model_of(separate: bool = False, states_only: bool = False, **settings: object) -> DualEncoder:
    config = ModelConfig(**{"hidden": 5, "embedding": 3, "cell": "gru", "pooling": "attention", **settings})  # type: ignore[arg-type]
    model = dual_encoder(config, SYMBOLS, SIZE, separate=separate, states_only=states_only)
    for parameter in model.parameters():  # large weights, so that differences show
        torch.nn.init.normal_(parameter, std=0.7)
    return model.double().eval()


def texts(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator).tolist()
    return [torch.randint(SYMBOLS, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"pooling": "last"}, {"pooling": "mean", "bidirectional": True}, {"states_only": True}]
)
def test_scores_are_scaled_cosines_of_each_text_alone(separate: bool, settings: dict[str, object]) -> None:
    model = model_of(separate, **settings)  # type: ignore[arg-type]
    queries, passages = texts(4), texts(4, 1)
    batch = pair_batch(queries, passages, torch.arange(4))
    assert batch.lengths is not None and int(batch.lengths.min()) < batch.steps
    scores, state = batch.run(model)
    assert state is None  # pairs are complete in themselves
    q = torch.cat([model.encode(ids[:, None]) for ids in queries])
    p = torch.cat([model.encode_passages(ids[:, None]) for ids in passages])
    torch.testing.assert_close(q.norm(dim=1), torch.ones(4, dtype=torch.float64))
    scale = min(math.exp(model.log_scale.item()), LARGEST_SCALE)
    torch.testing.assert_close(scores, scale * q @ p.t(), atol=1e-12, rtol=0)
    same = torch.cat([model.encode(ids[:, None]) for ids in passages])
    assert torch.allclose(same, p) is not separate


def test_the_state_is_the_index() -> None:
    """Passages in two batches, then queries, then a batch of pairs: the scores are those of all passages at once."""
    model = model_of()
    queries, passages = texts(3), texts(5, 1)
    parts = [
        pair_batch(passages[a:b], passages[a:b], torch.arange(b - a)).rows(slice(1, None, 2))
        for a, b in ((0, 2), (2, 5))
    ]
    asked = pair_batch(queries, queries, torch.arange(3)).rows(slice(0, None, 2))
    state = None
    for number, part in enumerate(parts):
        scores, state = part.run(model, state)
        assert scores.shape == (0, (2, 5)[number])
    scores, after = asked.run(model, state)
    assert after is state
    whole = torch.cat([model.encode_passages(ids[:, None]) for ids in passages])
    expected = model.scale * torch.cat([model.encode(ids[:, None]) for ids in queries]) @ whole.t()
    torch.testing.assert_close(scores, expected, atol=1e-12, rtol=0)
    pairs = pair_batch(queries, queries, torch.arange(3))
    scores, after = pairs.run(model, state)
    assert scores.shape == (3, 5 + 3) and after is state
    torch.testing.assert_close(scores[:, :5], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize("separate", [False, True])
def test_padding_changes_nothing(pooling: str, separate: bool) -> None:
    model = model_of(separate, pooling=pooling)
    batch = pair_batch(texts(4), texts(4, 1), torch.arange(4))
    expected, _ = batch.run(model)
    inside = torch.arange(batch.steps)[:, None] < batch.lengths
    other = batch._replace(inputs=torch.where(inside, batch.inputs, 7))
    longer = batch._replace(inputs=torch.cat([other.inputs, torch.full((3, batch.size), 4)]))
    for each in (other, longer):
        torch.testing.assert_close(each.run(model)[0], expected, atol=1e-12, rtol=0)
    assert not torch.equal(other.inputs, batch.inputs)


def test_as_many_rows_as_steps() -> None:
    model = model_of()
    pair = [torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6])], [torch.tensor([7, 8]), torch.tensor([9])]
    batch = pair_batch(*pair, torch.arange(2))
    assert batch.steps == batch.size == 4
    q = torch.cat([model.encode(ids[:, None]) for ids in pair[0]])
    p = torch.cat([model.encode_passages(ids[:, None]) for ids in pair[1]])
    torch.testing.assert_close(batch.run(model)[0], model.scale * q @ p.t(), atol=1e-12, rtol=0)


def test_the_scale_has_a_limit_and_a_gradient() -> None:
    model = model_of()
    batch = pair_batch(texts(3), texts(3, 1), torch.arange(3))
    batch.run(model)[0].logsumexp(1).sum().backward()
    assert all(
        parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        for parameter in model.parameters()
    )
    with torch.no_grad():
        model.log_scale.fill_(50.0)
    assert batch.run(model)[0].abs().max().item() <= LARGEST_SCALE * (1 + 1e-12)


def test_an_untrained_encoder_finds_the_text_with_the_same_symbols() -> None:
    """What the symbols beside the states are for: without them it does not."""
    torch.manual_seed(1)
    found = {}
    for states_only in (False, True):
        model = dual_encoder(
            ModelConfig(hidden=32, embedding=256, pooling="last"), 500, 256, states_only=states_only
        ).eval()
        passages = [torch.randint(500, (30,)) for _ in range(60)]
        queries = [each[torch.randperm(30)[:12]] for each in passages]
        scores, _ = pair_batch(queries, passages, torch.arange(60)).run(model)
        found[states_only] = float((scores.argmax(1) == torch.arange(60)).float().mean())
    assert found[False] > 0.9 > found[True] + 0.4
