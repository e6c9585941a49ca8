"""Numbers for a model on a split; one small file for each family."""

from throughtime.metrics.calibration import CalibrationError, Coverage, Precision
from throughtime.metrics.classification import Accuracy, ConfusionMatrix, MacroF1
from throughtime.metrics.loss import Bits, BitsPerCharacter, MeanLoss, Perplexity
from throughtime.metrics.metric import Metric

__all__ = [
    "Accuracy",
    "Bits",
    "BitsPerCharacter",
    "CalibrationError",
    "ConfusionMatrix",
    "Coverage",
    "MacroF1",
    "MeanLoss",
    "Metric",
    "Perplexity",
    "Precision",
]
