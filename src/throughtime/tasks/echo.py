"""The echo task: a coin whose bias depends on two earlier coins, so that what is remembered shows in the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError
from throughtime.tasks.generated import DEFAULTS, GeneratedTask
from throughtime.tasks.task import data_option

if TYPE_CHECKING:
    import torch

    from throughtime.data.batch import Batch

LAGS = {3: 0.5, 8: -0.25}
FIRST = max(LAGS)  # steps without a target: their coins would depend on symbols before the beginning


@dataclass(frozen=True)
class EchoTask(GeneratedTask):
    """Train on the echo task: a coin whose bias depends on the coins thrown 3 and 8 steps ago.

        P(X_t = 1) = 1/2
        P(Y_t = 1) = 1/2 + 1/2 [X_{t-3} = 1] - 1/4 [X_{t-8} = 1]

    The cross-entropy says what the model remembers: 0.6616 nothing, 0.5192 three steps, 0.4545 both.
    """

    name = "echo"
    shape = "many to many"
    reads = "drawn from a seed"
    examples = ("throughtime train echo", "throughtime train echo --bptt truncated:5")
    defaults: ClassVar[Mapping[str, Any]] = {
        **DEFAULTS,
        "cell": "rnn",
        "hidden": 32,
        "lr": 1e-2,
        "steps": 1000,
    }
    symbols = "01"

    length: int = data_option(50, "Steps of a sequence.", metavar="T", low=1, high=1_000_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length <= FIRST:
            raise InputError(
                f"length must be at least {FIRST + 1} in the echo task, so that there is a target, got {self.length}"
            )

    @property
    def levels(self) -> dict[str, float]:
        return {"no memory": entropy(), "3 steps back": entropy((3,)), "3 and 8 steps back": entropy((3, 8))}

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Inputs and targets, [T, batch] int64 each; IGNORE at the first 8 steps."""
        import torch

        from throughtime.data.batch import IGNORE, Batch

        inputs = torch.randint(2, (self.length, batch), generator=generator)
        chance = torch.full((self.length, batch), 0.5)
        for lag, weight in LAGS.items():
            chance[lag:] += weight * inputs[: self.length - lag]
        targets = (torch.rand(self.length, batch, generator=generator) < chance).long()
        targets[:FIRST] = IGNORE
        return Batch(inputs, targets, num_targets=(self.length - FIRST) * batch)


def entropy(known: Iterable[int] = ()) -> float:
    """H(Y_t | X_{t-k} for the lags k in `known`) in nats: 0.6616 for (), 0.5192 for (3,), 0.4545 for (3, 8)."""
    known = tuple(known)
    chances: dict[tuple[int, ...], list[float]] = {}
    for bits in product((0, 1), repeat=len(LAGS)):
        at = dict(zip(LAGS, bits, strict=True))
        chance = 0.5 + sum(weight * at[lag] for lag, weight in LAGS.items())
        chances.setdefault(tuple(at[lag] for lag in known), []).append(chance)
    means = [sum(each) / len(each) for each in chances.values()]
    return sum(-sum(q * math.log(q) for q in (p, 1 - p) if q > 0) for p in means) / len(means)
