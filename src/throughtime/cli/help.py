"""`throughtime help`: answers a question about throughtime with a model that ships inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from throughtime.errors import InputError

_NEAREST = 3  # questions that are named where there is no answer


def help_(
    question: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUESTION", help="In plain words; quotes are not needed."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a question about throughtime, or say that the answer is not known.

    A small model that was trained by 'throughtime train intent' on the questions that ship inside finds what is asked; nothing is
    sent anywhere. Below its threshold it names the nearest questions instead. Without a question it lists what it can answer.

    Examples:
    throughtime help how do I resume
    throughtime help "which file formats can it read?"
    """
    from throughtime.data.inside.questions import intents
    from throughtime.files import json_text

    known = intents()
    if not question:
        print(
            "Ask in your own words: throughtime help QUESTION. One question of each kind that has an answer:\n"
        )
        for each in known.values():
            if each.answer:
                print(f"  {each.questions[0]}")
        return
    text = " ".join(question)
    if not text.strip():
        raise InputError("expected a question, got an empty text: throughtime help how do I resume")
    from throughtime.cli.app import command

    if text.strip() in command().commands:
        print(f"throughtime {text.strip()} --help lists its options; ask in a sentence for more.")
        return

    from throughtime.runtime import load

    trained = load(Path(__file__).parents[1] / "data" / "inside" / "help")
    found = trained.predict(text)
    if as_json:
        print(json_text({**found, "pages": known[found["label"]].pages}))
        return
    if not found["handed_over"]:
        pages = ", ".join(known[found["label"]].pages)
        print(
            f"{found['answer']}\n\nMore: {pages} (understood as {found['label']!r}, {found['probability']:.0%} sure)"
        )
        return
    print("I do not know the answer. The nearest questions that I can answer:\n")
    for label in _nearest(trained, text):
        each = known[label]
        print(f"  {each.questions[0]} ({', '.join(each.pages)})")
    print("\nthroughtime help lists all of them; throughtime --help lists the commands.")


def _nearest(trained: Any, text: str) -> list[str]:
    """The likeliest labels that have an answer, the likeliest first."""
    from throughtime.tasks.task import run_one

    inputs, _ = trained.task.text_input(trained.assets, text)
    order = run_one(trained.model, inputs[:, 0]).argsort(descending=True).tolist()
    labels = [trained.assets.labels["label"][number] for number in order]
    return [label for label in labels if trained.assets.values["answers"][label]][:_NEAREST]
