"""Baselines for the next item of a session: popularity, first-order transitions, item-to-item neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.data.batch import Batch
from throughtime.errors import InputError
from throughtime.metrics import Metric

HISTORY = 20  # items of a session that item-kNN reads, the last ones
_MOST = 2**24  # scores that are computed at once


class Baseline:
    """Scores of all items from a session so far: (weights of its last items) x (item-to-item matrix) + popularity.

    Args: matrix, [V, V] sparse, what each item says for the next one, None for nothing; popularity [V], small numbers that
    decide where the matrix is silent or ties; decay, weight of the item before the last one, of the one before that its square;
    reads, items of the session that count, its last.
    """

    def __init__(
        self, matrix: Any, popularity: NDArray[np.float64], reads: int = 1, decay: float = 1.0
    ) -> None:
        self.matrix, self.popularity, self.reads, self.decay = matrix, popularity, reads, decay

    def scores(self, history: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores [m, V + 1] after histories [m, reads], the last item first; numbers outside 0 .. V-1 are nothing."""
        items = len(self.popularity)
        found = np.zeros((len(history), items + 1))
        found[:, :items] = self.popularity
        if self.matrix is None:
            return found
        rows, lags = np.nonzero((history >= 0) & (history < items))
        weights = self.decay ** lags.astype(np.float64)
        sparse = import_module("scipy.sparse")
        said = sparse.csr_matrix((weights, (rows, history[rows, lags])), (len(history), items)) @ self.matrix
        found[np.repeat(np.arange(len(history)), np.diff(said.indptr)), said.indices] += said.data
        return found

    def on(self, batch: Batch) -> BaselineScores:
        """The scores after each step of a batch, as `throughtime.metrics.next_item` reads them."""
        return BaselineScores(self, batch)


class BaselineScores:
    """See `throughtime.metrics.next_item.Scores`."""

    def __init__(self, baseline: Baseline, batch: Batch) -> None:
        self.baseline, self.batch = baseline, batch
        self.found: dict[Any, Tensor] = {}

    def rows(self, kept: Tensor) -> Iterator[Tensor]:
        """Scores [m, V + 1] of the steps where `kept` [T, B] is true, in its order."""
        inputs = self.batch.inputs.numpy()
        places = kept.nonzero().numpy()
        size = max(1, _MOST // len(self.baseline.popularity))
        lags = np.arange(self.baseline.reads)
        for start in range(0, len(places), size):
            steps, rows = places[start : start + size].T
            at = steps[:, None] - lags
            history = np.where(at >= 0, inputs[at.clip(0), rows[:, None]], -1)
            yield torch.from_numpy(self.baseline.scores(history))


def popularity(sessions: Sequence[NDArray[np.int64]], items: int) -> Baseline:
    """The same scores for all sessions: how often each item is in the training sessions (int64 [t] each, ids 0 .. items-1;
    others are left out).
    """
    return Baseline(None, _counts(sessions, items), reads=1)


def markov(sessions: Sequence[NDArray[np.int64]], items: int) -> Baseline:
    """First-order transitions: the items that most often came right after the last one, the most frequent first.

    Items that never followed it come behind, by popularity, which also decides ties.
    Raises: InputError without scipy.
    """
    before = np.concatenate([each[:-1] for each in sessions])
    after = np.concatenate([each[1:] for each in sessions])
    known = (before < items) & (after < items)
    sparse = _scipy()
    ones = np.ones(int(known.sum()))
    counts = sparse.csr_matrix(
        (ones, (before[known], after[known])), (items, items)
    )  # repeated ones are summed
    frequency = _counts(sessions, items)
    return Baseline(counts, frequency / (2 * frequency.max(initial=1)))  # less than one transition


def item_knn(
    sessions: Sequence[NDArray[np.int64]], items: int, *, decay: float = 0.5, reads: int = HISTORY
) -> Baseline:
    """Item-kNN: the items that are in the same training sessions as the session's, by the cosine of the items' session vectors.

    cosine(i, j) = (sessions with both) / sqrt((sessions with i) (sessions with j)); an item is no neighbour of itself. The score
    of an item is the sum of its cosines with the session's last `reads` items, weighted by decay^lag; popularity decides ties.
    Cost: the square of each training session's length.
    Source: Sarwar et al. 2001, WWW 10; Davidson et al. 2010, RecSys.
    Raises: InputError without scipy.
    """
    sparse = _scipy()
    distinct = [np.unique(each[each < items]) for each in sessions]
    rows = np.repeat(np.arange(len(distinct)), [len(each) for each in distinct])
    columns = np.concatenate(distinct)
    holds = sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), (len(distinct), items))
    each = np.asarray(holds.sum(0)).ravel()
    together = (holds.T @ holds).tocoo()
    apart = together.row != together.col
    row, column = together.row[apart], together.col[apart]
    cosine = together.data[apart] / np.sqrt(each[row] * each[column])
    frequency = _counts(sessions, items)
    small = 1e-9 * frequency / frequency.max(initial=1)
    return Baseline(sparse.csr_matrix((cosine, (row, column)), (items, items)), small, reads, decay)


def evaluate_baseline(
    baseline: Baseline, batches: Iterable[Batch], metrics: Sequence[Metric]
) -> dict[str, float]:
    """The metrics of a baseline on a split, by name."""
    for batch in batches:
        scores = baseline.on(batch)
        for metric in metrics:
            metric.update(scores, batch, torch.zeros(()))
    return {metric.name: metric.value() for metric in metrics}


BASELINES: dict[str, Callable[[Sequence[NDArray[np.int64]], int], Baseline]] = {
    "popularity": popularity,
    "Markov": markov,
    "item-kNN": item_knn,
}


def _counts(sessions: Sequence[NDArray[np.int64]], items: int) -> NDArray[np.float64]:
    counts = np.bincount(np.concatenate(sessions), minlength=items + 1)[:items]
    return counts.astype(np.float64)


def _scipy() -> Any:
    try:
        return import_module("scipy.sparse")
    except ImportError:
        raise InputError(
            "this baseline needs scipy, which is not installed: pip install 'throughtime[baselines]'"
        ) from None
