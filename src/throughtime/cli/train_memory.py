"""`throughtime train adding`, `copy` and `echo`: the options. What they do is in `train_memory_run.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli.options import (
    Batch,
    Cell,
    Clip,
    Device,
    ForgetBias,
    Init,
    LayerNorm,
    Layers,
    Nonlinearity,
    OnSpike,
    Optimizer,
    Out,
    Rate,
    Resume,
    Save,
    Schedule,
    Seed,
    Steps,
    model,
    running,
    time,
    watching,
)
from throughtime.models.config import ModelConfig
from throughtime.tasks.memory_config import MemoryConfig
from throughtime.training.config import TrainingConfig

_task = partial(typer.Option, rich_help_panel="Task")
_BPTT = "full, truncated:35, randomized:35, checkpointed:8 and the others of 'train text'"

Length = Annotated[int, _task(metavar="T", help="Steps of a sequence.")]
Blanks = Annotated[int, _task(metavar="T", help="Steps between hearing the symbols and saying them.")]
Validation = Annotated[int, _task(metavar="N", help="Sequences to validate with.")]
Hidden = Annotated[int, model(metavar="N", help="Units of a layer.")]
Bptt = Annotated[str, time(metavar="HOW", help=f"{_BPTT}.")]
Minutes = Annotated[float | None, time(metavar="N", help="End after N minutes, in place of --steps.")]
Watch = Annotated[
    int | None,
    watching(metavar="N", help="Measure the gradient's half-life every N steps; 0: never. See 'train text'."),
]
Every = Annotated[int | None, running(metavar="N", help="Steps between validations. Default: ten in all.")]
Config = Annotated[
    Path | None,
    running(metavar="FILE", help="TOML with sections memory, model, training; options override it."),
]


def train_adding(
    context: typer.Context,
    length: Length = MemoryConfig.length,
    validation: Validation = MemoryConfig.validation,
    cell: Cell = "gru",
    hidden: Hidden = 32,
    layers: Layers = 1,
    layer_norm: LayerNorm = False,
    init: Init = ModelConfig.init,
    forget_bias: ForgetBias = ModelConfig.forget_bias,
    nonlinearity: Nonlinearity = ModelConfig.nonlinearity,
    bptt: Bptt = "full",
    clip: Clip = TrainingConfig.clip,
    optimizer: Optimizer = "adam",
    lr: Rate = 1e-2,
    schedule: Schedule = TrainingConfig.schedule,
    batch: Batch = 32,
    steps: Steps = 2000,
    minutes: Minutes = None,
    watch: Watch = TrainingConfig.watch,
    on_spike: OnSpike = TrainingConfig.on_spike,
    seed: Seed = TrainingConfig.seed,
    device: Device = TrainingConfig.device,
    evaluate_every: Every = None,
    checkpoint_seconds: Save = TrainingConfig.checkpoint_seconds,
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Train on the adding problem: add two marked numbers of a sequence at its end.

    One mark is in the first half and one in the second; the loss is the squared error at the last step. Always
    saying 1 has 0.1667. Whoever does better remembers a number for T/2 steps or more.

    Examples:
    throughtime train adding --length 50
    throughtime train adding --length 20 --cell rnn --init orthogonal --lr 0.003
    throughtime train adding --length 200 --cell lstm --forget-bias 1 --minutes 3
    """
    from throughtime.cli.train_memory_run import train_or_resume

    train_or_resume("adding", context)


def train_copy(
    context: typer.Context,
    length: Blanks = 10,
    validation: Validation = MemoryConfig.validation,
    cell: Cell = "gru",
    hidden: Hidden = 128,
    layers: Layers = 1,
    layer_norm: LayerNorm = False,
    init: Init = ModelConfig.init,
    forget_bias: ForgetBias = ModelConfig.forget_bias,
    nonlinearity: Nonlinearity = ModelConfig.nonlinearity,
    bptt: Bptt = "full",
    clip: Clip = TrainingConfig.clip,
    optimizer: Optimizer = "adam",
    lr: Rate = 3e-3,
    schedule: Schedule = TrainingConfig.schedule,
    batch: Batch = 32,
    steps: Steps = 3000,
    minutes: Minutes = None,
    watch: Watch = TrainingConfig.watch,
    on_spike: OnSpike = TrainingConfig.on_spike,
    seed: Seed = TrainingConfig.seed,
    device: Device = TrainingConfig.device,
    evaluate_every: Every = None,
    checkpoint_seconds: Save = TrainingConfig.checkpoint_seconds,
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Train on the copying problem: say ten symbols again after T steps of silence.

    The loss is the cross-entropy over all T + 20 steps. Saying blanks and then guessing has 10 ln 8 / (T + 20).

    Examples:
    throughtime train copy
    throughtime train copy --length 50 --cell lstm --forget-bias 1
    """
    from throughtime.cli.train_memory_run import train_or_resume

    train_or_resume("copy", context)


def train_echo(
    context: typer.Context,
    length: Length = 50,
    validation: Validation = MemoryConfig.validation,
    cell: Cell = "rnn",
    hidden: Hidden = 32,
    layers: Layers = 1,
    layer_norm: LayerNorm = False,
    init: Init = ModelConfig.init,
    forget_bias: ForgetBias = ModelConfig.forget_bias,
    nonlinearity: Nonlinearity = ModelConfig.nonlinearity,
    bptt: Bptt = "full",
    clip: Clip = TrainingConfig.clip,
    optimizer: Optimizer = "adam",
    lr: Rate = 1e-2,
    schedule: Schedule = TrainingConfig.schedule,
    batch: Batch = 32,
    steps: Steps = 1000,
    minutes: Minutes = None,
    watch: Watch = TrainingConfig.watch,
    on_spike: OnSpike = TrainingConfig.on_spike,
    seed: Seed = TrainingConfig.seed,
    device: Device = TrainingConfig.device,
    evaluate_every: Every = None,
    checkpoint_seconds: Save = TrainingConfig.checkpoint_seconds,
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Train on the echo task: a coin whose bias depends on the coins thrown 3 and 8 steps ago.

    The cross-entropy says what the model remembers: 0.6616 nothing, 0.5192 three steps, 0.4545 both.

    Examples:
    throughtime train echo
    throughtime train echo --bptt truncated:5
    """
    from throughtime.cli.train_memory_run import train_or_resume

    train_or_resume("echo", context)
