"""`throughtime flow` and `throughtime influence`: what the gradient of a trained model does through time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.builder import OwnTask, RunFolder
from throughtime.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.data.batch import Batch
    from throughtime.flow.measurement.influence import Influence
    from throughtime.runtime.trained import Trained

_STEPS = 128
_LEAST = 8  # steps to measure on
_EXACT = 256  # up to so many outputs all of them are sent back; more are estimated
_DIRECTIONS = 64
_READ = 400  # steps of a prompt at most
_LABELS = 8  # rows of a classifier's influence

Html = Annotated[Path | None, typer.Option(metavar="OUT", help="Write a report with all pictures, one file.")]
Png = Annotated[
    Path | None, typer.Option(metavar="OUT", help="Write a picture; the suffix may be .svg or .pdf too.")
]


def flow(
    run: RunFolder,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Data of the run's kind. Default: the validation part of the run's own."
        ),
    ] = None,
    lags: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Steps to look back. Default: three quarters of those that are read, at most 127.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="T",
            min=2,
            help="Steps of a long text to read. Default: 128, or twice --lags if that is more.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Sequences to measure on.")] = 8,
    products: Annotated[
        bool,
        typer.Option(
            "--products/--no-products",
            help="Also the Jacobian products and Lyapunov exponents: most of the time. --no-products leaves them out.",
        ),
    ] = True,
    html: Html = None,
    png: Png = None,
    json: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write all numbers; -: standard output.")
    ] = None,
    own_task: OwnTask = None,
) -> None:
    """Measure how the gradient of a trained model is propagated back through time.

    Reads some data of the run's kind, backpropagates the loss of single steps, and prints how fast the gradient decays or grows
    with the lag, why, and what changes it. Nothing is trained.

    Cost: about half a minute of one core for one LSTM of 512 units, most of it for the Jacobian products;
    --no-products takes a quarter of that. It grows with the layers and with the square of their units.

    Examples:
    throughtime flow runs/demo
    throughtime flow runs/demo --data book.txt --lags 100
    throughtime flow runs/demo --html flow.html --png flow.png
    """
    from throughtime.cli.chart import lag_chart
    from throughtime.files import write_output
    from throughtime.flow import measure
    from throughtime.models.encoder_decoder import EncoderDecoder
    from throughtime.progress import ProgressBar
    from throughtime.runtime import load

    _check_outputs(html, png, json)
    trained = load(run, task=own_task)
    found_batch, symbols = _sample(trained, data, steps, lags, batch)
    task: Any = trained.task
    with ProgressBar("measuring") as progress:
        whole = found_batch.per_sequence or isinstance(trained.model, EncoderDecoder)
        found = measure(
            trained.model,
            found_batch if whole else (found_batch.inputs, found_batch.targets),
            lengths=None if whole else found_batch.lengths,
            loss=task.flow_loss(),
            lags=lags,
            ends=task.flow_ends(getattr(trained.model, "bidirectional", False)),
            examples=batch,
            products=products,
            symbols=symbols,
            progress=progress,
        )
    quiet = json is not None and str(json) == "-"  # standard output is for the numbers alone
    if not quiet:
        print(f"{found}\n\ndata: {task.describe(trained.assets)}\n")
        for layer in found.layers.values():
            print(f"{layer.name}, h: {lag_chart(layer.lag_h)}\n")
        print(found.explain())
    if html is not None:
        found.html(str(html), about=_about(trained, data))
    if png is not None:
        found.plot(str(png))
    if json is not None:
        write_output(json, found.to_json().encode() + b"\n")
    _say_written(html, png, None if quiet else json)


def influence(
    run: RunFolder,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="The text that the model reads. Generated tasks draw a sequence without it."
        ),
    ] = None,
    directions: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Estimate from N random directions of the output. Default: exact up to 256 outputs, else 64.",
        ),
    ] = None,
    png: Png = None,
    html: Html = None,
    own_task: OwnTask = None,
) -> None:
    """Show which symbols of a text, or which moments of a recording, each output depends on.

    One row for each output, one column for each symbol read: the norm of the derivative of the outputs with respect to the
    symbol's vector. A model that reads forward gives a triangle. A classifier gives a row for each of its likeliest labels; the
    text of a run on recordings is the path of one.

    Examples:
    throughtime influence runs/demo --prompt "The cat sat on the mat"
    throughtime influence runs/demo --prompt "for x in range(" --png influence.png
    throughtime influence runs/words --prompt yes.wav
    """
    import shutil

    from throughtime.flow import influence as measure
    from throughtime.models.encoder_decoder import EncoderDecoder
    from throughtime.models.many_to_one import ManyToOne
    from throughtime.progress import ProgressBar
    from throughtime.runtime import load

    _check_outputs(html, png)
    trained = load(run, task=own_task)
    task, unknown = trained.task, list[str]()
    labels = trained.assets.labels.get("label", ()) if isinstance(trained.model, ManyToOne) else ()
    if isinstance(trained.model, ManyToOne) and (not labels or directions is not None):
        raise InputError(
            f"influence needs an output for each step, or labels, and a model of {task.name} has one for a whole sequence: use "
            f"'throughtime flow {run}'"
            if not labels
            else "--directions is for models with an output for each step: leave it out"
        )
    source: Any = None
    if prompt is not None:
        inputs, unknown = task.text_input(trained.assets, prompt)
    elif (
        task.stream
        or (found := task.evaluation_batches(trained.assets, "validation", steps=_STEPS, batch=1)) is None
    ):
        raise InputError("--prompt is needed: give the text that the model is to read")
    else:
        first = next(found)
        inputs = first.inputs if first.lengths is None else first.inputs[: int(first.lengths[0])]
        source = first if isinstance(trained.model, EncoderDecoder) else None
    if not 1 <= len(inputs) <= _READ:
        what = f"a sequence of {task.name}" if prompt is None else "--prompt"
        raise InputError(f"{what} must be 1 to {_READ} symbols, got {len(inputs)}")
    if unknown:
        print(f"unknown to the model: {' '.join(map(repr, unknown))}", file=sys.stderr)
    head: Any = getattr(trained.model, "head", None)
    if directions is None and not labels and getattr(head, "out_features", 0) > _EXACT:
        directions = _DIRECTIONS
    symbols = task.step_names(trained.assets, inputs[:, 0])
    with ProgressBar("measuring") as progress:
        read = inputs if source is None else source
        result = measure(
            trained.model, read, directions=directions, symbols=symbols, outputs=labels, progress=progress
        )
    if labels:
        result = _likeliest(result, trained.model, inputs)
    print(result.text(width=shutil.get_terminal_size().columns))
    if directions is not None:
        print(f"estimated from {directions} random directions of the output")
    if png is not None:
        result.plot(str(png))
    if html is not None:
        result.html(str(html), about=_about(trained, None))
    _say_written(html, png)


def _likeliest(found: Influence, model: Any, inputs: Tensor) -> Influence:
    """The rows of the likeliest labels, the likeliest first, with their probabilities."""
    from dataclasses import replace

    from throughtime.tasks.task import run_one

    probabilities = run_one(model, inputs[:, 0]).double().softmax(-1)
    best = probabilities.topk(min(_LABELS, len(probabilities))).indices
    names = tuple(f"{found.outputs[number]} {probabilities[number]:.2f}" for number in best.tolist())
    return replace(found, matrix=found.matrix[best], outputs=names)


def _sample(
    trained: Trained, data: Path | None, steps: int | None, lags: int | None, batch: int
) -> tuple[Batch, list[str]]:
    """A batch of data of the run's kind, and the symbols of its first row's steps.

    Raises: InputError for options that the run's task does not have, and for too little data.
    """
    task = trained.task
    if not task.stream and steps is not None:
        raise InputError(
            f"--steps is for runs of one long text: the sequences of {task.name} are whole; leave it out"
        )
    read = steps or max(_STEPS, 2 * (lags or 0))
    split = "validation"
    if data is not None:
        from throughtime.tasks.files import FileTask

        if not isinstance(task, FileTask):
            raise InputError(
                f"--data is for runs that read files, and {task.name} draws its sequences: leave it out"
            )
        task, split = task.on((str(data),)), "all"
    for size in range(batch, 0, -1):  # fewer rows where the text is short, so that each has all steps
        batches = task.flow_batches(trained.assets, split, steps=read, batch=size)
        if batches is None:
            raise InputError(
                f"{trained.path} has no validation part: name data to measure it on, with --data FILE"
            )
        first = next(batches)
        if first.steps >= read or not task.stream:
            break
    if first.steps < _LEAST and task.stream:
        raise InputError(f"expected a text of at least {_LEAST} symbols to measure on, got {first.steps + 1}")
    if lags is not None and lags >= first.steps:
        raise InputError(
            f"--lags must be less than the {first.steps} steps that are read, got {lags}: give longer sequences, or fewer lags"
        )
    row = first.inputs[:, 0] if first.lengths is None else first.inputs[: int(first.lengths[0]), 0]
    return first, task.step_names(trained.assets, row)


def _check_outputs(html: Path | None, png: Path | None, json: Path | None = None) -> None:
    """Before the work, not after it."""
    from throughtime.files import check_writable
    from throughtime.flow.drawing import check, style

    for path in (html, png):
        if path is not None:
            check(path, picture=path is png)
            style()
    if json is not None:
        check_writable(json)


def _about(trained: Trained, data: Path | None) -> dict[str, str]:
    """What a report is of."""
    return {
        "run": str(trained.path),
        "task": trained.task.name,
        "model": f"{trained.config.cell}, {' + '.join(map(str, trained.config.sizes))} units",
        "data": str(data) if data is not None else trained.task.describe(trained.assets),
    }


def _say_written(*paths: Path | None) -> None:
    if written := [str(path) for path in paths if path is not None]:
        print(f"\nWritten: {', '.join(written)}")
