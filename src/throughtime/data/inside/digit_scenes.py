"""Scenes composed of images of digits, as MNIST has them, with captions that say which and where they are."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from throughtime.data.readers.captions import Captioned, as_bytes
from throughtime.errors import InputError

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Captions and places (rows and columns from the middle, in widths of a digit's ink); digits are numbered in the first caption.
LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[tuple[float, float], ...]]] = {
    "one": (("{0}",), ((0, 0),)),
    "side by side": (("{0} left of {1}", "{1} right of {0}"), ((0, -0.75), (0, 0.75))),
    "one above one": (("{0} above {1}", "{1} below {0}"), ((-0.75, 0), (0.75, 0))),
    "one above two": (
        ("three digits: {0} above {1} and {2}", "three digits: {1} and {2} below {0}"),
        ((-0.75, 0), (0.75, -0.75), (0.75, 0.75)),
    ),
    "two above one": (
        ("three digits: {0} and {1} above {2}", "three digits: {2} below {0} and {1}"),
        ((-0.75, -0.75), (-0.75, 0.75), (0.75, 0)),
    ),
    "row": (("three digits: {0} and {1} and {2} in a row",), ((0, -1), (0, 0), (0, 1))),
}
INK = 20 / 28  # of an image's width: MNIST's digits lie in the middle 20 of 28 pixels
CANVAS = 64 / 28  # widths of an image
_JITTER = 2 / 28


def digit_scenes(
    images: NDArray[np.float32], labels: Sequence[str], part: str, count: int, seed: int = 0
) -> Captioned:
    """So many scenes [1, S, S] of one to three digits, S = 64 where digits are 28 x 28; the same for the same seed.

    Every digit is used before one is used again. Of the captions that are right one is drawn to train on; it comes first.
    Args: images [N, H, W] of numbers from 0 to 1; labels, what each shows: "0" to "9" are written as words.
    Raises: InputError for fewer than three digits.
    """
    if len(images) < 3:
        raise InputError(f"scenes are made of up to three digits, and the {part} part has {len(images)}")
    draws = random.Random(f"digit scenes/{seed}/{part}")
    width = max(images.shape[1:])
    size = round(CANVAS * width)
    deck: list[int] = []
    scenes, captions = np.zeros((count, 1, size, size), np.uint8), []
    for number in range(count):
        said, places = LAYOUTS[draws.choice(tuple(LAYOUTS))]
        if len(deck) < len(places):
            deck = draws.sample(range(len(images)), len(images))
        chosen = [deck.pop() for _ in places]
        canvas = np.zeros((size, size), np.float32)
        for digit, (down, right) in zip(chosen, places, strict=True):
            jitter = [draws.uniform(-_JITTER, _JITTER) * width for _ in range(2)]
            _paste(canvas, images[digit], INK * width * down + jitter[0], INK * width * right + jitter[1])
        scenes[number] = as_bytes(canvas[..., None])
        words = [named(labels[digit]) for digit in chosen]
        right_ones = [each.format(*words) for each in said]
        draws.shuffle(right_ones)
        captions.append(tuple(right_ones))
    return Captioned(scenes, tuple(captions), 1, tuple(f"{part} {number}" for number in range(count)))


def named(label: str) -> str:
    """With its article: "a seven" of "7", "an eight" of "8"; what is no digit is one word."""
    word = _WORDS[int(label)] if label in set("0123456789") else "_".join(label.split())
    return f"{'an' if word[0].lower() in 'aei' else 'a'} {word}"


def _paste(canvas: NDArray[np.float32], image: NDArray[np.float32], down: float, right: float) -> None:
    """Lay an image on the canvas, its middle so many pixels from the canvas's; where two overlap, the lighter pixel stays."""
    corners = [
        round((whole - part) / 2 + moved)
        for whole, part, moved in zip(canvas.shape, image.shape, (down, right), strict=True)
    ]
    start = [max(0, corner) for corner in corners]
    stop = [
        min(whole, corner + part)
        for whole, corner, part in zip(canvas.shape, corners, image.shape, strict=True)
    ]
    inside = image[start[0] - corners[0] : stop[0] - corners[0], start[1] - corners[1] : stop[1] - corners[1]]
    under = canvas[start[0] : stop[0], start[1] : stop[1]]
    np.maximum(under, inside, out=under)
