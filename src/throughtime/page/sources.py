"""What a model reads, made into the steps of one sequence: typed text, numbers, samples of sound, a file, the run's own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from throughtime.errors import InputError
from throughtime.tasks import FileTask

if TYPE_CHECKING:
    from throughtime.runtime.trained import Trained

STEPS = 20_000
"""Steps of one sequence that are read at most."""


@dataclass(frozen=True)
class Reading:
    """One sequence as the model reads it."""

    inputs: Tensor  # [T, 1] ids, or [T, 1, D]
    names: tuple[str, ...]  # T of them: what a reader sees of each step
    unknown: tuple[int, ...] = ()  # steps whose symbol the model does not know
    truth: tuple[str, ...] | str | None = (
        None  # of the run's own data: the label of each step, or of the whole
    )
    remark: str = ""  # what the user should know, such as that it was cut

    def __len__(self) -> int:
        return len(self.names)


def kind_of(trained: Trained) -> str:
    """What the run reads: "text", "numbers" or "audio"."""
    column = trained.task.columns[0]
    if hasattr(trained.task, "front") or column == "path":
        return "audio"
    from throughtime.models.embeddings import Continuous
    from throughtime.models.forecaster import Forecaster

    model: Any = trained.model
    numbers = isinstance(model, Forecaster) or isinstance(getattr(model, "embedding", None), Continuous)
    return "numbers" if numbers else "text"


def takes_numbers(trained: Trained) -> bool:
    """Whether `of_numbers` reads for this run."""
    return kind_of(trained) == "numbers" and not {"frames", "numbers"}.isdisjoint(trained.assets.values)


def of_text(trained: Trained, text: str) -> Reading:
    """A typed text. Raises: InputError for an empty one, more than STEPS symbols, or a run that reads no text."""
    if (kind := kind_of(trained)) != "text":
        raise InputError(
            f"this model reads {kind}, not text: give it {'numbers' if kind == 'numbers' else 'a recording'}"
        )
    # A symbol has 4 bytes at least in few vocabularies, and many characters in few: more than this cannot be few symbols.
    if len(text) > 16 * STEPS:
        raise InputError(
            f"expected at most {STEPS:,} symbols, got a text of {len(text):,} characters: shorten it"
        )
    inputs, _ = trained.task.text_input(trained.assets, text)
    return _checked(inputs, *_names(trained, inputs, text))


def of_ids(trained: Trained, ids: Sequence[int]) -> Reading:
    """Symbols of a language model by number. Raises: InputError for none, or numbers outside the vocabulary."""
    size = len(trained.assets.vocabulary)
    if not all(type(each) is int and 0 <= each < size for each in ids):
        raise InputError(f"ids must be whole numbers between 0 and {size - 1}")
    inputs = torch.tensor(list(ids), dtype=torch.int64)[:, None]
    return _checked(inputs, *_names(trained, inputs, None))


def of_numbers(trained: Trained, values: Any) -> Reading:
    """Steps of numbers in the data's own units, [t, D] as nested lists. Raises: InputError for other shapes."""
    from throughtime.data.readers.series import parse_values, scaled
    from throughtime.tasks.frames import kept_of

    task: Any = trained.task
    if (kind := kind_of(trained)) != "numbers":
        raise InputError(f"this model reads {kind}, not numbers")
    if "frames" in trained.assets.values:
        kept = kept_of(trained.assets)
        inputs = scaled(parse_values(values, int(kept["size"])), kept["scale"])[:, None]
    elif "numbers" in trained.assets.values:
        record = {task.columns[0]: values}
        inputs = task._encode(trained.assets, task._inputs.of_record(trained.assets, record))[:, None]
    else:
        raise InputError(f"runs of {task.name} are shown their own data and files of it: choose an example")
    return _checked(inputs, tuple(task.step_names(trained.assets, inputs[:, 0])))


def of_sound(trained: Trained, samples: Tensor, rate: int) -> Reading:
    """Samples [n] of full scale 1, of one channel, at `rate` in a second; resampled to the run's.

    Raises: InputError for a run that reads no sound, none, or samples that are no finite numbers.
    """
    from throughtime.data.readers.audio import resampled

    task: Any = trained.task
    if (kind := kind_of(trained)) != "audio":
        raise InputError(f"this model reads {kind}, not sound")
    if samples.dim() != 1 or not len(samples) or not bool(samples.isfinite().all()):
        raise InputError(f"samples must be one or more finite numbers [n], got {list(samples.shape)}")
    if not 100 <= rate <= 10**6:
        raise InputError(f"rate must be 100 to 1,000,000 samples in a second, got {rate}")
    if hasattr(task, "front"):
        front = task.front(trained.assets)
        inputs = front.of(torch.from_numpy(resampled(samples.float().numpy(), rate, front.rate)))
    else:
        from throughtime.data.readers.labelled_audio import Sound

        inputs = task._encode(trained.assets, Sound(samples.float(), rate))
    return _checked(inputs[:, None], tuple(task.step_names(trained.assets, inputs)))


