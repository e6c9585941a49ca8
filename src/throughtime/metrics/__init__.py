"""Numbers for a model on a split; one small file for each family."""

from throughtime.metrics.metric import Metric

__all__ = ["Metric"]
