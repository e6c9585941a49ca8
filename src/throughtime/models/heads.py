"""What a forecaster predicts: quantiles of each of the next steps, or the parameters of a distribution of the next one.

A head turns the numbers of a linear layer into parameters [..., size], has a loss for each target, and, if it is a distribution,
draws from it. `z` are scaled values, z = (y - shift) / scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import NegativeBinomial as _NegativeBinomial
from torch.distributions import Normal as _Normal
from torch.distributions import StudentT as _StudentT

from throughtime.errors import one_of

HEADS = ("quantiles", "student", "normal", "negbin")
SMALLEST = 1e-4  # of a standard deviation, in scaled units


def pinball(quantiles: Tensor, targets: Tensor, levels: Tensor) -> Tensor:
    """The pinball loss [..., Q] of quantiles [..., Q] at levels [Q] for targets [...].

        (target - q) level  if target >= q,  (q - target) (1 - level)  else

    Source: Koenker & Bassett 1978, Econometrica 46(1).
    """
    error = targets.unsqueeze(-1) - quantiles
    return torch.maximum(levels * error, (levels - 1) * error)


class Head(ABC):
    """One kind of prediction."""

    size: int  # numbers of the linear layer for a step

    @abstractmethod
    def parameters(self, raw: Tensor, center: Tensor, scale: Tensor) -> Tensor:
        """Parameters [..., size] from the linear layer's numbers [..., size].

        Args: center, what the location is relative to, [..., steps ahead]; scale, of the series, [...].
        """

    @abstractmethod
    def loss(self, parameters: Tensor, targets: Tensor) -> Tensor:
        """One loss for each target."""


class Quantiles(Head):
    """Quantiles of each of the next `horizon` steps, predicted at once (Wen et al. 2017, arXiv 1711.11053).

    The loss of a target is twice the mean pinball loss over the levels, an approximation of the CRPS. Targets [..., horizon];
    parameters [..., horizon * levels].
    """

    def __init__(self, horizon: int, levels: tuple[float, ...]) -> None:
        self.horizon, self.levels = horizon, levels
        self.size = horizon * len(levels)

    def parameters(self, raw: Tensor, center: Tensor, scale: Tensor) -> Tensor:
        """The centers moved by the layer's numbers."""
        return (self._by_step(raw) + center.unsqueeze(-1)).flatten(-2)

    def loss(self, parameters: Tensor, targets: Tensor) -> Tensor:
        """[..., horizon]."""
        levels = torch.tensor(self.levels, dtype=parameters.dtype, device=parameters.device)
        return 2 * pinball(self._by_step(parameters), targets, levels).mean(-1)

    def _by_step(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(*numbers.shape[:-1], self.horizon, len(self.levels))


class Parametric(Head):
    """A distribution of the next value; further steps are drawn one after the other (Salinas et al. 2020, IJF 36(3))."""

    counts: ClassVar[bool] = False  # whether targets are counts y, not scaled values z

    @abstractmethod
    def distribution(self, parameters: Tensor) -> Distribution:
        """Of parameters [..., size]: a batch of distributions [...]."""

    def loss(self, parameters: Tensor, targets: Tensor) -> Tensor:
        """The negative log-likelihood [...] in nats, for targets [...]."""
        found: Tensor = -self.distribution(parameters).log_prob(targets)
        return found

    def sample(self, parameters: Tensor) -> Tensor:
        """One value [...] of each distribution, from torch's generator."""
        found: Tensor = self.distribution(parameters).sample()
        return found


class Normal(Parametric):
    """Location and standard deviation."""

    size = 2

    def parameters(self, raw: Tensor, center: Tensor, scale: Tensor) -> Tensor:
        """Location, standard deviation."""
        return torch.stack([raw[..., 0] + center[..., 0], F.softplus(raw[..., 1]) + SMALLEST], dim=-1)

    def distribution(self, parameters: Tensor) -> Distribution:
        """Normal."""
        return _Normal(parameters[..., 0], parameters[..., 1], validate_args=False)


class StudentT(Parametric):
    """Location, scale, and more than 2 degrees of freedom, so that the variance exists."""

    size = 3

    def parameters(self, raw: Tensor, center: Tensor, scale: Tensor) -> Tensor:
        """Location, scale, degrees of freedom."""
        found = [
            raw[..., 0] + center[..., 0], F.softplus(raw[..., 1]) + SMALLEST, 2 + SMALLEST + F.softplus(raw[..., 2]),
        ]  # fmt: skip
        return torch.stack(found, dim=-1)

    def distribution(self, parameters: Tensor) -> Distribution:
        """Student's t."""
        location, scale, freedom = parameters.unbind(-1)
        return _StudentT(freedom, location, scale, validate_args=False)


class NegativeBinomial(Parametric):
    """Counts with mean m and variance m + a m^2, in the form of Salinas et al. 2020, section 4.1.

    m = v softplus(raw_0), a = softplus(raw_1) / sqrt(v), with the scale v of the series. Its location is relative to nothing.
    """

    size = 2
    counts = True

    def parameters(self, raw: Tensor, center: Tensor, scale: Tensor) -> Tensor:
        """Mean, shape a."""
        mean = scale * (F.softplus(raw[..., 0]) + SMALLEST)
        return torch.stack([mean, (F.softplus(raw[..., 1]) + SMALLEST) / scale.sqrt()], dim=-1)

    def distribution(self, parameters: Tensor) -> Distribution:
        """1/a failures, log-odds log(a m)."""
        mean, shape = parameters.unbind(-1)
        return _NegativeBinomial(total_count=1 / shape, logits=(shape * mean).log(), validate_args=False)


def make_head(name: str, horizon: int, levels: tuple[float, ...]) -> Head:
    """The head of a name in HEADS.

    Raises: InputError for another name.
    """
    one_of("head", name, HEADS)
    if name == "quantiles":
        return Quantiles(horizon, levels)
    kinds: dict[str, type[Head]] = {"student": StudentT, "normal": Normal, "negbin": NegativeBinomial}
    return kinds[name]()
