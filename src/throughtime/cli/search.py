"""`throughtime search`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from throughtime.cli.builder import Device, OwnTask, RunFolder
from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.tasks.search_index import Hit

_LINES, _WIDTH = 4, 110  # of a passage that are shown


def search(
    run: RunFolder,
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUERY]", help="What to look for. Default: each line of standard input."),
    ] = None,
    where: Annotated[
        Path | None,
        typer.Option(
            "--in",
            metavar="FOLDER|FILE",
            help="What to search: text files, or a table. Default: the run's own passages.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Passages to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each query.")] = False,
    task: OwnTask = None,
    device: Device = "auto",
) -> None:
    """Find passages with a trained search: the best first, each with its score and its place.

    Searches the passages that the run was trained with, or those of a folder: the paragraphs of its text files, or the column
    "passage" of a table. The score is the cosine of two vectors, 1 at most. The vectors of passages are kept in the run; when
    files change, only new passages are read by the model.

    Examples:
    throughtime search runs/search "remove a folder and all in it"
    throughtime search runs/search "where are options declared" --in my_project -k 3
    cat questions.txt | throughtime search runs/faq --json
    """
    from throughtime.files import json_text
    from throughtime.runtime import load
    from throughtime.tasks.search import SearchTask

    trained = load(run, task=task, device=device)
    if not isinstance(trained.task, SearchTask):
        raise InputError(
            f"search is for runs of the task search, and {run} is one of {trained.task.name}: train one with "
            "'throughtime train search'"
        )
    index = trained.task.index(trained.model, trained.assets, where)
    for remark in index.remarks:
        print(f"throughtime: {remark}", file=sys.stderr)
    asked = [" ".join(query)] if query else (line.rstrip("\r\n") for line in sys.stdin)
    for number, text in enumerate(asked):
        if query is None and not text.strip():
            continue
        hits = index.search(text, k)
        if as_json:
            found = [{"score": hit.score, **hit.passage._asdict()} for hit in hits]
            print(json_text({"query": text, "found": found}), flush=True)
        else:
            print(("\n" if number else "") + "\n".join(map(_shown, hits)), flush=True)


def _shown(hit: Hit) -> str:
    """A passage as it is printed: score, place, first lines."""
    lines = [line.rstrip() for line in hit.passage.text.splitlines() if line.strip()]
    shown = [line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..." for line in lines[:_LINES]]
    more = ["..."] if len(lines) > _LINES else []
    return "\n".join(
        [f"{hit.score:6.3f}  {hit.passage.place}", *(f"        {line}" for line in [*shown, *more])]
    )
