"""How close translations are to their references: chrF, BLEU and exact matches, from counts that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from throughtime.data.batch import Batch
from throughtime.metrics.metric import Metric

ORDER = 6  # of the n-grams of characters that chrF counts
_BETA = 2.0  # recall counts twice as much as precision
BLEU_TOKENS = ("13a", "intl", "zh", "char", "none")  # how BLEU divides texts into words; names of sacrebleu

Translation = tuple[str, Sequence[str]]  # a text that was written, and its references


class Translations:
    """The model's translations of each batch, made once for all metrics that count them.

    Args: write: (model, batch) -> a translation and its references for each row that is to be counted. how: they
    are made, in words for the model card.
    """

    def __init__(self, write: Callable[[nn.Module, Batch], Iterable[Translation]], how: str = "") -> None:
        self._write, self.how = write, how
        self._model: nn.Module | None = None
        self._last: tuple[Batch, list[Translation]] | None = None

    def begin(self, model: nn.Module) -> None:
        """Before the first batch of an evaluation."""
        self._model, self._last = model, None

    def __deepcopy__(self, memo: dict[int, Any]) -> Translations:
        return self  # a metric that is copied for its totals does not copy the model

    def of(self, batch: Batch) -> list[Translation]:
        """Those of a batch."""
        if self._model is None:
            raise RuntimeError("begin(model) was not called before the first batch")
        if self._last is None or self._last[0] is not batch:
            self._last = batch, list(self._write(self._model, batch))
        return self._last[1]


class TranslationMetric(Metric):
    """A metric over pairs of a translation and its references.

    Args: translations: of each batch; None where `add` is given the texts. lower: case does not count.
    """

    size: ClassVar[int]

    def __init__(self, translations: Translations | None = None, *, lower: bool = False) -> None:
        super().__init__(self.size)
        self.translations, self.lower = translations, lower

    def begin(self, model: nn.Module) -> None:
        if self.translations is not None:
            self.translations.begin(model)

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        if self.translations is not None:
            self.add(self.translations.of(batch))

    def add(self, pairs: Sequence[Translation]) -> None:
        """Count some translations."""
        if not pairs:
            return
        if self.lower:
            pairs = [(text.lower(), [each.lower() for each in references]) for text, references in pairs]
        self.totals += torch.tensor(self._count(pairs), dtype=torch.float64)

    def _count(self, pairs: Sequence[Translation]) -> list[int]:
        """What `value` is computed from, summed over the pairs."""
        raise NotImplementedError


class ChrF(TranslationMetric):
    """The F-score of n-grams of characters, n = 1 to 6, in percent; white space does not count.

        F = (1 + 4) P R / (4 P + R), P and R the means over n of corpus-wide precision and recall

    Orders of which translation or reference have no n-gram at all are left out of the means. Of several references the
    one with the best F of the sentence counts. These are sacrebleu's defaults, and its numbers.
    Source: Popović 2015, WMT; Post 2018, WMT.
    """

    name: ClassVar[str] = "chrf"
    size: ClassVar[int] = 3 * ORDER  # for each order: n-grams of the translation, of the reference, in both

    def __init__(self, translations: Translations | None = None, *, lower: bool = False) -> None:
        super().__init__(translations, lower=lower)
        how = f"; {translations.how}" if translations is not None and translations.how else ""
        self.convention = (  # type: ignore[misc]  # depends on the settings
            f"chrF2 of the corpus as sacrebleu computes it, case:{'lc' if lower else 'mixed'}|eff:yes|nc:{ORDER}|nw:0|space:no; "
            f"of several references the best for each sentence{how}"
        )

    def value(self) -> float:
        return _f_score(self.totals.tolist()) if bool(self.totals.any()) else float("nan")

    def _count(self, pairs: Sequence[Translation]) -> list[int]:
        total = [0] * self.size
        for text, references in pairs:
            own = _grams(text)
            counts = [_matches(own, _grams(each)) for each in references]
            best = max(counts, key=lambda each: _f_score(each))
            total = [a + b for a, b in zip(total, best, strict=True)]
        return total


class Bleu(TranslationMetric):
    """BLEU of the corpus in percent: the geometric mean of the precisions of 1 to 4 words, times a brevity penalty.

    Counts and score are sacrebleu's: exponential smoothing, the reference nearest in length for the brevity penalty, n-grams
    clipped by the largest count in any reference.
    Args: tokens: how texts are divided into words, one of BLEU_TOKENS. several: whether some texts have several references, for
    the signature.
    Raises: ImportError without sacrebleu (see `bleu_missing`).
    Source: Papineni et al. 2002, ACL; Post 2018, WMT.
    """

    name: ClassVar[str] = "bleu"
    size: ClassVar[int] = (
        10  # matches and totals for each order, words of the translations and of the references
    )

    def __init__(
        self,
        translations: Translations | None = None,
        *,
        lower: bool = False,
        tokens: str = "13a",
        several: bool = False,
    ) -> None:
        super().__init__(translations)  # sacrebleu does it, and says so in its signature
        self._bleu: Any = import_module("sacrebleu.metrics").BLEU(
            lowercase=lower, tokenize=tokens, force=True
        )
        # sacrebleu's signature has the number of references, which it learns from texts.
        self._bleu.corpus_score(["a", "a"], [["a", "a"], ["a", None]] if several else [["a", "a"]])
        self.convention = f"sacrebleu, {self._bleu.get_signature()}"  # type: ignore[misc]

    def value(self) -> float:
        counts = [int(number) for number in self.totals.tolist()]
        if not any(counts):
            return float("nan")
        score = self._bleu.compute_bleu(counts[:4], counts[4:8], counts[8], counts[9], smooth_method="exp")
        return float(score.score)

    def _count(self, pairs: Sequence[Translation]) -> list[int]:
        most = max(len(references) for _, references in pairs)
        columns = [
            [references[n] if n < len(references) else None for _, references in pairs] for n in range(most)
        ]
        score = self._bleu.corpus_score([text for text, _ in pairs], columns)
        return [*score.counts, *score.totals, score.sys_len, score.ref_len]


class ExactMatch(TranslationMetric):
    """The fraction of the translations that are one of their references, but for white space."""

    name: ClassVar[str] = "exact"
    size: ClassVar[int] = 2

    def value(self) -> float:
        right, count = self.totals.tolist()
        return right / count if count else float("nan")

    def _count(self, pairs: Sequence[Translation]) -> list[int]:
        right = [text.split() in [each.split() for each in references] for text, references in pairs]
        return [sum(right), len(right)]


def translation_metrics(
    translations: Translations | None = None,
    *,
    lower: bool = False,
    tokens: str = "13a",
    several: bool = False,
) -> list[TranslationMetric]:
    """chrF, BLEU where sacrebleu is installed, and exact matches."""
    metrics: list[TranslationMetric] = [ChrF(translations, lower=lower)]
    if not bleu_missing():
        metrics.append(Bleu(translations, lower=lower, tokens=tokens, several=several))
    return [*metrics, ExactMatch(translations, lower=lower)]


def bleu_missing() -> str:
    """What to install for BLEU; empty where it is there."""
    try:
        import_module("sacrebleu")
    except ImportError:
        return "BLEU needs sacrebleu, which is not installed: pip install 'throughtime[translate]'"
    return ""


def _grams(text: str) -> list[Counter[str]]:
    """The n-grams of a text without its white space, for each n."""
    text = "".join(text.split())
    return [
        Counter(text[start : start + n] for start in range(len(text) - n + 1)) for n in range(1, ORDER + 1)
    ]


def _matches(own: Sequence[Counter[str]], reference: Sequence[Counter[str]]) -> list[int]:
    """For each order: n-grams of the translation (0 where the reference has none), of the reference, in both."""
    found = []
    for mine, theirs in zip(own, reference, strict=True):
        found += [mine.total() if theirs else 0, theirs.total(), (mine & theirs).total()]
    return found


def _f_score(counts: Sequence[float]) -> float:
    """The F-score of some counts, in percent."""
    orders = [each for n in range(0, len(counts), 3) if (each := counts[n : n + 3])[0] > 0 and each[1] > 0]
    if not orders:
        return 0.0
    precision = sum(each[2] / each[0] for each in orders) / len(orders)
    recall = sum(each[2] / each[1] for each in orders) / len(orders)
    if precision + recall == 0:
        return 0.0
    factor = _BETA**2
    return 100 * (1 + factor) * precision * recall / (factor * precision + recall)
