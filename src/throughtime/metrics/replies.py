"""Metrics of written replies: the rank of the true one among candidates, and how varied and how right the model's own are.

A batch holds groups of rows with the same source: first a reply, whose targets count, then candidates, whose targets are all
masked; see `throughtime.data.exchanges.candidate_batches`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from throughtime.data.batch import IGNORE, Batch, unmasked
from throughtime.metrics.metric import Metric
from throughtime.metrics.ranking import MRR, Recall, ranks

BUCKETS = 1 << 17
_SPREAD = 0x9E3779B1  # odd, so that multiplying by it permutes the numbers below a power of two

Write = Callable[[nn.Module, Batch], Sequence[Sequence[int]]]
"""A model's own reply to the source of each row."""


def first_rows(batch: Batch) -> Tensor:
    """The numbers of the rows with unmasked targets: of each group the first."""
    return unmasked(batch.targets).any(0).nonzero()[:, 0]


def row_log_likelihoods(logits: Tensor, batch: Batch, end: int) -> Tensor:
    """The mean log-likelihood of each row's symbols, its end included, float64 [B], also of rows whose targets are masked.

    Args: logits [T, B, V]; end, the symbol that follows a row's last input.
    """
    steps = len(batch.inputs)
    lengths = torch.full((batch.size,), steps) if batch.lengths is None else batch.lengths
    lengths = lengths.to(logits.device)
    place = torch.arange(steps, device=logits.device)[:, None]
    written = torch.cat([batch.inputs[1:], batch.inputs[:1]])
    written = torch.where(place == lengths - 1, end, written)
    inside = place < lengths
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    chosen = logits.gather(-1, torch.where(inside, written, 0).unsqueeze(-1))[..., 0]
    each = (chosen - logits.logsumexp(-1)).double()
    return torch.where(inside, each, 0).sum(0) / lengths.clamp(min=1)


class OnceForEachBatch:
    """A function of a batch and the model's outputs, computed once for all metrics that ask for the same batch."""

    def __init__(self, function: Callable[[Any, Batch], Any]) -> None:
        self._function = function
        self._last: tuple[Any, Any, Any] | None = None

    def __call__(self, outputs: Any, batch: Batch) -> Any:
        if self._last is None or self._last[0] is not outputs or self._last[1] is not batch.inputs:
            self._last = (outputs, batch.inputs, self._function(outputs, batch))
        return self._last[2]


def candidate_scores(end: int) -> OnceForEachBatch:
    """Gives the scores of each group, [G, M], the true reply first, and -infinity where there are fewer candidates."""

    def scores(logits: Tensor, batch: Batch) -> Tensor:
        values = row_log_likelihoods(logits, batch, end).cpu()
        starts = [*first_rows(batch).tolist(), batch.size]
        groups = [values[start:stop] for start, stop in itertools.pairwise(starts)]
        groups = [each for each in groups if len(each) > 1]
        if not groups:
            return values.new_zeros(0, 1)
        return torch.nn.utils.rnn.pad_sequence(groups, batch_first=True, padding_value=-math.inf)

    return OnceForEachBatch(scores)


class CandidateRecall(Recall):
    """The fraction of true replies that are among the first k of their candidates. Its name is recall@k.

    Args: scores, of `candidate_scores`, shared by metrics of one evaluation.
    """

    convention: ClassVar[str] = (
        "fraction of true replies that the model finds likelier, in mean log-likelihood for each symbol, than 9 others, drawn "
        "from the same part with a fixed seed; ties count against it"
    )

    def __init__(self, k: int, scores: OnceForEachBatch) -> None:
        super().__init__(k)
        self.scores = scores

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        self.totals += _of_ranks(self._of, self.scores(outputs, batch))


class CandidateMRR(MRR):
    """Mean reciprocal rank of the true reply among its candidates; as `CandidateRecall`."""

    convention: ClassVar[str] = "mean of 1 / rank of the true reply among the same candidates"

    def __init__(self, scores: OnceForEachBatch) -> None:
        super().__init__()
        self.scores = scores

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        self.totals += _of_ranks(self._of, self.scores(outputs, batch))