def of_file(trained: Trained, path: str | Path, *, example: int = 1, steps: int = STEPS) -> Reading:
    """A file of the run's kind: a text, a recording, or one example of a file as the task reads them.

    Args: example, which of several, from 1; steps, of a long one that are read, its first.
    Raises: InputError for a file that cannot be read, and for an example that is not there.
    """
    from throughtime.data.readers.audio import SUFFIXES, mono, read_recording

    kind, task = kind_of(trained), trained.task
    if kind == "audio" and Path(path).suffix.lower() in SUFFIXES:
        found = read_recording(path)
        return _cut(of_sound(trained, torch.from_numpy(mono(found.samples)), found.rate), steps)
    if kind == "text" and (task.stream or Path(path).suffix.lower() in ("", ".txt", ".md", ".py")):
        from throughtime.data.text import read_sources

        text, _ = read_sources([path])
        reading = of_text(trained, text[: 2 * steps if _by_character(trained) else 16 * steps])
        return _cut(reading, steps)
    if not isinstance(task, FileTask):
        raise InputError(f"{task.name} draws its sequences and reads no files: leave the file out")
    return _example(trained, task.on((str(path),)), "all", example, steps, str(path))


def of_run(trained: Trained, *, example: int = 1, steps: int = 1000) -> Reading:
    """An example of the validation part of the run's own data. Raises: InputError where there is none."""
    return _example(
        trained, trained.task, "validation", example, steps, "the validation part of the run's data"
    )


def _example(trained: Trained, task: Any, split: str, example: int, steps: int, where: str) -> Reading:
    if example < 1:
        raise InputError(f"example must be at least 1, got {example}")
    batches = task.evaluation_batches(trained.assets, split, steps=steps, batch=1)
    batch = None if batches is None else next(islice(batches, example - 1, None), None)
    if batch is None or not isinstance(batch.inputs, Tensor):
        raise InputError(
            f"{where} has no example {example} that can be shown: name a file, or another number"
        )
    length = batch.steps if batch.lengths is None else int(batch.lengths[0])
    inputs = batch.inputs[:length, :1]
    names, unknown = _names(trained, inputs, None)
    return _cut(_checked(inputs, names, unknown, truth=_truth(trained, batch, length)), steps)


def _truth(trained: Trained, batch: Any, length: int) -> tuple[str, ...] | str | None:
    """The labels of the run's own data in words, where it has some."""
    labels = next(iter(trained.assets.labels.values()), ())
    targets = batch.targets
    if not labels or not isinstance(targets, Tensor) or targets.is_floating_point():
        return None
    if hasattr(trained.task, "front"):
        from throughtime.tasks.transcribe import text_of

        return text_of(trained.assets, [n for n in targets[0].tolist() if n >= 0])
    if batch.per_sequence:
        number = int(targets[0])
        return labels[number] if 0 <= number < len(labels) else None
    if (
        trained.assets.vocabularies
    ):  # the targets are the next symbols, and the labels something else, such as styles
        return None
    return tuple(labels[n] if 0 <= n < len(labels) else "" for n in targets[:length, 0].tolist())


def _names(trained: Trained, inputs: Tensor, text: str | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What is shown of each step, and which steps the model does not know: their own characters where they can be found."""
    names = list(trained.task.step_names(trained.assets, inputs[:, 0]))
    if kind_of(trained) != "text":
        return tuple(names), ()
    known = [
        vocabulary for vocabulary in trained.assets.vocabularies.values() if vocabulary.unknown is not None
    ]
    if inputs.dim() == 2 and known:
        unknown = [n for n, number in enumerate(inputs[:, 0].tolist()) if number == known[0].unknown]
    else:
        unknown = [n for n, name in enumerate(names) if name in ("<unk>", "<unknown>")]
    own: list[str] = []
    if text is not None:
        tokens = getattr(trained.task, "tokens_of", None)
        own = list(text if tokens is None else tokens(text))
    if len(own) == len(names):
        for step in unknown:
            names[step] = own[step]
    return tuple(names), tuple(unknown)


def _by_character(trained: Trained) -> bool:
    return any(vocabulary.kind == "char" for vocabulary in trained.assets.vocabularies.values())


def _checked(
    inputs: Tensor, names: Sequence[str], unknown: tuple[int, ...] = (), truth: Any = None
) -> Reading:
    if len(inputs) == 0:
        raise InputError("expected one or more steps to read, got none: type a text or choose an example")
    if len(inputs) > STEPS:
        raise InputError(f"expected at most {STEPS:,} steps, got {len(inputs):,}: shorten it")
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        raise InputError("expected finite numbers, got NaN or infinity")
    return Reading(inputs, tuple(names), unknown, truth)


def _cut(reading: Reading, steps: int) -> Reading:
    """The first steps of a long one, with a remark that says so."""
    if len(reading) <= steps:
        return reading
    truth = reading.truth[:steps] if isinstance(reading.truth, tuple) else reading.truth
    return Reading(
        reading.inputs[:steps],
        reading.names[:steps],
        tuple(step for step in reading.unknown if step < steps),
        truth,
        f"the first {steps:,} steps",
    )


def picture_of(trained: Trained) -> dict[str, Any]:
    """How inputs of numbers are drawn: "lines", "image" or "spectrogram", and what belongs to it."""
    task: Any = trained.task
    if kind_of(trained) == "audio":
        if hasattr(task, "front"):
            front = task.front(trained.assets)
            rate, stack, seconds = int(front.rate), int(task.stack), float(front.seconds)
        else:
            rate = int(trained.assets.values["audio"]["front"]["rate"])
            stack, seconds = int(task.stack), float(task.hop * task.stack)
        return {"draw": "spectrogram", "rate": rate, "stack": stack, "seconds": seconds}
    frame = trained.assets.values.get("frames", {}).get("frame")
    if frame:
        return {"draw": "image", "frame": [int(each) for each in frame]}
    from throughtime.tasks.classify_numbers import names_of

    names = names_of(getattr(task, "features", ()) or ())
    return {"draw": "lines", "columns": list(names)}
