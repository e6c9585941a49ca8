"""`throughtime evaluate`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.tasks import TextTask


@dataclass(frozen=True)
class Score:
    """How well one text is predicted."""

    name: str
    nats: float  # of the whole text
    targets: int  # symbols that were predicted: all but the first
    characters: int  # that these symbols stand for
    unknown: int  # targets that the vocabulary does not have

    @property
    def numbers(self) -> dict[str, Any]:
        """What is printed, by name."""
        loss = self.nats / self.targets
        return {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 709 else math.inf,
            "bits_per_character": self.nats / math.log(2) / max(1, self.characters),
            **{name: value for name, value in asdict(self).items() if name != "nats"},
        }


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained run.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="FILE", hidden=True)] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...", help="UTF-8 text. Default: the validation part of the run's own text."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Cut each text into N pieces, read side by side; each starts knowing nothing. "
            "1 is the most exact, and slow. Default: as in training.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="T",
            min=1,
            help="Steps read at a time; changes memory, not the result, unless bidirectional.",
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="float32, or as 'generate --weights' rounds them: bf16, int8. The loss shows what that costs.",
        ),
    ] = "float32",
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how well a trained model predicts a text.

    The loss is the mean over all symbols but the first, in nats; perplexity is exp(loss). Bits per
    character is the same loss spread over characters, so that char, word and bpe models compare.
    Runs of adding, copy and echo are measured on sequences that they were not trained on.

    Examples:
    throughtime evaluate runs/demo
    throughtime evaluate runs/demo --data book.txt --data letters.txt --json
    throughtime evaluate runs/demo --weights int8
    """
    from throughtime.runs import Run
    from throughtime.tasks import TextTask
    from throughtime.training.processes import Processes

    opened = Run.open(run)
    if "memory" in opened.config:
        from throughtime.cli.evaluate_memory import evaluate_memory

        refused = {"--data": data or more, "--window": window, "--weights": weights != "float32"}
        evaluate_memory(opened, refused, batch=batch, device=device, as_json=as_json)
        return
    restored, task = TextTask.restore(opened)
    model = _rounded(restored, weights)
    files = [*(data or []), *(more or [])]
    settings = opened.config.get("training", {})
    batch = batch or int(settings.get("batch", 16))
    window = window or int(settings.get("window", 256))
    place = Processes(device).device
    model.to(place)
    texts = _files(files, task) if files else _own(opened.path, task)
    scores = [
        _score(name, ids, characters, model, task, window, batch, place) for name, ids, characters in texts
    ]
    total = Score(
        "total",
        *(
            sum(getattr(score, name) for score in scores)
            for name in ("nats", "targets", "characters", "unknown")
        ),
    )
    if as_json:
        print(json.dumps({"texts": [score.numbers for score in scores], "total": total.numbers}, indent=2))
        return
    for score in [*scores, total] if len(scores) > 1 else scores:
        print(_line(score, task.unit))


def _files(files: list[Path], task: TextTask) -> list[tuple[str, Tensor, int]]:
    """Each file's name, ids, and characters but for its first symbol's."""
    from throughtime.data import read_text
    from throughtime.tasks.text import normalized

    texts = []
    for file in files:
        text = normalized(read_text([file]), task.config.normalize)
        ids = task.vocabulary.encode(text)
        texts.append((str(file), ids, len(text) - len(task.vocabulary.decode(ids[:1]))))
    return texts


def _own(path: Path, task: TextTask) -> list[tuple[str, Tensor, int]]:
    if not task.config.validation:
        raise InputError(
            f"{path} was trained on all of its text: name a text to evaluate it on, with --data FILE"
        )
    ids = task.validation_ids
    return [("validation part", ids, len(task.vocabulary.decode(ids[1:])))]


def _rounded(model: nn.Module, weights: str) -> nn.Module:
    """The model, or one with the weights that it would generate with."""
    if weights == "float32":
        return model
    from throughtime.runtime import with_rounded_weights

    return with_rounded_weights(model, weights)


def _score(
    name: str,
    ids: Tensor,
    characters: int,
    model: nn.Module,
    task: TextTask,
    window: int,
    batch: int,
    device: Any,
) -> Score:
    from throughtime.data import evaluation_windows
    from throughtime.training.evaluation import evaluate as measure

    try:
        windows = evaluation_windows(ids, window, batch)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    found = measure(model, windows, task.loss, device=device)
    unknown = task.vocabulary.unknown
    missing = 0 if unknown is None else int((ids[1:] == unknown).sum())
    return Score(name, found.loss * found.count, found.count, characters, missing)


def _line(score: Score, unit: str) -> str:
    n = score.numbers
    line = (
        f"{score.name}: loss {n['loss']:.4f} nats per {unit}, perplexity {n['perplexity']:.4g}, "
        f"{n['bits_per_character']:.4f} bits per character, {score.targets:,} {unit}s"
    )
    return line + (f", {score.unknown:,} of them unknown to the model" if score.unknown else "")
