"""`throughtime train text`: the options. What they do is in `train_run.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from throughtime.models.config import CELLS, INITS, NONLINEARITIES, ModelConfig
from throughtime.tasks.text_config import TextConfig
from throughtime.training.config import OPTIMIZERS, SCHEDULES, TrainingConfig

_text = partial(typer.Option, rich_help_panel="Text")
_model = partial(typer.Option, rich_help_panel="Model")
_time = partial(typer.Option, rich_help_panel="Learning through time")
_watch = partial(typer.Option, rich_help_panel="Watching")
_run = partial(typer.Option, rich_help_panel="Run")
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
    more: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", hidden=True)] = None,
    tokens: Annotated[str, _text(metavar="KIND", help="char, word or bpe.")] = TextConfig.tokens,
    vocab_size: Annotated[
        int | None, _text(metavar="N", help="Most symbols for word and bpe.")
    ] = TextConfig.vocab_size,
    normalize: Annotated[
        str, _text(metavar="HOW", help="none, lower, or letters (the course's: a to z and single spaces).")
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
    cell: Annotated[str, _model(metavar="CELL", help=f"{', '.join(CELLS)}.")] = ModelConfig.cell,
    hidden: Annotated[str, _model(metavar="N[,N...]", help="Units of a layer, or of each layer.")] = str(
        ModelConfig.hidden
    ),
    layers: Annotated[int, _model(metavar="N", help="Layers on top of each other.")] = ModelConfig.layers,
    embedding: Annotated[
        str, _model(metavar="N|onehot", help="Features of a symbol, learned, or one-hot.")
    ] = str(ModelConfig.embedding),
    dropout: Annotated[
        float, _model(metavar="P", help="Between layers and before the head.")
    ] = ModelConfig.dropout,
    recurrent_dropout: Annotated[
        float, _model(metavar="P", help="On the recurrent input, one mask for each sequence.")
    ] = ModelConfig.recurrent_dropout,
    zoneout: Annotated[float, _model(metavar="P", help="Units that keep their value.")] = ModelConfig.zoneout,
    layer_norm: Annotated[bool, _model("--layer-norm", help="Normalise inside the cell.")] = False,
    bidirectional: Annotated[
        bool, _model("--bidirectional", help="Read both ways; such a model cannot generate.")
    ] = False,
    tied: Annotated[bool, _model("--tied", help="Head and embedding share their weights.")] = False,
    init: Annotated[str, _model(metavar="HOW", help=f"{', '.join(INITS)}.")] = ModelConfig.init,
    forget_bias: Annotated[
        float, _model(metavar="X", help="LSTM: added to the forget gate at the start.")
    ] = ModelConfig.forget_bias,
    nonlinearity: Annotated[
        str, _model(metavar="PHI", help=f"RNN: {', '.join(NONLINEARITIES)}.")
    ] = ModelConfig.nonlinearity,
    peepholes: Annotated[bool, _model("--peepholes", help="LSTM: the gates see the memory.")] = False,
    reset_before: Annotated[
        bool, _model("--reset-before", help="GRU: reset before the matrix product, as the course does.")
    ] = False,
    bptt: Annotated[str, _time(metavar="HOW", help=f"{_BPTT}.")] = TrainingConfig.bptt,
    window: Annotated[
        int | None, _time(metavar="T", help="Steps of text for each update. Default: what --bptt says.")
    ] = TrainingConfig.window,
    clip: Annotated[
        str, _time(metavar="HOW", help="The gradient: norm:1, value:0.1 or none.")
    ] = TrainingConfig.clip,
    optimizer: Annotated[
        str, _time(metavar="NAME", help=f"{', '.join(OPTIMIZERS)}.")
    ] = TrainingConfig.optimizer,
    lr: Annotated[float, _time(metavar="X", help="Learning rate.")] = TrainingConfig.lr,
    schedule: Annotated[
        str, _time(metavar="NAME", help=f"Of the learning rate: {', '.join(SCHEDULES)}.")
    ] = TrainingConfig.schedule,
    warmup: Annotated[
        float, _time(metavar="N", help="Below 1: share of the training; from 1: steps.")
    ] = TrainingConfig.warmup,
    weight_decay: Annotated[
        float | None, _time(metavar="X", help="Default: 0.01 with adamw, else 0.")
    ] = TrainingConfig.weight_decay,
    batch: Annotated[int, _time(metavar="N", help="Sequences side by side.")] = TrainingConfig.batch,
    epochs: Annotated[
        float | None, _time(metavar="N", help="End after N times through the text. Default: 10.")
    ] = TrainingConfig.epochs,
    steps: Annotated[int | None, _time(metavar="N", help="End after N updates.")] = TrainingConfig.steps,
    minutes: Annotated[
        float | None, _time(metavar="N", help="End after N minutes.")
    ] = TrainingConfig.minutes,
    watch: Annotated[
        int | None,
        _watch(
            metavar="N",
            help="Look at the gradient's half-life, norm and saturation every N updates; 0: never. Default: 200, on a GPU 2,000.",
        ),
    ] = TrainingConfig.watch,
    on_spike: Annotated[
        str, _watch(metavar="HOW", help="When the loss jumps: warn, stop, or rollback to the weights before.")
    ] = TrainingConfig.on_spike,
    rollback_lr: Annotated[
        float, _watch(metavar="X", help="Each rollback multiplies the learning rate by it.")
    ] = TrainingConfig.rollback_lr,
    rollback_clip: Annotated[
        str | None, _watch(metavar="HOW", help="As --clip, from the first rollback on.")
    ] = TrainingConfig.rollback_clip,
    rollbacks: Annotated[
        int, _watch(metavar="N", help="At most so many; the next spike stops the training.")
    ] = TrainingConfig.rollbacks,
    seed: Annotated[
        int, _run(metavar="N", help="The same seed trains the same model.")
    ] = TrainingConfig.seed,
    device: Annotated[str, _run(metavar="NAME", help="auto, cpu, cuda, cuda:1.")] = TrainingConfig.device,
    precision: Annotated[
        str,
        _run(metavar="NAME", help="fp32, or bf16: layers multiply bfloat16 numbers; weights stay float32."),
    ] = TrainingConfig.precision,
    keep: Annotated[
        str, _run(metavar="WHICH", help="Weights to keep: best (by validation) or last.")
    ] = TrainingConfig.keep,
    evaluate_every: Annotated[
        int | None,
        _run(metavar="N", help="Steps between validations. Default: ten in all, at least five steps apart."),
    ] = TrainingConfig.evaluate_every,
    checkpoint_seconds: Annotated[
        float, _run(metavar="S", help="Save all that --resume needs this often.")
    ] = TrainingConfig.checkpoint_seconds,
    config: Annotated[
        Path | None,
        _run(metavar="FILE", help="TOML with sections text, model, training; options override it."),
    ] = None,
    out: Annotated[
        Path | None, _run(metavar="RUN", help="Folder of the run. Default: a new one in runs/.")
    ] = None,
    resume: Annotated[bool, _run("--resume", help="Go on with the run in --out, as it was started.")] = False,
    tensorboard: Annotated[
        bool, _run("--tensorboard", help="Write TensorBoard files into the run too.")
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