def _of_ranks(number: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    """The sum of a number that follows from ranks, and their count."""
    each = number(ranks(scores, torch.zeros(len(scores), dtype=torch.int64)))
    return torch.tensor([float(each.sum()), len(each)], dtype=torch.float64)


class _OfWritten(Metric):
    """A metric of the model's own replies. Args: write, shared by metrics of one evaluation so that they are written once."""

    def __init__(self, write: WrittenReplies, size: int = 2) -> None:
        super().__init__(size)
        self.write = write

    def begin(self, model: nn.Module) -> None:
        self.write.model = model


class WrittenReplies(OnceForEachBatch):
    """The model's own replies to the sources of a batch's first rows."""

    model: nn.Module

    def __init__(self, write: Write) -> None:
        super().__init__(lambda _, batch: write(self.model, batch.rows(first_rows(batch))))


class Distinct(_OfWritten):
    """Different n-grams of symbols in all replies that the model writes, divided by all n-grams in them. Its name is distinct_n.

    Which n-grams occurred is kept in BUCKETS counts, so that parts add up: exactly, where there are no more n-grams than that;
    else their number is estimated from the fraction of buckets that are empty, with an error of about 0.3%.
    Source: Li, Galley, Brockett, Gao & Dolan 2016, NAACL (distinct-n); Whang, Vander-Zanden & Taylor 1990, ACM Transactions on
    Database Systems 15(2) (linear counting).
    """

    convention: ClassVar[str] = "different n-grams of symbols in the greedy replies, divided by all of them"

    def __init__(self, n: int, symbols: int, write: WrittenReplies) -> None:
        super().__init__(write, 1 + BUCKETS)
        self.n, self.symbols = n, symbols
        self.exact = symbols**n <= BUCKETS
        self.name = f"distinct_{n}"  # type: ignore[misc]

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        for reply in self.write(outputs, batch):
            for start in range(len(reply) - self.n + 1):
                number = 0
                for symbol in reply[start : start + self.n]:
                    number = number * self.symbols + symbol
                self.totals[1 + number * _SPREAD % BUCKETS] += 1
                self.totals[0] += 1

    def value(self) -> float:
        empty = int((self.totals[1:] == 0).sum())
        count = float(self.totals[0])
        if not count:
            return float("nan")
        found = BUCKETS - empty if self.exact else -BUCKETS * math.log(max(empty, 1) / BUCKETS)
        return min(1.0, found / count)


class ExactReplies(_OfWritten):
    """The fraction of replies that the model writes symbol for symbol as they are in the data."""

    name: ClassVar[str] = "exact"
    convention: ClassVar[str] = "fraction of greedy replies that are the true ones, symbol for symbol"

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        rows = first_rows(batch)
        targets = batch.targets[:, rows]
        own = [column[column != IGNORE].tolist()[:-1] for column in targets.t()]  # without the end
        replies = self.write(outputs, batch)
        hits = sum(list(reply) == true for reply, true in zip(replies, own, strict=True))
        self.totals += torch.tensor([float(hits), len(own)], dtype=torch.float64)

    def value(self) -> float:
        hits, count = self.totals.tolist()
        return hits / count if count else float("nan")


class HistoryGain(Metric):
    """What the earlier turns are worth: the loss of a true reply read from the last turn alone, less that with the whole history.

    In nats for each symbol, over the replies that have more than one turn before them; above 0 the model uses the earlier turns.
    Args: last_turn, gives of a batch the rows with more than one turn [n], and these rows with the last turn alone.
    Cost: these rows are run once more.
    """

    name: ClassVar[str] = "history_gain"
    convention: ClassVar[str] = (
        "nats for each symbol by which replies with more than one turn before them are likelier after all turns than after the "
        "last one"
    )

    def __init__(
        self, last_turn: Callable[[Batch], tuple[Tensor, Batch]], loss: Callable[[Any, Batch], Tensor]
    ) -> None:
        super().__init__(3)  # losses with the history, without it, symbols
        self.last_turn, self.loss = last_turn, loss

    def begin(self, model: nn.Module) -> None:
        self.model = model

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        rows, without = self.last_turn(batch)
        if not len(rows):
            return
        whole = self.loss(outputs[:, rows], batch.rows(rows))
        cut = self.loss(without.run(self.model)[0], without)
        self.totals += torch.tensor([float(whole), float(cut), without.num_targets], dtype=torch.float64)

    def value(self) -> float:
        whole, cut, count = self.totals.tolist()
        return (cut - whole) / count if count else float("nan")

    def details(self) -> str:
        whole, cut, count = self.totals.tolist()
        if not count:
            return ""
        return (
            f"Replies with more than one turn before them ({count:,.0f} symbols): perplexity "
            f"{math.exp(min(700, whole / count)):.4g} after all turns, {math.exp(min(700, cut / count)):.4g} after the "
            "last turn alone."
        )
