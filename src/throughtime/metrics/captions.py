"""How near written captions are to those that people gave: BLEU-4, and equality with one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from throughtime.data.batch import Batch
from throughtime.metrics.metric import Metric

Tokens = Sequence[Hashable]
ORDER = 4  # the longest n-grams that BLEU counts
Written = Callable[[nn.Module, Batch], list[tuple[Tokens, Sequence[Tokens]]]]
"""(model, batch) -> for each row what the model writes, and the references."""


def bleu_counts(written: Tokens, references: Sequence[Tokens]) -> NDArray[np.float64]:
    """What BLEU is computed from, as counts [2 * ORDER + 2] that add up over texts: n-grams that match, n-grams written, for
    n = 1 to ORDER; the length written, and the length of the nearest reference (the shorter of two equally near).

    An n-gram matches at most as often as in the reference that has it most often.
    Source: Papineni, Roukos, Ward & Zhu 2002, ACL.
    """
    found = np.zeros(2 * ORDER + 2)
    for n in range(1, ORDER + 1):
        own, most = _ngrams(written, n), Counter[tuple[Hashable, ...]]()
        for each in references:
            most |= _ngrams(each, n)
        found[n - 1] = (own & most).total()
        found[ORDER + n - 1] = own.total()
    nearest = min(references, key=lambda each: (abs(len(each) - len(written)), len(each)))
    found[2 * ORDER :] = len(written), len(nearest)
    return found


def bleu(counts: Sequence[float]) -> float:
    """BLEU, 0 to 100, of summed counts: the geometric mean of the precisions, without smoothing, times the brevity penalty.

    0 where no n-gram of some length matches; NaN where nothing was counted.
    """
    matches, totals = np.asarray(counts[:ORDER]), np.asarray(counts[ORDER : 2 * ORDER])
    length, expected = counts[2 * ORDER :]
    if not expected:
        return float("nan")
    if not matches.all():
        return 0.0
    brevity = min(0.0, 1 - expected / length)
    return float(100 * np.exp(brevity + np.log(matches / totals).mean()))


class ExactMatch(Metric):
    """The fraction of captions that are equal to one of the references."""

    name: ClassVar[str] = "exact"
    convention: ClassVar[str] = (
        "a caption counts where it is, word for word, one of those that are right for its image"
    )

    def __init__(self, written: Written, size: int = 2) -> None:
        super().__init__(size)
        self.written = written

    def begin(self, model: nn.Module) -> None:
        self.model = model

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        for caption, references in self.written(self.model, batch):
            self.add(caption, references)

    def add(self, caption: Tokens, references: Sequence[Tokens]) -> None:
        """Take in one caption."""
        self.totals[0] += tuple(caption) in {tuple(each) for each in references}
        self.totals[1] += 1

    def value(self) -> float:
        right, count = self.totals.tolist()
        return right / count if count else float("nan")


class CaptionBLEU(ExactMatch):
    """BLEU-4 of all captions together, each against all references of its image."""

    name: ClassVar[str] = "bleu4"
    convention: ClassVar[str] = (
        "corpus BLEU-4 of words in lower case without punctuation, all references of an image, no smoothing; 0 to 100"
    )

    def __init__(self, written: Written) -> None:
        super().__init__(written, 2 * ORDER + 2)

    def add(self, caption: Tokens, references: Sequence[Tokens]) -> None:
        self.totals += self.totals.new_tensor(bleu_counts(caption, references))

    def value(self) -> float:
        return bleu(self.totals.tolist())


def _ngrams(tokens: Tokens, n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
