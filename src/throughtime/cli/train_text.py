"""`throughtime train text`: the options. What they do is in `train_run.py`."""

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
from throughtime.tasks.text_config import TextConfig
from throughtime.training.config import TrainingConfig

_text = partial(typer.Option, rich_help_panel="Text")
_BPTT = "full | truncated:35 | truncated:35/5 | randomized:35 | polynomial:35 | random_window:20-50 | checkpointed:8"


def train_text(
    context: typer.Context,
    data: Annotated[
        list[Path] | None,
        _text(
            metavar="FILE...",
            help="UTF-8 text; repeat for more files. Default: Python's own language reference.",
        ),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="FILE", hidden=True)] = None,
    tokens: Annotated[str, _text(metavar="KIND", help="char, word or bpe.")] = TextConfig.tokens,
    vocab_size: Annotated[
        int | None, _text(metavar="N", help="Most symbols for word and bpe.")
    ] = TextConfig.vocab_size,
    normalize: Annotated[
        str, _text(metavar="HOW", help="none, lower, or letters (a to z and single spaces).")
    ] = TextConfig.normalize,
    limit: Annotated[
        int | None, _text(metavar="N", help="Use only the first N characters, after normalizing.")
    ] = TextConfig.limit,
    validation: Annotated[
        float, _text(metavar="SHARE", help="The last part of the text, not trained on; 0 for none.")
    ] = TextConfig.validation,
    sampling: Annotated[
        str, _text(metavar="HOW", help="sequential: the state is carried on; random: windows are shuffled.")
    ] = TextConfig.sampling,
    cell: Cell = ModelConfig.cell,
    hidden: Annotated[str, model(metavar="N[,N...]", help="Units of a layer, or of each layer.")] = str(
        ModelConfig.hidden
    ),
    layers: Layers = ModelConfig.layers,
    embedding: Annotated[
        str, model(metavar="N|onehot", help="Features of a symbol, learned, or one-hot.")
    ] = str(ModelConfig.embedding),
    dropout: Annotated[
        float, model(metavar="P", help="Between layers and before the head.")
    ] = ModelConfig.dropout,
    recurrent_dropout: Annotated[
        float, model(metavar="P", help="On the recurrent input, one mask for each sequence.")
    ] = ModelConfig.recurrent_dropout,
    zoneout: Annotated[float, model(metavar="P", help="Units that keep their value.")] = ModelConfig.zoneout,
    layer_norm: LayerNorm = False,
    bidirectional: Annotated[
        bool, model("--bidirectional", help="Read both ways; such a model cannot generate.")
    ] = False,
    tied: Annotated[bool, model("--tied", help="Head and embedding share their weights.")] = False,
    init: Init = ModelConfig.init,
    forget_bias: ForgetBias = ModelConfig.forget_bias,
    nonlinearity: Nonlinearity = ModelConfig.nonlinearity,
    peepholes: Annotated[bool, model("--peepholes", help="LSTM: the gates see the memory.")] = False,
    reset_before: Annotated[
        bool, model("--reset-before", help="GRU: reset before the matrix product, as in Cho et al. 2014.")
    ] = False,
    bptt: Annotated[str, time(metavar="HOW", help=f"{_BPTT}.")] = TrainingConfig.bptt,
    window: Annotated[
        int | None, time(metavar="T", help="Steps of text for each update. Default: what --bptt says.")
    ] = TrainingConfig.window,
    clip: Clip = TrainingConfig.clip,
    optimizer: Optimizer = TrainingConfig.optimizer,
    lr: Rate = TrainingConfig.lr,
    schedule: Schedule = TrainingConfig.schedule,
    warmup: Annotated[
        float, time(metavar="N", help="Below 1: share of the training; from 1: steps.")
    ] = TrainingConfig.warmup,
    weight_decay: Annotated[
        float | None, time(metavar="X", help="Default: 0.01 with adamw, else 0.")
    ] = TrainingConfig.weight_decay,
    batch: Batch = TrainingConfig.batch,
    epochs: Annotated[
        float | None, time(metavar="N", help="End after N times through the text. Default: 10.")
    ] = TrainingConfig.epochs,
    steps: Steps = TrainingConfig.steps,
    minutes: Annotated[float | None, time(metavar="N", help="End after N minutes.")] = TrainingConfig.minutes,
    watch: Annotated[
        int | None,
        watching(
            metavar="N",
            help="Look at the gradient's half-life, norm and saturation every N updates; 0: never. Default: 200, on a GPU 2,000.",
        ),
    ] = TrainingConfig.watch,
    on_spike: OnSpike = TrainingConfig.on_spike,
    rollback_lr: Annotated[
        float, watching(metavar="X", help="Each rollback multiplies the learning rate by it.")
    ] = TrainingConfig.rollback_lr,
    rollback_clip: Annotated[
        str | None, watching(metavar="HOW", help="As --clip, from the first rollback on.")
    ] = TrainingConfig.rollback_clip,
    rollbacks: Annotated[
        int, watching(metavar="N", help="At most so many; the next spike stops the training.")
    ] = TrainingConfig.rollbacks,
    seed: Seed = TrainingConfig.seed,
    device: Device = TrainingConfig.device,
    precision: Annotated[
        str,
        running(
            metavar="NAME", help="fp32, or bf16: layers multiply bfloat16 numbers; weights stay float32."
        ),
    ] = TrainingConfig.precision,
    keep: Annotated[
        str, running(metavar="WHICH", help="Weights to keep: best (by validation) or last.")
    ] = TrainingConfig.keep,
    evaluate_every: Annotated[
        int | None,
        running(
            metavar="N", help="Steps between validations. Default: ten in all, at least five steps apart."
        ),
    ] = TrainingConfig.evaluate_every,
    checkpoint_seconds: Save = TrainingConfig.checkpoint_seconds,
    config: Annotated[
        Path | None,
        running(metavar="FILE", help="TOML with sections text, model, training; options override it."),
    ] = None,
    out: Out = None,
    resume: Resume = False,
    tensorboard: Annotated[
        bool, running("--tensorboard", help="Write TensorBoard files into the run too.")
    ] = TrainingConfig.tensorboard,
) -> None:
    """Train a language model on text: it learns to tell the next character, word or byte pair.

    Examples:
    throughtime train text --data book.txt
    throughtime train text --data book.txt --cell gru --hidden 256 --minutes 3
    throughtime train text a.txt b.txt --tokens bpe --layers 2 --dropout 0.2
    throughtime train text --data book.txt --bptt randomized:35 --clip value:0.1
    throughtime train text --resume --out runs/book
    """
    from throughtime.cli.train_run import train_or_resume

    train_or_resume(context)
