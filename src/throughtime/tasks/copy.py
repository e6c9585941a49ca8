"""The copying problem: ten symbols are repeated after a long delay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from throughtime.tasks.generated import DEFAULTS, GeneratedTask
from throughtime.tasks.task import data_option

if TYPE_CHECKING:
    import torch

    from throughtime.data.batch import Batch

LETTERS, COPIED, BLANK, DELIMITER = 8, 10, 8, 9


@dataclass(frozen=True)
class CopyTask(GeneratedTask):
    """Train on the copying problem: repeat ten symbols after a delay of T steps.

        inputs   10 letters   T - 1 blanks   the delimiter   10 blanks
        targets  T + 10 blanks                               the 10 letters

    Letters are drawn uniformly from 8; letter i is the target T + 10 steps later. The loss is the cross-entropy over all T + 20
    steps. Without memory the best is blanks until the delimiter, then a guess: 10 ln 8 / (T + 20) nats a step.

    Source: Arjovsky, Shah & Bengio 2016, arXiv 1511.06464, section 4.1; after Hochreiter & Schmidhuber 1997.
    """

    name = "copy"
    shape = "many to many"
    reads = "drawn from a seed"
    examples = ("throughtime train copy", "throughtime train copy --length 50 --cell lstm --forget-bias 1")
    defaults: ClassVar[Mapping[str, Any]] = {
        **DEFAULTS,
        "cell": "gru",
        "hidden": 128,
        "lr": 3e-3,
        "steps": 3000,
    }
    symbols = "abcdefgh_:"

    length: int = data_option(
        10, "Steps between reading the symbols and repeating them.", metavar="T", low=1, high=1_000_000
    )

    @property
    def steps(self) -> int:
        return self.length + 2 * COPIED

    @property
    def levels(self) -> dict[str, float]:
        return {"blanks, then guessing": COPIED * math.log(LETTERS) / self.steps, "remembering": 0.0}

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Inputs and targets, [T, batch] int64 each."""
        import torch

        from throughtime.data.batch import Batch

        letters = torch.randint(LETTERS, (COPIED, batch), generator=generator)
        inputs = torch.full((self.steps, batch), BLANK)
        targets = inputs.clone()
        inputs[:COPIED] = letters
        inputs[self.length + COPIED - 1] = DELIMITER
        targets[-COPIED:] = letters
        return Batch(inputs, targets, num_targets=targets.numel())

    def flow_ends(self, bidirectional: bool) -> int | range:
        """The steps at which letters are targets; all others' are blanks."""
        return 8 if bidirectional else range(self.steps - COPIED, self.steps)
