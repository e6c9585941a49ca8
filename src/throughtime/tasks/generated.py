"""What tasks with generated sequences share: memory alone solves them, so the loss says how far back a model remembers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError
from throughtime.models.config import ModelConfig
from throughtime.tasks.task import Task, data_option, field_of, run_one

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.generated import Generated
    from throughtime.metrics import Metric


# One-hot inputs: nothing is learned about symbols that a few steps of training would have to find first.
DEFAULTS = {"embedding": "onehot", "bptt": "full", "optimizer": "adam", "batch": 32}


@dataclass(frozen=True)
class GeneratedTask(Task):
    """Sequences drawn from a seed, none repeated; validation and test sequences are drawn apart from training ones.

    A task gives `draw`, the loss, and `levels`: the losses that can be reached with no memory, with some, and with all of it.
    """

    without = ("embedding", "tied", "pooling", "window")
    columns = ("input",)
    symbols: ClassVar[str] = ""  # what a reader sees for each symbol; "" where inputs are numbers
    loss_name: ClassVar[str] = "cross-entropy in nats"

    length: int = data_option(100, "Steps of a sequence.", metavar="T", low=1, high=1_000_000)
    validation: int = data_option(2000, "Sequences to validate with, never trained on.", metavar="N", low=1)
    test: int = data_option(2000, "Sequences to test with, once, after training.", metavar="N", low=1)
    epoch: int = data_option(
        100_000, "Sequences that are called an epoch; none is ever repeated.", metavar="N", low=1
    )

    @property
    def title(self) -> str:
        return f"{self.name}{self.length}"

    @property
    def unit(self) -> str:
        return "symbol" if self.symbols else "sequence"

    @property
    def steps(self) -> int:
        """Steps of one sequence."""
        return self.length

    @abstractmethod
    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """That many sequences."""

    @property
    @abstractmethod
    def levels(self) -> dict[str, float]:
        """Losses that can be reached, the one without memory first, the lowest last, by what is remembered."""

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets

        return Assets()

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.build import many_to_many, symbol_embedding

        return many_to_many(config, symbol_embedding(config, len(self.symbols)), len(self.symbols))

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Generated:
        from throughtime.data.generated import Generated

        return Generated(self.draw, self.title, batch, examples=self.epoch, seed=seed, rank=rank, world=world)

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        from throughtime.data.generated import held_out

        if split == "all":
            raise InputError(f"{self.name} draws its sequences and reads no file: leave --data out")
        return held_out(self.draw, self.title, split, getattr(self, split), batch)

    def metrics(self, assets: Assets) -> list[Metric]:
        return []  # the loss says it all

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        return {name: {"loss": value} for name, value in self.levels.items()}

    def describe(self, assets: Assets) -> str:
        levels = ", ".join(f"{value:.4f} {name}" for name, value in self.levels.items())
        return f"{self.name}, T = {self.length}: {self.steps} steps a sequence; {self.loss_name}: {levels}"

    def describe_loss(self, loss: float) -> str:
        (first, trivial), *_, (last, best) = self.levels.items()
        return f"loss {loss:.4f} ({first} {trivial:.4f}, {last} {best:.4g})"

    def conclude(self, metrics: Mapping[str, float]) -> str:
        """Which level the loss is nearest to, and the fraction of the way to the lowest one."""
        loss = metrics["loss"]
        trivial, *_, best = self.levels.values()
        if not math.isfinite(loss) or loss > 1.05 * trivial:
            return "That is worse than no memory: train for more steps, or with a smaller --lr or clip."
        nearest = min(self.levels.items(), key=lambda level: abs(level[1] - loss))[0]
        done = max(0.0, (trivial - loss) / (trivial - best))
        return (
            f"That is nearest to {nearest}: {done:.0%} of the way from the first of these levels to the last."
        )

    def remarks(self, config: ModelConfig) -> list[str]:
        if not config.bidirectional:
            return []
        return [
            "a bidirectional model reads the end first: its loss says little of how far back it remembers"
        ]

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        return [f"throughtime evaluate {path}", f"throughtime flow {path}"]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        return [self.symbols[int(number)] for number in inputs]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        import torch

        if not self.symbols:
            return super().text_input(assets, text)
        if wrong := sorted(set(text) - set(self.symbols)):
            raise InputError(f"input must be of the symbols {self.symbols} of {self.name}, got {wrong[0]!r}")
        return torch.tensor([self.symbols.index(symbol) for symbol in text], dtype=torch.long)[:, None], []

    def predict(self, model: nn.Module, assets: Assets, records: Any) -> Iterator[dict[str, Any]]:
        """The likeliest output symbol at each step of each input, text of the task's symbols."""
        for record in records:
            inputs, _ = self.text_input(assets, str(field_of(record, "input")))
            yield {
                "output": "".join(
                    self.symbols[int(number)] for number in run_one(model, inputs[:, 0]).argmax(-1)
                )
            }
