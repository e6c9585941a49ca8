"""What `throughtime flow` and `influence` measure on: a run's own kind of data, put in the form that `throughtime.flow` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.errors import InputError
from throughtime.runs import Run
from throughtime.tasks import MemoryTask, TextTask
from throughtime.tasks.memory import SYMBOLS

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.models.aligned import Aligned

_STEPS = 128
_LEAST = 8


@dataclass(frozen=True)
class Sample:
    """A model, and some data of its own kind."""

    model: Aligned
    inputs: Tensor  # [T, B] ids, or [T, B, 2] of the adding problem
    targets: Tensor
    symbols: list[str]  # of the first example, one for each step
    loss: Callable[[Any, Any], Tensor] | None = None  # None: cross-entropy at every target
    ends: int | Sequence[int] = 8  # the steps whose loss is sent back alone
    task: MemoryTask | None = None  # of a run of adding, copy or echo


def opened(run: Path) -> tuple[Aligned, TextTask | MemoryTask]:
    """The trained model of a run and its task.

    Raises: RunError where there is no run, or one of another task.
    """
    found = Run.open(run)
    return MemoryTask.restore(found) if "memory" in found.config else TextTask.restore(found)


def sample(
    run: Path, *, data: Path | None = None, steps: int | None = None, lags: int | None = None, batch: int = 8
) -> Sample:
    """Text from `data` or the run's own validation part; or sequences that a run of adding, copy or echo was not trained on.

    Raises: InputError for options that the run's task does not have, and for a text that is too short.
    """
    model, task = opened(run)
    if isinstance(task, MemoryTask):
        for option, value in (("--data", data), ("--steps", steps)):
            if value is not None:
                raise InputError(
                    f"{option} is for runs of text: the sequences of {task.name} are drawn, {task.steps} steps long; leave it out"
                )
        found = _drawn(model, task, batch)
    else:
        found = _text(run, model, task, data, steps or max(_STEPS, 2 * (lags or 0)), batch)
    if lags is not None and lags >= len(found.inputs):
        longer = "train with a longer --length" if found.task else "give a longer text or --steps"
        raise InputError(
            f"--lags must be less than the {len(found.inputs)} steps that are read, got {lags}: {longer}"
        )
    return found


def _drawn(model: Aligned, task: MemoryTask, batch: int) -> Sample:
    from throughtime.data.copying import Copying

    window = next(task.validation(task.steps, batch))
    # What is to be said again is asked for in the last steps alone; the others' targets are blanks.
    last = range(task.steps - Copying.copied, task.steps) if task.name == "copy" else 8
    return Sample(
        model=model,
        inputs=window.inputs,
        targets=window.targets,
        symbols=names(task, window.inputs[:, 0]),
        loss=task.losses if task.name == "adding" else None,
        ends=8 if model.bidirectional else last,
        task=task,
    )


def _text(run: Path, model: Aligned, task: TextTask, data: Path | None, steps: int, batch: int) -> Sample:
    """The beginnings of `batch` pieces of the text, fewer and shorter where it is short."""
    from throughtime.data import evaluation_windows, read_text
    from throughtime.tasks.text import normalized

    if data is not None:
        ids = task.vocabulary.encode(normalized(read_text(data), task.config.normalize))
    elif task.config.validation:
        ids = task.validation_ids
    else:
        raise InputError(
            f"{run} was trained on all of its text: name a text to measure it on, with --data FILE"
        )
    if len(ids) < _LEAST:
        raise InputError(f"expected a text of at least {_LEAST} symbols to measure on, got {len(ids)}")
    batch = max(1, min(batch, (len(ids) - 1) // min(steps, len(ids) - 1)))
    # A whole number of steps in each piece: no target is missing in the last.
    whole = (len(ids) - 1) // batch * batch + 1
    window = next(evaluation_windows(ids[:whole], steps, batch))
    return Sample(model, window.inputs, window.targets, names(task, window.inputs[:, 0]))


def names(task: TextTask | MemoryTask, inputs: Tensor) -> list[str]:
    """What a reader sees for each step of one sequence, [T] ids; of the adding problem [T, 2], a marked number is "+"."""
    if isinstance(task, TextTask):
        return [task.vocabulary.decode([int(number)]) for number in inputs]
    if task.name == "adding":
        return ["+" if mark else "." for mark in inputs[:, 1].tolist()]
    return [SYMBOLS[task.name][number] for number in inputs.tolist()]


def read_prompt(
    task: TextTask | MemoryTask, prompt: str | None, *, most: int
) -> tuple[Tensor, list[str], list[str]]:
    """Inputs [T, 1] or [T, 1, 2], their names, and the prompt's symbols that the model does not know.

    Without a prompt a run of adding, copy or echo reads a sequence that it was not trained on.
    Raises: InputError for text without a prompt, numbers with one, symbols that a task does not have, more than `most` steps.
    """
    import torch

    if isinstance(task, TextTask):
        if prompt is None:
            raise InputError("--prompt is needed: give the text that the model is to read")
        from throughtime.tasks.text import normalized

        text = normalized(prompt, task.config.normalize)
        inputs = task.vocabulary.encode(text)[:, None]
        unknown = task.vocabulary.unknown_symbols(text)
    elif prompt is None:
        inputs, unknown = next(task.validation(task.steps, 1)).inputs, []
    elif task.name == "adding":
        raise InputError(
            "--prompt is for runs that read symbols, and adding reads numbers: leave it out, and a sequence is drawn"
        )
    else:
        known = SYMBOLS[task.name]
        if wrong := sorted(set(prompt) - set(known)):
            raise InputError(f"--prompt must be of the symbols {known} of {task.name}, got {wrong[0]!r}")
        inputs = torch.tensor([known.index(symbol) for symbol in prompt], dtype=torch.long)[:, None]
        unknown = []
    if not 1 <= len(inputs) <= most:
        unit = task.unit if isinstance(task, TextTask) else "symbol"
        what = f"a sequence of {task.name}" if prompt is None else "--prompt"
        raise InputError(f"{what} must be 1 to {most} {unit}s, got {len(inputs)}")
    return inputs, names(task, inputs[:, 0]), list(unknown)
