"""Metrics of replies against brute force, and in parts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from throughtime.data.batch import IGNORE, Batch
from throughtime.metrics.calibration import fit_logistic
from throughtime.metrics.replies import (
    BUCKETS,
    CandidateMRR,
    CandidateRecall,
    Distinct,
    ExactReplies,
    HistoryGain,
    WrittenReplies,
    candidate_scores,
    row_log_likelihoods,
)

V, END = 11, 10


def groups(sizes, steps=7, seed=0):
    """A batch of groups of so many rows: logits, batch, and the symbols of each row with the end."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    logits = 3 * torch.randn(steps, rows, V, generator=generator)
    lengths = torch.randint(1, steps + 1, (rows,), generator=generator)
    lengths[0] = steps
    inputs = torch.randint(0, END, (steps, rows), generator=generator)
    written = [[*inputs[1 : int(n), row].tolist(), END] for row, n in enumerate(lengths)]
    targets = torch.full((steps, rows), IGNORE)
    row = 0
    for size in sizes:
        targets[: int(lengths[row]), row] = torch.tensor(written[row])
        row += size
    for row, length in enumerate(lengths):
        logits[int(length) :, row] = float("nan")
        inputs[int(length) :, row] = 10**6  # padding may hold anything
    return logits, Batch.of(inputs, targets, lengths), written


def likelihoods(logits, written):
    return [
        sum(float(logits[t, row].double().log_softmax(-1)[symbol]) for t, symbol in enumerate(symbols))
        / len(symbols)
        for row, symbols in enumerate(written)
    ]


def test_the_mean_log_likelihood_of_rows_with_and_without_targets():
    logits, batch, written = groups([3, 2, 1, 7])
    expected = likelihoods(logits, written)
    torch.testing.assert_close(
        row_log_likelihoods(logits, batch, END),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-5,
        atol=1e-6,
    )


def test_recall_and_mrr_are_those_of_sorting_and_add_up():
    parts = [groups([3, 10, 1, 4], seed=1), groups([2, 2, 10], seed=2)]
    ranks = []
    for (logits, _, written), sizes in zip(parts, ([3, 10, 1, 4], [2, 2, 10]), strict=True):
        scores, row = likelihoods(logits, written), 0
        for size in sizes:
            own = scores[row : row + size]
            if size > 1:  # a reply without candidates is not ranked
                ranks.append(sorted(own, reverse=True).index(own[0]) + 1)
            row += size
    assert len(set(ranks)) > 2
    scores = candidate_scores(END)
    metrics = [CandidateRecall(1, scores), CandidateRecall(2, scores), CandidateMRR(scores)]
    halves = [[CandidateRecall(1, candidate_scores(END)), CandidateMRR(candidate_scores(END))] for _ in parts]
    for place, (logits, batch, _) in enumerate(parts):
        for metric in (*metrics, *halves[place]):
            metric.update(logits, batch, torch.zeros(()))
    assert metrics[0].value() == pytest.approx(sum(rank == 1 for rank in ranks) / len(ranks))
    assert metrics[1].value() == pytest.approx(sum(rank <= 2 for rank in ranks) / len(ranks))
    assert metrics[2].value() == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    for whole, first, second in zip((metrics[0], metrics[2]), *halves, strict=True):
        assert torch.equal(whole.totals, first.totals + second.totals)
    assert [metric.name for metric in metrics] == ["recall@1", "recall@2", "mrr"]
    assert math.isnan(CandidateMRR(candidate_scores(END)).value())


def test_a_tie_and_a_nan_count_against_the_true_reply():
    logits, batch, _ = groups([3], seed=4)
    same = batch._replace(inputs=batch.inputs[:, :1].expand(-1, 3), lengths=batch.lengths[:1].expand(3))
    metric = CandidateRecall(1, candidate_scores(END))
    metric.update(logits[:, :1].expand(-1, 3, -1), same, torch.zeros(()))
    assert metric.value() == 0
    metric = CandidateMRR(candidate_scores(END))
    metric.update(torch.full_like(logits, float("nan")), batch, torch.zeros(()))
    assert metric.value() == pytest.approx(1 / 3)


class Told:
    """A model's replies: what it is told to write."""

    def __init__(self, replies):
        self.replies, self.calls = replies, 0

    def __call__(self, model, batch):
        self.calls += 1
        return self.replies[: batch.size]


def metrics_of(told, symbols=V):
    write = WrittenReplies(told)
    found = [Distinct(1, symbols, write), Distinct(2, symbols, write), ExactReplies(write)]
    for metric in found:
        metric.begin(torch.nn.Identity())
    return found


