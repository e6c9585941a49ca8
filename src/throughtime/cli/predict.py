"""`throughtime predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained run.")],
    file: Annotated[str, typer.Argument(metavar="[FILE|-]", help="Text, CSV, TSV or JSON lines; -: standard input.")] = "-",
    out: Annotated[str, typer.Option(metavar="FILE", help="Where to write; -: standard output.")] = "-",
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="text, csv, tsv or jsonl. Default: by the suffix, else by the first line."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="FILE.py:CLASS", help="The run's task, where it is a file of your own.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """Predict for each line of a file, or of standard input as it comes.

    What is read is written again, with the predictions as more columns: CSV stays CSV, JSON lines stay JSON lines; of plain text a
    tab and the predictions follow each line. A classifier adds label and probability, a language model the loss of each text.

    Examples:
    echo "list index out of range" | throughtime predict runs/classify
    throughtime predict runs/intents questions.csv --out answered.csv
    throughtime predict runs/book lines.txt --format text
    """
    from throughtime.cli.output import Output
    from throughtime.data.tables import read_records, write_records
    from throughtime.runtime import load

    trained = load(run, task=task, device=device)
    records = read_records(file, form, column=trained.task.columns[0])
    _ = trained.model  # before anything is written
    with Output(out) as stream:
        write_records(stream, records.form, _answered(trained, records))


def _answered(trained, records):  # type: ignore[no-untyped-def]
    """Each record with its predictions, one at a time."""
    for record in records:
        yield {**record, **trained.predict(record)}
