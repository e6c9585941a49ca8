"""Tasks that are solved by remembering and by nothing else, so that the loss says how far back a model remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor

from throughtime.data import IGNORE, Vocabulary, Window
from throughtime.data.adding import Adding
from throughtime.data.copying import Copying
from throughtime.data.drawn import Drawn, Problem, held_out
from throughtime.data.echo import Echo
from throughtime.errors import InputError, RunError
from throughtime.models.aligned import Aligned
from throughtime.models.build import build, layers
from throughtime.models.config import ModelConfig
from throughtime.models.continuous import Continuous
from throughtime.models.settings import settings_from
from throughtime.runs import Run
from throughtime.tasks.memory_config import MemoryConfig

_PROBLEMS: dict[str, Callable[[int], Problem]] = {"adding": Adding, "copy": Copying, "echo": Echo}
SYMBOLS = {"adding": "+", "copy": "abcdefgh_:", "echo": "01"}  # a coin's sides; letters, blank and delimiter


class MemoryTask:
    """The adding problem, the copying problem or the echo task: its sequences, the model and the loss.

    One window is one whole sequence: where the gradient is to be cut, a BPTT strategy cuts it inside. The adding problem's
    loss is the squared error at the last step, the others' the cross-entropy in nats; `baseline` is the loss of who knows
    nothing of the past and `optimum` that of who knows all.
    Raises: InputError for a length that the problem does not have.
    """

    def __init__(self, config: MemoryConfig, model: ModelConfig | None = None) -> None:
        self.config, self.model = config, model or ModelConfig(embedding="onehot")
        self.problem = _PROBLEMS[config.problem](config.length)

    @classmethod
    def from_run(cls, run: Run) -> MemoryTask:
        """The task that a run was made for.

        Raises: RunError for the run of another task.
        """
        tables = {name: run.config.get(name) for name in ("memory", "model")}
        if None in tables.values():
            raise RunError(
                f"{run.path} is not the run of adding, copy or echo: its config.toml has no [memory] and [model]"
            )
        try:
            return cls(*settings_from(tables, MemoryConfig, ModelConfig))
        except InputError as error:
            raise RunError(f"{run.path}: config.toml is damaged: {error}") from None

    @classmethod
    def restore(cls, run: Run) -> tuple[Aligned, MemoryTask]:
        """The trained model of a run, in eval mode on the CPU, and its task.

        Raises: RunError when the run has no weights yet, or weights of another model.
        """
        task = cls.from_run(run)
        model, tensors = task.build(), run.load_model()
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise RunError(f"the weights in {run.path} are not those of its config.toml: {reason}") from None
        return model.eval(), task

    @property
    def name(self) -> str:
        """Of the command that trains it."""
        return self.config.problem

    @property
    def unit(self) -> str:
        """What a target is."""
        return "sequence" if self.name == "adding" else "symbol"

    @property
    def measure(self) -> str:
        """What the loss is, in words."""
        return "squared error" if self.name == "adding" else "nats of cross-entropy a symbol"

    @property
    def steps(self) -> int:
        """Steps of one sequence, and so of one window."""
        return self.problem.steps

    @property
    def baseline(self) -> float:
        """The loss of who knows nothing of the past."""
        return self.problem.baseline

    @property
    def optimum(self) -> float:
        """The loss of who knows all of it."""
        return self.problem.optimum

    @property
    def vocabulary(self) -> Vocabulary:
        """A run's folder names the symbols of its model; numbers have none, and the adding problem a single one."""
        return Vocabulary.build("char", SYMBOLS[self.name])

    def levels(self) -> dict[str, float]:
        """The losses that mean something, the highest first: what is known at each."""
        if self.name == "echo":
            return {
                "knowing nothing": Echo.entropy(),
                "knowing 3 steps back": Echo.entropy((3,)),
                "knowing 3 and 8 steps back": Echo.entropy((3, 8)),
            }
        first = "always saying 1" if self.name == "adding" else "blanks, then guessing"
        return {first: self.baseline, "remembering": self.optimum}

    def build(self) -> Aligned:
        """A new model, its weights drawn from torch's generator."""
        if isinstance(self.problem, Copying | Echo):
            return build(self.model, self.problem.symbols)
        outputs = self.model.sizes[-1] * (2 if self.model.bidirectional else 1)
        return Aligned(
            Continuous(2), layers(self.model, 2), outputs=outputs, symbols=1, dropout=self.model.dropout
        )

    def streams(self, steps: int, batch: int, *, seed: int = 0, rank: int = 0, world: int = 1) -> Drawn:
        """Batches of sequences, each seen once.

        Raises: InputError unless `steps` is the length of a whole sequence.
        """
        self._check(steps)
        return Drawn(self.problem, batch, examples=self.config.examples, seed=seed, rank=rank, world=world)

    def validation(self, steps: int, batch: int) -> Iterator[Window]:
        """The same sequences every time, none of them a training sequence."""
        self._check(steps)
        return held_out(self.problem, self.config.validation, batch)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over the unmasked targets: of (y - target)^2, or of the cross-entropies in nats.

        Args: outputs [T, B, 1] or logits [T, B, V]; targets [T, B, 1] with NaN where there is none, or [T, B] with IGNORE.
        """
        if self.name == "adding":
            known = ~targets.isnan()  # picked out, not multiplied by 0: 0 * NaN is NaN
            return (outputs.float()[known] - targets[known]).square().sum()
        return F.cross_entropy(
            outputs.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The same losses one by one, as `flow.measure` takes them: [B] of the last step (adding), or [T, B], masked ones 0."""
        if self.name == "adding":
            return (outputs[-1] - targets[-1]).square().sum(-1)
        return F.cross_entropy(outputs.movedim(-1, 1), targets, ignore_index=IGNORE, reduction="none")

    def remarks(self) -> list[str]:
        """What the user should know before training."""
        if not self.model.bidirectional:
            return []
        return [
            "a bidirectional model reads the end first: its loss says little of how far back it remembers"
        ]

    def _check(self, steps: int) -> None:
        if steps != self.steps:
            raise InputError(
                f"window must be a whole sequence, {self.steps} steps, got {steps}: "
                "leave it out, and cut the gradient inside with bptt = truncated:N"
            )
