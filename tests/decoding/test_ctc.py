"""CTC decoding beside sums over all paths: exact texts, any chunks, batches, language models."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from throughtime.decoding import ctc
from throughtime.errors import InputError


def outputs(steps, symbols, seed=0, sharp=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(steps, symbols, generator=generator, dtype=torch.float64)).log_softmax(-1)


def text_of(path, blank=0):
    """The definition: join equal neighbours, then remove blanks."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)


def all_texts(frames, blank=0):
    """Log P of every text, and of its likeliest path, by a sum over all paths."""
    total, best = defaultdict(float), {}
    for path in itertools.product(range(frames.shape[1]), repeat=len(frames)):
        score = sum(float(frames[t, symbol]) for t, symbol in enumerate(path))
        text = text_of(path, blank)
        total[text] += math.exp(score)
        if text not in best or score > best[text][0]:
            best[text] = (score, path)
    return {text: math.log(value) for text, value in total.items()}, best


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_has_the_probability_of_every_text(seed, blank):
    frames = outputs(6, 3, seed)
    expected, _ = all_texts(frames.numpy(), blank)
    decoder = ctc.Beam(10_000, blank=blank)
    decoder.feed(frames)
    found = {each.symbols: each.score for each in decoder.best(10_000)}
    assert set(found) == set(expected)
    for text, score in expected.items():
        assert found[text] == pytest.approx(score, abs=1e-12), text
    scores = [each.score for each in decoder.best(10_000)]
    assert scores == sorted(scores, reverse=True)


