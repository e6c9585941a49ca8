"""How a training runs, as plain values. Imports no torch, so that a help text can read the defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from throughtime.errors import InputError, nearest, one_of

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "linear", "cosine", "step")
PRECISIONS = ("fp32", "bf16")
KEEPS = ("best", "last")
CLIPS = ("norm", "value", "none")
ON_SPIKE = ("warn", "stop", "rollback")
DEFAULT_EPOCHS = 10.0


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training; the defaults suit a character model on a CPU.

    Raises: InputError, on one line, for a value that no training can have. What only torch can judge, the
    strategy and the device, `throughtime.training.check` judges.
    """

    section: ClassVar[str] = "training"

    bptt: str = "truncated:64"
    """How the gradient travels back through time, as `throughtime.bptt.parse` reads it."""
    window: int | None = None
    """Steps of text in one optimiser step; None: the strategy's own, see `throughtime.training.window_of`."""
    batch: int = 16
    """Sequences side by side, on each process."""
    clip: str = "norm:1"
    """"norm:THRESHOLD", "value:THRESHOLD" or "none"."""
    optimizer: str = "adamw"
    lr: float = 3e-3
    schedule: str = "cosine"
    """How the learning rate goes down; see `throughtime.training.schedule`."""
    warmup: float = 0.02
    """Until the learning rate is reached: below 1 a share of the budget, from 1 a number of steps."""
    weight_decay: float | None = None
    """Of weight matrices only; None: 0.01 for adamw, else 0."""
    momentum: float = 0.9
    """Of the optimizer "momentum"."""
    betas: tuple[float, ...] = (0.9, 0.99)
    """Of adam and adamw."""
    steps: int | None = None
    """Optimiser steps; one of `steps`, `epochs` and `minutes` says when to end, by default 10 epochs."""
    epochs: float | None = None
    """Times through the data."""
    minutes: float | None = None
    """Time, evaluation included. The only budget whose result depends on the machine's speed."""
    seed: int = 0
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", ..."""
    precision: str = "fp32"
    """"bf16": the model's forward pass in bfloat16 where that is safe; weights and sums stay float32."""
    checkpoint_seconds: float = 60.0
    """Save all that resuming needs this often."""
    checkpoint_steps: int | None = None
    """Save it also after every so many steps."""
    evaluate_every: int | None = None
    """Steps between evaluations; None: ten in all, at least five steps apart. There is always one at the end."""
    log_every: int = 10
    """Steps between records of the history."""
    keep: str = "best"
    """The weights that model.safetensors holds: of the lowest validation loss, or the last."""
    watch: int | None = None
    """Steps between looks at the gradient's way through time; None: 200 on a CPU, 2,000 elsewhere; 0: never."""
    on_spike: str = "warn"
    """What to do when the loss jumps: "warn", "stop", or "rollback" to the weights from before."""
    rollback_lr: float = 0.5
    """What the learning rate is multiplied by from each rollback on."""
    rollback_clip: str | None = None
    """As `clip`, from the first rollback on."""
    rollbacks: int = 4
    """At most so many; the next spike stops the training."""
    tensorboard: bool = False
    """Write TensorBoard files into the run's folder too."""

    def __post_init__(self) -> None:
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("precision", self.precision, PRECISIONS)
        one_of("keep", self.keep, KEEPS)
        one_of("on_spike", self.on_spike, ON_SPIKE)
        clip_of(self.clip)
        clip_of(self.rollback_clip or "none", "rollback_clip")
        _ = self.budget
        for name in ("window", "batch", "checkpoint_steps", "evaluate_every", "log_every", "rollbacks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        for name in ("lr", "checkpoint_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} must be 0 or more, got {value}")
        if self.watch is not None and self.watch < 0:
            raise InputError(f"watch must be a number of steps, or 0 for never, got {self.watch}")
        if not 0 < self.rollback_lr <= 1:
            raise InputError(f"rollback_lr must be above 0 and at most 1, got {self.rollback_lr}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be from 0 up to 1, got {self.momentum}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas must be two numbers from 0 up to 1, got {list(self.betas)}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be a whole number from 0 to 2**63 - 1, got {self.seed}")

    @property
    def budget(self) -> tuple[str, float]:
        """What ends the training: "steps", "epochs" or "minutes", and how many of them.

        Raises: InputError for more than one, or one that is not positive.
        """
        named = {name: getattr(self, name) for name in ("steps", "epochs", "minutes")}
        given = {name: value for name, value in named.items() if value is not None}
        if len(given) > 1:
            raise InputError(
                f"the end is one of steps, epochs and minutes, got {' and '.join(given)}: keep one"
            )
        name, value = next(iter(given.items()), ("epochs", DEFAULT_EPOCHS))
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be above 0, got {value}")
        return name, value


def clip_of(spec: str, name: str = "clip") -> tuple[str, float]:
    """Read "norm:1", "value:0.1" or "none": the kind and the threshold (infinite for none).

    Raises: InputError naming the argument, `name`, and saying what can be written.
    """
    kind, colon, number = spec.partition(":")
    if spec == "none":
        return "none", math.inf
    if kind not in CLIPS:
        raise InputError(
            f"{name} must be norm:THRESHOLD, value:THRESHOLD or none, got {spec!r}.{nearest(kind, CLIPS)}"
        )
    try:
        threshold = float(number) if colon and kind != "none" else math.nan
    except ValueError:
        threshold = math.nan
    if not threshold > 0:
        raise InputError(
            f"{name} must be norm:THRESHOLD, value:THRESHOLD or none, with a number above 0, got {spec!r}"
        )
    return kind, threshold
