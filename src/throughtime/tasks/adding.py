"""The adding problem: two marked numbers, far apart in a sequence, are added at its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError
from throughtime.models.config import ModelConfig
from throughtime.tasks.generated import DEFAULTS, GeneratedTask
from throughtime.tasks.task import Record, field_of, run_one

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch


@dataclass(frozen=True)
class AddingTask(GeneratedTask):
    """Train on the adding problem: add the two marked numbers of a sequence at its end.

        value_t ~ U(0, 1)
        mark_t = 1 at a random step of each half, else 0
        target_T = value_i + value_j with mark_i = mark_j = 1
        no target at any other step

    The loss is the squared error at the last step. Always predicting 1, the best without memory, has the variance of a sum of
    two U(0, 1): 2/12 = 0.1667. The number in the first half lies T/2 to T - 1 steps back.

    Source: Hochreiter & Schmidhuber 1997, Neural Computation 9(8), experiment 4; in this form Le, Jaitly & Hinton 2015,
    arXiv 1504.00941, and Arjovsky, Shah & Bengio 2016, arXiv 1511.06464.
    """

    name = "adding"
    shape = "many to one"
    reads = "drawn from a seed"
    examples = (
        "throughtime train adding --length 50",
        "throughtime train adding --length 20 --cell rnn --init orthogonal --lr 0.003",
        "throughtime train adding --length 200 --cell lstm --forget-bias 1 --minutes 3",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        **DEFAULTS,
        "cell": "gru",
        "hidden": 32,
        "lr": 1e-2,
        "steps": 2000,
    }
    loss_name = "squared error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 2:
            raise InputError(
                f"length must be at least 2 in the adding problem, one step for each mark, got {self.length}"
            )

    @property
    def levels(self) -> dict[str, float]:
        return {"always predicting 1": 2 / 12, "adding": 0.0}

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Inputs [T, batch, 2] (value, mark) and targets [T, batch, 1], NaN where there is none; float32."""
        import torch

        from throughtime.data.batch import Batch

        values = torch.rand(self.length, batch, generator=generator)
        half = self.length // 2
        first = torch.randint(0, half, (1, batch), generator=generator)
        second = torch.randint(half, self.length, (1, batch), generator=generator)
        marks = torch.zeros_like(values).scatter_(0, torch.cat([first, second]), 1.0)
        targets = torch.full((self.length, batch, 1), torch.nan)
        targets[-1, :, 0] = (values * marks).sum(0)
        return Batch(torch.stack([values, marks], dim=-1), targets, num_targets=batch)

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.build import many_to_many
        from throughtime.models.embeddings import Continuous

        return many_to_many(config, Continuous(2), 1)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        known = batch.targets.isnan().logical_not()  # selected, not multiplied by 0: 0 * NaN is NaN
        total: Tensor = (outputs[known] - batch.targets[known]).square().sum()
        return total

    def flow_loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda outputs, targets: (outputs[-1] - targets[-1]).square().sum(-1)

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        """A marked number is "+"."""
        return ["+" if mark else "." for mark in inputs[:, 1].tolist()]

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The sum for each input, JSON as [[value, mark], ...]."""
        import torch

        for record in records:
            value = field_of(record, "input")
            try:
                inputs = torch.tensor(
                    json.loads(value) if isinstance(value, str) else value, dtype=torch.float32
                )
            except (ValueError, TypeError):
                inputs = torch.empty(0)
            if inputs.dim() != 2 or inputs.shape[1] != 2 or len(inputs) == 0:
                raise InputError(
                    f"input must be a list [[value, mark], ...], one pair for each step, got {str(value)[:60]!r}"
                )
            yield {"sum": float(run_one(model, inputs)[-1, 0])}
