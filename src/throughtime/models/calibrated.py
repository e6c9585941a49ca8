"""A head whose outputs are divided by a temperature that is fitted after training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

UNCALIBRATED = -1.0


class CalibratedLinear(nn.Linear):
    """outputs = (W x + b) / temperature. The temperature is 1 until it is fitted, so that training is that of `nn.Linear`.

    `threshold` is the least confidence, a probability, that is answered; negative: not chosen yet; infinite: nothing is.
    Both are buffers: they are saved with the weights, and receive no gradient.
    """

    temperature: Tensor
    threshold: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("threshold", torch.full((), UNCALIBRATED))

    def forward(self, x: Tensor) -> Tensor:
        """Return the calibrated logits."""
        return super().forward(x) / self.temperature

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of a plain linear head with the same outputs, up to rounding."""
        return self.weight / self.temperature, self.bias / self.temperature

    @property
    def calibrated(self) -> bool:
        """Whether a temperature and a threshold were set."""
        return float(self.threshold) >= 0

    def calibrate(self, temperature: float, threshold: float) -> None:
        """Set both; the threshold is rounded down to float32, so that an example that reached it still does."""
        self.temperature.fill_(temperature)
        self.threshold.fill_(threshold)
        if math.isfinite(threshold) and float(self.threshold) > threshold:
            self.threshold.copy_(torch.nextafter(self.threshold, torch.zeros_like(self.threshold)))
