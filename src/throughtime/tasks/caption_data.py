"""The images and captions of `caption`, from files, composed of digits, or drawn; and the parts they are divided into."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from throughtime.data.inside.digit_scenes import digit_scenes
from throughtime.data.inside.scenes import SIZE as DRAWN_SIZE
from throughtime.data.inside.scenes import scenes
from throughtime.data.readers.arrays import is_idx, read_digits
from throughtime.data.readers.captions import Captioned, image_key, read_captions
from throughtime.data.split import split_examples
from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.tasks.caption import CaptionTask

HELD_OUT = ("validation", "test")
FILE_SIZE = 64  # rows and columns of images from files
MOST_HELD_OUT = 500  # scenes of a held-out part that is a fraction
MOST_COMPOSED = 2000  # scenes of the digits of a file for validation or test


def read_parts(task: CaptionTask) -> tuple[Captioned, dict[str, list[int]], list[str]]:
    """All images, those to train on first; the numbers of each part; what the user should know.

    Raises: InputError for what cannot be read, and for parts with images of different sizes.
    """
    if not task.data:
        pieces = _drawn(task)
    elif is_idx(task.data[0]):
        pieces = _composed(task)
    else:
        pieces = _of_files(task)
    for part in HELD_OUT:
        if isinstance(file := getattr(task, part), str):
            pieces[part] = _file(task, file, part)
    whole, parts = pieces["train"], {"train": list(range(len(pieces["train"])))}
    for part in HELD_OUT:
        parts[part] = []
        if part not in pieces:
            continue
        shape, expected = pieces[part].images.shape[1:], whole.images.shape[1:]
        if shape != expected:
            raise InputError(
                f"the {part} part must have images like the data, {' x '.join(map(str, expected))} (colors, rows, columns), got "
                f"{' x '.join(map(str, shape))}"
            )
        parts[part] = list(range(len(whole), len(whole) + len(pieces[part])))
        whole = whole + pieces[part]
    return whole, parts, [*whole.remarks, *_shared(whole, parts)]


def _fractions(task: CaptionTask) -> dict[str, float]:
    return {part: 0.0 if isinstance(value := getattr(task, part), str) else float(value) for part in HELD_OUT}


def _counts(task: CaptionTask) -> dict[str, int]:
    """How many scenes each part has that is no file."""
    whole = min(task.scenes, task.limit or task.scenes)
    counts = {
        part: min(round(fraction * whole), MOST_HELD_OUT) for part, fraction in _fractions(task).items()
    }
    return {"train": whole - sum(counts.values())} | {part: count for part, count in counts.items() if count}


def _drawn(task: CaptionTask) -> dict[str, Captioned]:
    if not task.color:
        raise InputError("the captions of drawn scenes name colors: leave --no-color out")
    size = task.image_size or DRAWN_SIZE
    return {part: scenes(part, count, task.split_seed, size) for part, count in _counts(task).items()}


def _composed(task: CaptionTask) -> dict[str, Captioned]:
    """Scenes of digits, those of each part of digits of its own."""
    if len(task.data) > 1 or task.image_size is not None:
        problem = (
            "one file of them" if len(task.data) > 1 else "them as large as they are: leave --image-size out"
        )
        raise InputError(f"scenes are composed of digits, {problem}")
    images, labels, sources = read_digits(task.data[0])
    if labels is None:
        raise InputError(
            f"{task.data[0]}: expected a file with the labels of the digits beside it, found none"
        )
    split = split_examples(
        len(images),
        validation=_fractions(task)["validation"],
        test=_fractions(task)["test"],
        seed=task.split_seed,
        groups=[each.tobytes() for each in images],
        labels=labels,
    )
    found = {}
    for part, count in _counts(task).items():
        rows = list(getattr(split, part))
        of_part = [labels[row] for row in rows]
        found[part] = digit_scenes(images[rows], of_part, part, count, task.split_seed)
    found["train"] = found["train"].read_from(sources)
    return found


def _of_files(task: CaptionTask) -> dict[str, Captioned]:
    whole = _file(task, task.data[0], "train")
    for file in task.data[1:]:
        whole = whole + _file(task, file, "train")
    used = list(range(len(whole)))
    if task.limit is not None and task.limit < len(used):
        used = sorted(random.Random(f"limit/{task.split_seed}").sample(used, task.limit))
    keys = [image_key(whole.images[number]) for number in used]
    fractions = _fractions(task)
    split = split_examples(
        len(used),
        validation=fractions["validation"],
        test=fractions["test"],
        seed=task.split_seed,
        groups=keys,
    )
    parts = {part: [used[number] for number in getattr(split, part)] for part in ("train", *HELD_OUT)}
    found = {part: whole.take(numbers) for part, numbers in parts.items() if numbers}
    for part in HELD_OUT:
        if part in found:
            found[part] = found[part].read_from(())
    return found


def _file(task: CaptionTask, file: str, part: str) -> Captioned:
    if is_idx(file):
        images, labels, sources = read_digits(file)
        if labels is None:
            raise InputError(f"{file}: expected a file with the labels of the digits beside it, found none")
        composed = digit_scenes(images, labels, part, min(task.scenes, MOST_COMPOSED), task.split_seed)
        return composed.read_from(sources)
    size = task.image_size or (DRAWN_SIZE if not task.data else FILE_SIZE)
    return read_captions(Path(file), size, color=task.color, images=task.images, skip_bad=task.skip_bad)


def _shared(whole: Captioned, parts: dict[str, list[int]]) -> list[str]:
    """A sentence for each two parts that share images."""
    keys = {part: {image_key(whole.images[number]) for number in numbers} for part, numbers in parts.items()}
    return [
        f"{len(shared):,} of the {len(keys[second]):,} {second} images are also {first} images: they are kept, and results on "
        f"the {second} part are too good by that"
        for first, second in (("train", "validation"), ("train", "test"), ("validation", "test"))
        if (shared := keys[first] & keys[second])
    ]
