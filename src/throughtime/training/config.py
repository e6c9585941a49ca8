"""How a training runs, as plain values. Imports no torch, so that a help text can read the defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from throughtime.errors import InputError, nearest
from throughtime.options import Settings, option

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "linear", "cosine", "step")
PRECISIONS = ("fp32", "bf16")
KEEPS = ("best", "last")
CLIPS = ("norm", "value", "none")
ON_SPIKE = ("warn", "stop", "rollback")
BUDGETS = ("epochs", "steps", "minutes")
DEFAULT_EPOCHS = 10.0
MAY_CHANGE = (
    "tensorboard",
    "watch",
    "on_spike",
    "rollback_lr",
    "rollback_clip",
    "rollbacks",
    "checkpoint_seconds",
    "checkpoint_steps",
)
"""Settings that a resumed training may change: they make no other model, or say what is done when its loss jumps."""

_BPTT = "full | truncated:35 | truncated:35/5 | randomized:35 | polynomial:35 | random_window:20-50 | checkpointed:8"
_through_time = partial(option, panel="Learning through time")
_watching = partial(option, panel="Watching")
_running = partial(option, panel="Run")
_steps = partial(_running, metavar="N", low=1)


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


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """The settings of a training; the defaults suit a character model on a CPU.

    Raises: InputError, on one line, for a value that no training can have. What only torch can judge, the
    strategy and the device, `throughtime.training.check` judges.
    """

    section: ClassVar[str] = "training"

    bptt: str = _through_time("truncated:64", f"{_BPTT}.", metavar="HOW")
    window: int | None = _through_time(
        None,
        "Steps of one long sequence in an optimizer step. Default: what --bptt says.",
        metavar="T",
        low=1,
        high=2**31,
    )
    batch: int = _through_time(16, "Sequences side by side, on each process.", metavar="N", low=1, high=2**24)
    clip: str = _through_time(
        "norm:1", "The gradient: norm:1, value:0.1 or none.", metavar="HOW", check=clip_of
    )
    optimizer: str = _through_time("adamw", f"{', '.join(OPTIMIZERS)}.", metavar="NAME", choices=OPTIMIZERS)
    lr: float = _through_time(3e-3, "Learning rate.", metavar="X", above=0, high=1e4)
    schedule: str = _through_time(
        "cosine", f"Of the learning rate: {', '.join(SCHEDULES)}.", metavar="NAME", choices=SCHEDULES
    )
    warmup: float = _through_time(
        0.02,
        "Linear warm-up; below 1: fraction of the training; from 1: steps.",
        metavar="N",
        low=0,
        high=1e12,
    )
    weight_decay: float | None = _through_time(
        None, "Of weight matrices only. Default: 0.01 with adamw, else 0.", metavar="X", low=0, high=1e4
    )
    momentum: float = _through_time(0.9, "Of the optimizer momentum.", metavar="X", low=0, below=1)
    betas: tuple[float, ...] = _through_time(
        (0.9, 0.99), "Of adam and adamw.", metavar="B1,B2", low=0, below=1
    )
    epochs: float | None = _through_time(
        None, "End after N passes over the data. Default: 10.", metavar="N", above=0, high=1e12
    )
    steps: int | None = _through_time(None, "End after N optimizer steps.", metavar="N", low=1, high=2**53)
    minutes: float | None = _through_time(
        None, "End after N minutes, evaluations included.", metavar="N", above=0, high=1e9
    )
    patience: int | None = _through_time(
        None, "Early stopping: end after N evaluations without an improvement.", metavar="N", low=1
    )
    init_from: str | None = _through_time(
        None,
        "Start from the weights of another run: fine-tune on other data, or train longer.",
        metavar="RUN",
    )
    watch: int | None = _watching(
        None,
        "Measure the gradient's half-life, norm and saturation every N steps; 0: never. Default: 200, on a GPU 2,000.",
        metavar="N",
        low=0,
    )
    on_spike: str = _watching(
        "warn",
        "When the loss jumps: warn, stop, or rollback to earlier weights.",
        metavar="HOW",
        choices=ON_SPIKE,
    )
    rollback_lr: float = _watching(
        0.5, "Each rollback multiplies the learning rate by it.", metavar="X", above=0, high=1
    )
    rollback_clip: str | None = _watching(
        None, "As --clip, from the first rollback on.", metavar="HOW", check=clip_of
    )
    rollbacks: int = _watching(4, "At most N; the next spike stops the training.", metavar="N", low=1)
    seed: int = _running(0, "The same seed trains the same model.", metavar="N", low=0, high=2**63 - 1)
    device: str = _running("auto", "auto, cpu, cuda, cuda:1.", metavar="NAME")
    precision: str = _running(
        "fp32",
        "fp32, or bf16: layers multiply bfloat16 numbers; weights stay float32.",
        metavar="NAME",
        choices=PRECISIONS,
    )
    keep: str = _running(
        "best", "Weights to keep: best (by validation) or last.", metavar="WHICH", choices=KEEPS
    )
    evaluate_every: int | None = _steps(
        None, "Steps between evaluations. Default: ten in all, at least five steps apart."
    )
    checkpoint_seconds: float = _running(
        60.0, "Save all that --resume needs this often.", metavar="S", above=0, high=1e9
    )
    checkpoint_steps: int | None = _steps(None, "Save it also every N steps.")
    log_every: int = _steps(10, "Steps between records of history.jsonl.")
    tensorboard: bool = _running(False, "Write TensorBoard files into the run too.")
    no_baselines: bool = _running(False, "Do not compute the baselines for the final table.")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.budget
        if len(self.betas) != 2:
            raise InputError(f"betas must be two numbers from 0 up to 1, got {list(self.betas)}")

    @property
    def budget(self) -> tuple[str, float]:
        """What ends the training: "steps", "epochs" or "minutes", and how many of them.

        Raises: InputError for more than one.
        """
        found = {name: getattr(self, name) for name in BUDGETS if getattr(self, name) is not None}
        if len(found) > 1:
            raise InputError(
                f"the end is one of steps, epochs and minutes, got {' and '.join(found)}: keep one"
            )
        return next(iter(found.items()), ("epochs", DEFAULT_EPOCHS))