def test_distinct_and_exact_against_counting_and_in_parts():
    logits, batch, written = groups([2, 3, 1], seed=5)
    other, more, true = groups([1, 2], seed=6)
    first = [written[0][:-1], [1, 2, 1, 2], []]
    second = [[2, 1, 5], true[1][:-1]]
    whole = metrics_of(Told(first))
    parts = metrics_of(Told(first)), metrics_of(Told(second))
    for metric in (*whole, *parts[0]):
        metric.update(logits, batch, torch.zeros(()))
    for metric in whole:
        metric.write._function = lambda _, __: second  # the same metrics go on with other replies
    for metric in (*whole, *parts[1]):
        metric.update(other, more, torch.zeros(()))
    for n in (1, 2):
        grams = [tuple(reply[k : k + n]) for reply in first + second for k in range(len(reply) - n + 1)]
        assert whole[n - 1].value() == pytest.approx(len(set(grams)) / len(grams))
    firsts = [written[0], written[2], written[5], true[0], true[1]]
    hits = [reply == own[:-1] for reply, own in zip(first + second, firsts, strict=True)]
    assert 2 <= sum(hits) < 5 and whole[2].value() == sum(hits) / 5
    for metric, one, two in zip(whole, *parts, strict=True):
        assert torch.equal(metric.totals, one.totals + two.totals)
    assert [metric.name for metric in whole] == ["distinct_1", "distinct_2", "exact"]


def test_replies_are_written_once_for_all_metrics_of_a_batch():
    told = Told([[1], [2]])
    found = metrics_of(told)
    for seed in (7, 8):
        logits, batch, _ = groups([2, 1], seed=seed)
        for metric in found:
            metric.update(logits, batch, torch.zeros(()))
    assert told.calls == 2


def test_many_bigrams_are_counted_to_a_third_of_a_percent():
    generator = torch.Generator().manual_seed(1)
    replies = torch.randint(0, 3000, (400, 26), generator=generator).tolist()
    assert BUCKETS < 3000**2
    metric = metrics_of(Told(replies), 3000)[1]
    logits, batch, _ = groups([1] * 400, steps=2)
    metric.update(logits, batch, torch.zeros(()))
    grams = [(a, b) for reply in replies for a, b in itertools.pairwise(reply)]
    assert metric.value() == pytest.approx(len(set(grams)) / len(grams), rel=3e-3)
    assert not metric.exact and metrics_of(Told(replies), 300)[1].exact


def test_the_gain_of_a_history_is_the_difference_of_two_losses():
    logits, batch, _ = groups([2, 2], seed=9)
    chosen = torch.tensor([2])
    cut = batch.rows(chosen)
    worse = torch.zeros(len(batch.inputs), 1, V)

    class Model(torch.nn.Module):
        def forward(self, inputs, state=None, lengths=None):
            return worse, None

    def loss(outputs, batch):
        return torch.nn.functional.cross_entropy(
            outputs.flatten(0, -2), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )

    metric = HistoryGain(lambda _: (chosen, cut), loss)
    metric.begin(Model())
    metric.update(logits, batch, torch.zeros(()))
    expected = math.log(V) - float(loss(logits[:, chosen], cut)) / cut.num_targets
    assert metric.value() == pytest.approx(expected, rel=1e-5)
    assert (
        f"{cut.num_targets} symbols" in metric.details()
        and f"{V:.4g} after the last turn" in metric.details()
    )
    none = HistoryGain(lambda batch: (torch.zeros(0, dtype=torch.int64), batch), loss)
    none.begin(Model())
    none.update(logits, batch, torch.zeros(()))
    assert math.isnan(none.value()) and none.details() == ""


def test_fitted_probabilities_are_the_likeliest_ones():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(5000, generator=generator).double() * 2 - 6
    right = torch.rand(5000, generator=generator).double() < (1.5 * scores + 9).sigmoid()
    slope, offset = fit_logistic(scores, right)
    assert slope == pytest.approx(1.5, abs=0.3) and offset == pytest.approx(9, abs=2)
    n, m = int(right.sum()), int((~right).sum())
    targets = torch.where(right, (n + 1) / (n + 2), 1 / (m + 2)).double()

    def loss(a, b):
        return float(torch.nn.functional.binary_cross_entropy_with_logits(a * scores + b, targets))

    best = loss(slope, offset)
    for a, b in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert loss(slope + a, offset + b) > best


@pytest.mark.parametrize(
    ("scores", "right", "at", "expected"),
    [
        ([1.0, 2.0, 3.0], [True, True, True], 2.0, 0.8),  # (n + 1) / (n + 2): sure, and finite
        ([1.0, 2.0, 3.0], [False, False, False], 2.0, 0.2),
        ([2.0, 2.0], [True, False], 2.0, 0.5),
        ([1.0, 2.0, 3.0, 4.0], [True, True, False, False], 1.0, 0.5),  # the wrong way round: no slope
        ([5.0], [True], 5.0, 2 / 3),
    ],
)
def test_fitted_probabilities_of_few_examples(scores, right, at, expected):
    slope, offset = fit_logistic(torch.tensor(scores), torch.tensor(right))
    assert math.isfinite(slope) and slope >= 0
    assert 1 / (1 + math.exp(-slope * at - offset)) == pytest.approx(expected, abs=1e-3)
