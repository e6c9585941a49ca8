"""`throughtime tasks`."""

from __future__ import annotations

from typing import Annotated

import typer


def tasks(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the tasks: the shape of each, the data it reads, an example.

    Without --data a task trains on data that ships inside. More of a task: throughtime train NAME --help.

    Examples:
    throughtime tasks
    """
    from throughtime.bench.table import plain
    from throughtime.files import json_text
    from throughtime.tasks.registry import find_task, names

    kinds = [find_task(name).kind for name in names()]
    if as_json:
        print(
            json_text(
                {
                    kind.name: {
                        "summary": _summary(kind.__doc__),
                        "shape": kind.shape,
                        "reads": kind.reads,
                        "examples": list(kind.examples),
                    }
                    for kind in kinds
                }
            )
        )
        return
    rows = [(kind.name, kind.shape, _summary(kind.__doc__), kind.reads) for kind in kinds]
    print(plain(("task", "shape", "", "reads"), rows))
    print("\nFor example:")
    for kind in kinds:
        print(f"  {next(iter(kind.examples), f'throughtime train {kind.name}')}")


def _summary(text: str | None) -> str:
    """The first sentence of a docstring."""
    return (text or "").strip().partition("\n")[0].rstrip(".")
