"""`throughtime evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli.builder import Device, OtherValues, OwnTask, RunFolder, with_options
from throughtime.errors import InputError


def evaluate(
    run: RunFolder,
    more: Annotated[list[Path] | None, typer.Argument(metavar="FILE", hidden=True)] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE...", help="Other data, all of it. Default: a part of the run's own."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="PART",
            help="Part of the run's own data: validation or test. With --data, where that data is now. Default: validation.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Sequences side by side. A long text is cut into N, each of which starts from no state: 1 is the most exact, "
            "and slow. Default: as in training.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="T", min=1, help="Steps of a long text read at a time; changes memory, not the result."
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="float32, or quantized as 'generate --weights' does: bf16, int8. The loss shows what that costs.",
        ),
    ] = "float32",
    settings: OtherValues = None,
    task: OwnTask = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a trained model on data that it was not trained on.

    Prints the loss per target and the task's metrics; several files one by one, and together. The loss of a text is in
    nats over all symbols but the first; bits per character spread it over characters, so that char, word and bpe models compare.

    Examples:
    throughtime evaluate runs/demo
    throughtime evaluate runs/demo --data book.txt --data letters.txt --json
    throughtime evaluate runs/demo --weights int8
    throughtime evaluate runs/intents --split test
    throughtime evaluate runs/translate --split test --set beam=1
    """
    import copy

    from throughtime.files import json_text
    from throughtime.progress import ProgressBar
    from throughtime.runtime import load, with_quantized_weights

    trained = load(run, task=task, device=device)
    trained.task = with_options(trained.task, settings or [])
    if window is not None and not trained.task.stream:
        raise InputError(
            f"--window is for runs of one long text, and {run} is one of {trained.task.name}: leave it out"
        )
    model = trained.model if weights == "float32" else with_quantized_weights(trained.model, weights)
    files = [str(file) for file in [*(data or []), *(more or [])]]
    found = {}
    with ProgressBar("evaluating") as bar:
        together = not files or split is not None  # one part of one data set
        for name in [f"{split or 'validation'} part"] if together else files:
            found[name] = trained.evaluate(
                split,
                files=files if together else [name],
                model=model,
                batch=batch,
                window=window,
                progress=bar,
            )
    parts = list(found.values())
    total = copy.deepcopy(parts[0])
    for part in parts[1:]:
        total = total + part
    if as_json:
        numbers = {
            name: {"targets": each.count, **each.values} for name, each in {**found, "total": total}.items()
        }
        print(json_text({"task": trained.task.name, **numbers}, indent=2))
        return
    for name, each in {**found, **({"total": total} if len(found) > 1 else {})}.items():
        print(f"{name}: {each}, {each.count:,} {trained.task.unit}s")
    if words := trained.task.conclude(total.values):
        print(words)