def test_a_beam_with_a_language_model_and_a_length_bonus_ranks_by_the_stated_sum():
    frames, alpha, beta = outputs(5, 4, 3, sharp=0.7), 1.5, 0.3
    table = torch.randn(4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def step(state, symbols):
        """Bigrams, with a state that counts what was read: its axis -2 is the batch."""
        before = torch.zeros(1, len(symbols), 1) if state is None else state["read"] + 1
        return table[symbols], {"read": before}

    chances = table.clone()
    chances[:, 0] = -math.inf
    chances = chances.log_softmax(-1)
    plain, _ = all_texts(frames.numpy())
    expected = {
        text: score
        + sum(
            alpha * float(chances[before, after]) + beta for before, after in itertools.pairwise((0, *text))
        )
        for text, score in plain.items()
    }
    found = ctc.beam(frames[:, None], n=10_000, width=10_000, lm=step, alpha=alpha, beta=beta)[0]
    assert {each.symbols for each in found} == set(expected)
    for each in found:
        assert each.score == pytest.approx(expected[each.symbols], abs=1e-10)
    best = max(plain, key=plain.get)
    assert found[0].symbols != best, "the language model must matter in this test"
    nothing = ctc.beam(frames[:, None], width=10_000, lm=step, alpha=0, beta=0)[0][0]
    assert nothing.symbols == best and nothing.score == pytest.approx(plain[best], abs=1e-10)


def test_the_rows_of_a_language_models_state_follow_their_texts():
    """A model that knows the whole text only from its state: a wrong row would give another distribution."""
    weights = torch.randn(50, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def step(state, symbols):
        code = (
            torch.zeros(1, len(symbols), 1, dtype=torch.int64)
            if state is None
            else state * 3 + symbols[:, None]
        )
        return weights[code[0, :, 0] % 50], code

    frames = outputs(7, 3, 5, sharp=1.0)
    for each in ctc.beam(frames[:, None], n=4, width=4, lm=step, alpha=1.0)[0]:
        code, bonus = 0, 0.0
        for place, symbol in enumerate((0, *each.symbols)):
            code = 0 if place == 0 else code * 3 + symbol
            if place < len(each.symbols):
                row = weights[code % 50].clone()
                row[0] = -math.inf
                bonus += float(row.log_softmax(-1)[each.symbols[place]])
        plain = ctc.beam(frames[:, None], n=10_000, width=10_000)[0]
        exact = next(other.score for other in plain if other.symbols == each.symbols)
        assert each.score <= exact + bonus + 1e-9  # a narrow beam has some of the paths
        assert each.score > exact + bonus - 1.0


def test_greedy_is_the_text_of_the_likeliest_path():
    frames = torch.stack([outputs(7, 3, seed) for seed in range(5)], dim=1)
    lengths = torch.tensor([7, 5, 1, 6, 7])
    for row, found in enumerate(ctc.greedy(frames, lengths)):
        own = frames[: lengths[row], row]
        path = own.argmax(1).tolist()
        assert found.symbols == text_of(path)
        assert found.score == pytest.approx(float(own.max(1).values.sum()))
        assert [path[frame] for frame in found.frames] == list(found.symbols)
        assert all(frame == 0 or path[frame - 1] != path[frame] for frame in found.frames)


@pytest.mark.parametrize("seed", range(20))
def test_width_1_is_greedy_where_every_frame_is_sure(seed):
    generator = torch.Generator().manual_seed(seed)
    best = torch.randint(4, (40, 1), generator=generator)
    rest = torch.rand(40, 4, generator=generator).scatter(1, best, 0)
    sure = 0.75 + 0.2 * torch.rand(40, 1, generator=generator)
    frames = (rest / rest.sum(1, keepdim=True) * (1 - sure)).scatter(1, best, sure).log()[:, None]
    assert ctc.beam(frames, width=1)[0][0].symbols == ctc.greedy(frames)[0].symbols


def test_width_1_is_not_greedy_where_frames_are_unsure():
    frames = torch.tensor([[0.1, 0.9], [0.51, 0.49], [0.4, 0.6]]).log()[:, None]
    assert ctc.greedy(frames)[0].symbols == (1, 1)
    assert ctc.beam(frames, width=1)[0][0].symbols == (1,)


def test_a_batch_decodes_what_each_row_decodes_alone():
    frames = torch.stack([outputs(9, 5, seed) for seed in range(4)], dim=1)
    lengths = torch.tensor([9, 4, 7, 1])
    for row, length in enumerate(lengths.tolist()):
        frames[length:, row] = torch.nan
    for found in (ctc.greedy(frames, lengths), [each[0] for each in ctc.beam(frames, lengths, width=6)]):
        assert len(found) == 4
    for row, length in enumerate(lengths.tolist()):
        alone = frames[:length, row : row + 1]
        assert ctc.greedy(frames, lengths)[row] == ctc.greedy(alone)[0]
        assert ctc.beam(frames, lengths, n=3, width=6)[row] == ctc.beam(alone, n=3, width=6)[0]


def bigram(state, symbols):
    return torch.eye(6)[symbols] * 3, torch.zeros(1, len(symbols), 2)


@pytest.mark.parametrize(
    "make",
    [ctc.Greedy, lambda: ctc.Beam(7), lambda: ctc.Beam(5, prune=0.02, lm=bigram, alpha=0.4)],
    ids=["greedy", "beam", "lm"],
)
def test_chunks_change_nothing(make):
    frames = outputs(60, 6, 8, sharp=3.0)
    whole = make()
    expected = whole.feed(frames)
    expected += whole.flush()
    assert len(expected) > 5
    for size in (1, 3, 17):
        decoder, found, early = make(), [], 0
        for chunk in frames.split(size):
            found += decoder.feed(chunk)
        early = len(found)
        found += decoder.feed(frames[:0]) + decoder.flush()
        assert found == expected and early > 0
    # A copy goes on by itself, and a decoder that was flushed is at a new beginning.
    decoder = make()
    start = decoder.feed(frames[:31])
    other = decoder.copy()
    ends = [start + each.feed(frames[31:]) + each.flush() for each in (decoder, other)]
    assert ends == [expected, expected]
    assert decoder.feed(frames) + decoder.flush() == expected


def counting(state, symbols):
    """A language model whose state matters: it adds up what it has read."""
    sums = symbols[:, None].double() if state is None else state[0] + symbols[:, None]
    return (sums * torch.arange(1, 7)).sin().float() * 4, (sums, "a state is more than tensors")


@pytest.mark.parametrize(
    "make",
    [
        ctc.Greedy,
        lambda: ctc.Beam(7),
        lambda: ctc.Beam(5, lm=bigram),
        lambda: ctc.Beam(9, lm=counting, alpha=0.8),
    ],
    ids=["greedy", "beam", "lm", "lm with a state"],
)
@pytest.mark.parametrize("sharp", [0.5, 3.0])
def test_a_state_as_json_goes_on_elsewhere(make, sharp):
    frames = outputs(60, 6, 12, sharp=sharp)
    whole = make()
    expected = whole.feed(frames)
    score = whole.score
    expected += whole.flush()
    found, state = [], json.loads(json.dumps(make().to_json()))
    for chunk in frames.split(7):
        decoder = make()
        decoder.feed(frames[3:9])  # whatever it has read before
        decoder.restore(state)
        found += decoder.feed(chunk)
        state = json.loads(json.dumps(decoder.to_json()))
    assert decoder.score == score
    assert found + decoder.flush() == expected


def test_what_a_beam_has_returned_never_changes():
    frames = outputs(80, 4, 11, sharp=1.0)
    decoder = ctc.Beam(8)
    for frame in frames.split(1):
        said = [each.symbol for each in decoder.feed(frame)]
        certain = decoder._certain
        assert all(len(each.symbols) >= certain for each in decoder.best(8))
        firsts = {each.symbols[:certain] for each in decoder.best(8)}
        assert len(firsts) == 1 and list(firsts.pop())[certain - len(said) :] == said


def test_a_text_that_left_the_beam_and_returned_is_still_one_text():
    for seed in range(30):
        decoder = ctc.Beam(3)
        decoder.feed(outputs(40, 3, seed, sharp=0.7))
        texts = [each.symbols for each in decoder.best(3)]
        assert len(set(texts)) == len(texts)


def test_pruning_leaves_out_unlikely_symbols_alone():
    frames = torch.tensor([[0.9, 0.095, 0.005], [0.5, 0.495, 0.005]]).log()
    found = ctc.beam(frames[:, None], n=9, width=9, prune=0.01)[0]
    assert {each.symbols for each in found} == {(), (1,)}
    exact, _ = all_texts(frames.numpy())
    assert all(each.score == pytest.approx(exact[each.symbols], abs=1e-6) for each in found)


def test_an_alignment_is_the_likeliest_path_of_its_text():
    frames = outputs(6, 3, 1)
    _, best = all_texts(frames.numpy())
    assert len(best) > 20
    for text, (score, path) in best.items():
        found = ctc.align(frames, text)
        assert text_of(found) == text
        assert sum(float(frames[t, symbol]) for t, symbol in enumerate(found)) == pytest.approx(score), path
    with pytest.raises(InputError, match="a text of 4 symbols needs at least 7 frames, got 6"):
        ctc.align(frames, [1, 1, 1, 1])
    assert ctc.least_frames([1, 2, 2, 1]) == 5 and ctc.least_frames([]) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ctc.Beam(0), "width of a beam must be at least 1, got 0"),
        (lambda: ctc.Beam(prune=1.0), "prune must be a probability"),
        (lambda: ctc.Beam(alpha=-1.0), "alpha must be"),
        (lambda: ctc.Greedy().feed(np.zeros(3)), r"expected frames \[t, V\]"),
        (lambda: ctc.Greedy().feed(np.full((1, 3), np.nan)), "hold NaN"),
        (lambda: ctc.greedy(torch.zeros(3, 2)), r"expected \[T, B, V\]"),
        (lambda: ctc.Beam(prune=0.9).feed(np.full((1, 2), -np.inf)), "leaves no text"),
        (lambda: ctc.Beam(lm=lambda s, x: (torch.zeros(1, 9), s)).feed(np.zeros((1, 2))), r"logits \[N, 2\]"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(InputError, match=words):
        call()
