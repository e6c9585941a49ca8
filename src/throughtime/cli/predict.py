"""`throughtime predict`."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.cli.builder import Device, OtherValues, OwnTask, RunFolder, with_options
from throughtime.errors import InputError, one_of

if TYPE_CHECKING:
    from throughtime.runtime import Trained

_SINGLE = ("audio", "image")  # formats of which a file is one record


def predict(
    run: RunFolder,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|-]",
            help="Text, CSV, TSV or JSON lines; -: standard input. Of recordings and images several may be named.",
        ),
    ] = None,
    out: Annotated[str, typer.Option(metavar="FILE", help="Where to write; -: standard output.")] = "-",
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="csv, tsv, jsonl or lines. Default: by the suffix, else by the first line.",
        ),
    ] = None,
    task: OwnTask = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that cannot be read.")] = False,
    settings: OtherValues = None,
    show: Annotated[
        bool,
        typer.Option(
            "--show", help="Print, for each line, what the prediction was aligned with, as a heat map."
        ),
    ] = False,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the same of the first line: PNG, SVG or PDF.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Predict for each line of a file, or of standard input as it comes.

    What is read is written again, with the predictions as more columns: CSV stays CSV, JSON lines stay JSON lines; of plain
    text a tab and the predictions follow each line. A classifier adds label and probability, a language model the loss of
    each text; where the file has such a column already, the new one is called predicted_label.

    Examples:
    echo "list index out of range" | throughtime predict runs/classify
    echo "January 5, 2021" | throughtime predict runs/translate --show
    echo "January 5, 2021" | throughtime predict runs/translate --set beam=10 --set n_best=3 --format jsonl
    throughtime predict runs/intents questions.csv --out answered.csv
    throughtime predict runs/book lines.txt --format lines
    throughtime predict runs/words yes.wav no.wav
    """
    from throughtime.cli.output import Stream
    from throughtime.data.readers.records import FORMATS, Records, open_source, write_records
    from throughtime.runtime import load

    trained = load(run, task=task, device=device)
    trained.task = with_options(trained.task, settings or [])
    columns = list(trained.task.columns)
    file, *more = files or ["-"]
    own = _own_format(trained.task.formats, file, form)
    for each in more:
        if (
            own not in _SINGLE
            or _own_format(trained.task.formats, each, form) != own
            or show
            or picture is not None
        ):
            raise InputError(
                f"several files can be named where each is a recording or an image that the run reads, and without --show, got "
                f"{file} and {each}: name one file"
            )
    if form is not None and own is None:
        one_of("format", form, (*trained.task.formats, *FORMATS))
    _ = trained.model  # before anything is read or written
    if show or picture is not None:
        if own is not None:  # the file itself is the record
            _check_picture(picture)
            print(trained.task.show(trained.model, trained.assets, {columns[0]: file}, picture))
        else:
            _show(trained, file, form, picture, skip_bad)
        return
    if own is not None:
        with Stream() if out == "-" else _written(out) as stream:
            written: Any = stream
            remarks = [
                trained.task.predict_file(
                    trained.model, trained.assets, each, written, form=own, skip_bad=skip_bad
                )
                for each in (file, *more)
            ]
        for remark in filter(None, remarks):
            print(f"throughtime: {remark}", file=sys.stderr)
        return
    with open_source(file) as source, Stream() if out == "-" else _written(out) as stream:
        records = Records(
            source, columns, format=form, name="standard input" if file == "-" else file, skip_bad=skip_bad
        )
        write: Any = None
        for record in records:
            asked = dict(zip(columns, records.texts(record), strict=True))
            added = {_free(name, record): value for name, value in trained.predict(record | asked).items()}
            if write is None:
                target: Any = stream  # has what a text stream needs: write and flush
                write = write_records(target, records.format, [*(records.fieldnames or record), *added])
            write(record | added)
    if records.remark:
        print(f"throughtime: {records.remark}", file=sys.stderr)


def _show(trained: Trained, file: str, form: str | None, picture: str | None, skip_bad: bool) -> None:
    """Print what the task shows of each record; of the first also a picture."""
    from throughtime.data.readers.records import Records, open_source

    _check_picture(picture)
    columns = list(trained.task.columns)
    name = "standard input" if file == "-" else file
    with open_source(file) as source:
        records = Records(source, columns, format=form, name=name, skip_bad=skip_bad)
        for record in records:
            asked = record | dict(zip(columns, records.texts(record), strict=True))
            print(trained.task.show(trained.model, trained.assets, asked, picture), end="\n\n", flush=True)
            picture = None
    if records.remark:
        print(f"throughtime: {records.remark}", file=sys.stderr)


def _check_picture(picture: str | None) -> None:
    """Before the work, not after it."""
    from throughtime.flow.drawing import check

    if picture is not None:
        check(picture, picture=True)


def _own_format(formats: Mapping[str, tuple[str, ...]], file: str, form: str | None) -> str | None:
    """The format of the task's own that a file has, by what was asked for or by its suffix; None: it has none of them."""
    if form is not None:
        return form if form in formats else None
    suffix = "/" if Path(file).is_dir() else Path(file).suffix.lower()
    return next((name for name, suffixes in formats.items() if suffix in suffixes), None)


def _free(name: str, record: dict[str, Any]) -> str:
    """The name, or predicted_NAME where the record has such a column already: nothing that was read is replaced."""
    while name in record:
        name = f"predicted_{name}"
    return name


@contextmanager
def _written(path: str) -> Iterator[io.StringIO]:
    """A text that is written to a file whole, or not at all."""
    from throughtime.files import check_writable, write_output

    check_writable(path)
    held = io.StringIO()
    yield held
    write_output(path, held.getvalue().encode())
