"""How far a classifier's probabilities can be trusted: temperature, a threshold below which it hands over, and what both give.

A text is answered where its confidence, the probability of the likeliest class, reaches a threshold; else it is handed over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from throughtime.data.batch import Batch, unmasked
from throughtime.errors import InputError
from throughtime.metrics.classification import compared
from throughtime.metrics.metric import Metric

BINS = 15
_LEVELS = 20  # coverages at which a certain threshold is looked for
_COLDEST, _HOTTEST = 0.05, 20.0


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature T for which softmax(logits / T) has the least cross-entropy, within 0.05 to 20.

    Each target keeps 1 - 1 / (N + 1) of its weight and the rest is spread over all classes, so that T does not go to 0 where all
    of few examples are right. The cross-entropy is convex in 1 / T: its derivative is bisected.
    Args: logits [N, C], targets [N] classes.
    Cost: 60 passes over the logits, in float64.
    Source: Guo et al. 2017, ICML, section 4.2; smoothed targets after Platt 1999.
    Raises: InputError for no examples.
    """
    if not len(logits):
        raise InputError("expected at least one example to fit a temperature on, got none")
    logits = logits.double()
    smoothing = 1 / (len(logits) + 1)
    right = logits.gather(1, targets[:, None]).squeeze(1)
    wanted = (1 - smoothing) * right + smoothing * logits.mean(1)
    low, high = math.log(1 / _HOTTEST), math.log(1 / _COLDEST)  # of the logarithm of 1 / T
    for _ in range(60):
        middle = (low + high) / 2
        expected = ((logits * math.exp(middle)).softmax(1) * logits).sum(1)
        if float((expected - wanted).sum()) > 0:
            high = middle
        else:
            low = middle
    return math.exp(-(low + high) / 2)


def fit_logistic(scores: Tensor, right: Tensor) -> tuple[float, float]:
    """Slope, 0 or more, and offset for which sigmoid(slope score + offset) is the likeliest probability of being right.

    The targets are (n + 1) / (n + 2) for the n that are right and 1 / (m + 2) for the m others, so that neither grows beyond all
    bounds where scores tell them apart. The loss is convex: Newton's method with halved steps.
    Args: scores [N], any finite numbers; right [N] bool.
    Cost: at most 100 passes over the scores, in float64.
    Source: Platt 1999, Advances in Large Margin Classifiers.
    Raises: InputError for no examples.
    """
    if not len(scores):
        raise InputError("expected at least one example to fit probabilities on, got none")
    x, count = scores.double(), int(right.sum())
    centre, spread = x.mean(), x.std(unbiased=False)
    z = (x - centre) / spread if float(spread) > 1e-12 else torch.zeros_like(x)
    targets = torch.where(right, (count + 1) / (count + 2), 1 / (len(x) - count + 2)).double()
    features = torch.stack([z, torch.ones_like(z)], dim=1)

    def loss(weights: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(features @ weights, targets)

    weights = torch.zeros(2, dtype=torch.float64)
    for _ in range(50):
        chance = (features @ weights).sigmoid()
        gradient = features.t() @ (chance - targets) / len(x)
        curvature = features.t() @ (features * (chance * (1 - chance))[:, None]) / len(x)
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(2, dtype=torch.float64), gradient)
        size = 1.0
        while size > 1e-6 and float(loss(weights - size * step)) > float(loss(weights)):
            size /= 2
        weights = weights - size * step
        if float(step.abs().max()) < 1e-10:
            break
    if float(spread) <= 1e-12 or float(weights[0]) < 0:
        mean = float(targets.mean())
        return 0.0, math.log(mean / (1 - mean))
    slope = float(weights[0] / spread)
    return slope, float(weights[1]) - slope * float(centre)


