"""What a model that writes in styles learns from being told the style."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughtime.data.batch import IGNORE, Batch
from throughtime.metrics.metric import Metric


class StyleNats(Metric):
    """What the style tells about a text, in nats: log p(text | style) - log p(text | no style), the mean over texts.

    Of exact probabilities this mean is the mutual information of style and text, at most the entropy of the styles. The loss must
    be the cross-entropy, and the model one that takes `context` None for no style.
    Cost: each batch is run a second time.
    """

    name: ClassVar[str] = "style_nats"
    convention: ClassVar[str] = (
        "loss of a whole text without its style, less that with it; at most the entropy of the styles for exact probabilities"
    )

    def begin(self, model: nn.Module) -> None:
        self._model = model

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        logits, _ = batch._replace(context=None).run(self._model)
        targets = batch.targets.flatten()
        without = F.cross_entropy(
            logits.float().flatten(0, -2), targets, ignore_index=IGNORE, reduction="sum"
        )
        texts = int((batch.targets != IGNORE).any(0).sum())
        self.totals += torch.tensor([float(without) - float(loss), texts], dtype=torch.float64)

    def value(self) -> float:
        total, texts = self.totals.tolist()
        return total / texts if texts else float("nan")
