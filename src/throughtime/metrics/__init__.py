"""Numbers for a model on a split; one small file for each family."""

from throughtime.metrics.classification import Accuracy, ConfusionMatrix, MacroF1
from throughtime.metrics.loss import Bits, BitsPerCharacter, MeanLoss, Perplexity
from throughtime.metrics.metric import Metric

__all__ = [
    "Accuracy",
    "Bits",
    "BitsPerCharacter",
    "ConfusionMatrix",
    "MacroF1",
    "MeanLoss",
    "Metric",
    "Perplexity",
]