def choose_threshold(
    confidence: Tensor, right: Tensor, precision: float, certainty: float | None = None
) -> float:
    """The threshold with the largest coverage among those whose answers are right often enough; infinite where there is none.

    Args:
        confidence [N], any numbers of which larger ones are surer; right [N] bool, whether each answer is.
        precision: the fraction of answers that must be right.
        certainty: None: it is, among these examples. A probability: with that probability the precision also holds for all
            texts of which these are a sample. Twenty coverages are tried, each held to its part of the permitted error
            (Bonferroni) with the binomial test. This needs many examples: of n answers that are all right, n >= 90 for
            precision 0.95 and certainty 0.8.
    Source: Geifman & El-Yaniv 2017, NeurIPS, selective classification; Angelopoulos et al. 2021, arXiv 2110.01052.
    """
    order = confidence.double().argsort(descending=True, stable=True)
    values: list[float] = confidence.double()[order].tolist()
    hits: list[float] = right[order].double().cumsum(0).tolist()
    n = len(values)
    if certainty is None:
        # Equal confidences are answered together, so only the last of them can be the last that is answered. They are equal up to
        # rounding, since a model computes them in other batches later.
        below = [value - 1e-6 * abs(value) for value in values]
        ends = [i for i in range(n) if i + 1 == n or values[i + 1] < below[i]]
        good = [i for i in ends if hits[i] >= precision * (i + 1)]
        if not good:
            return math.inf
        last = good[-1]
        return below[last] if last + 1 == n else (values[last] + values[last + 1]) / 2
    found = math.inf
    for level in range(1, _LEVELS + 1):
        # Those strictly above the example of a fixed rank are a sample of all texts that are above it.
        border = values[min(n - 1, n * level // _LEVELS)] if n else math.inf
        count = sum(value > border for value in values)
        wrong = count - round(hits[count - 1]) if count else 0
        if count and binomial_cdf(wrong, count, 1 - precision) <= (1 - certainty) / _LEVELS:
            found = min(found, math.nextafter(border, math.inf))
    return found


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) of a binomial distribution with n draws of probability p, 0 < p < 1."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))


class CalibrationError(Metric):
    """The expected calibration error: the mean over texts of |accuracy - mean confidence| in their bin, one of 15 of equal width.

    Outputs [B, C], logits, with targets [B].
    Source: Naeini et al. 2015, AAAI; Guo et al. 2017, ICML.
    """

    name: ClassVar[str] = "calibration_error"
    higher_is_better: ClassVar[bool] = False
    convention: ClassVar[str] = (
        "expected calibration error of the likeliest label's probability, 15 bins of equal width"
    )

    def __init__(self) -> None:
        super().__init__((3, BINS))  # texts, those that are right, and the sum of confidences, by bin

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        confidence, right, _ = judged(outputs, batch)
        bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        for row, weights in enumerate((torch.ones_like(confidence), right.double(), confidence)):
            self.totals[row] += torch.bincount(bins, weights, BINS)

    def value(self) -> float:
        texts, right, confidence = self.totals
        return float((right - confidence).abs().sum() / texts.sum()) if float(texts.sum()) else float("nan")


class Coverage(Metric):
    """The fraction of texts that are answered: the model's threshold is reached, and the label has an answer.

    The threshold is read from the model's head when an evaluation begins. Args: answerable [C] bool, which classes have an
    answer; None: all of them. Outputs [B, C], logits, with targets [B].
    """

    name: ClassVar[str] = "coverage"
    convention: ClassVar[str] = (
        "the fraction of texts that are answered; the threshold is chosen on the validation part after training"
    )

    def __init__(self, answerable: Sequence[bool] | None = None) -> None:
        super().__init__(3)  # texts, answered, answered and right
        self.answerable = None if answerable is None else torch.tensor(answerable)
        self.threshold = -math.inf

    def begin(self, model: nn.Module) -> None:
        threshold = getattr(getattr(model, "head", None), "threshold", None)
        self.threshold = -math.inf if threshold is None else float(threshold)

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        confidence, right, predicted = judged(outputs, batch)
        answered = confidence >= self.threshold
        if self.answerable is not None:
            answered &= self.answerable[predicted]
        counts = [len(right), int(answered.sum()), int((answered & right).sum())]
        self.totals += torch.tensor(counts, dtype=torch.float64)

    def value(self) -> float:
        texts, answered, _ = self.totals.tolist()
        return answered / texts if texts else float("nan")


class Precision(Coverage):
    """The fraction of answered texts whose answer is right; NaN where nothing is answered."""

    name: ClassVar[str] = "precision"
    convention: ClassVar[str] = "the fraction of answered texts that are answered rightly"

    def value(self) -> float:
        _, answered, right = self.totals.tolist()
        return right / answered if answered else float("nan")


def judged(outputs: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of the unmasked targets, on the CPU: confidence float64, whether the prediction is right, the predicted class; each [n]."""
    targets, predicted = compared(outputs, batch)
    confidence = outputs[unmasked(batch.targets)].detach().cpu().double().softmax(-1).amax(-1)
    return confidence, (targets == predicted).cpu(), predicted.cpu()
