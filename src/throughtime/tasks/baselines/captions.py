"""Baselines of captioning: the most frequent caption, that of the nearest training image, and a linear model of each word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Caption = tuple[str, ...]  # its words
Images = NDArray[np.uint8]  # [N, C, H, W]
Numbers = NDArray[np.float32]
GRID = 8  # rows and columns of the cells that `colors_and_edges` describes
MOST_IMAGES = 5000  # of the training part that are compared with, or fitted to
_ANGLES = 8
_RIDGE = 10.0  # added to the diagonal, of features with deviation 1
_ROWS = 256  # images that are compared at once


def captions_by_baseline(
    images: Images, captions: Sequence[Caption], asked: Images, limit: int
) -> dict[str, list[Caption]]:
    """The captions that each baseline gives to the images `asked`, at most `limit` words each.

    Args: images, captions: of the training part, one caption for each row; at most MOST_IMAGES rows, evenly spaced, are used but
    for the most frequent caption.
    Cost: the product of both numbers of images and the numbers of an image; and for each place in the longest caption the square
    of the features of an image for each training image, about ten seconds of one core for 5,000 images.
    """
    most = Counter(captions).most_common(1)[0][0]
    every = -(-len(captions) // MOST_IMAGES)
    images, captions = images[::every], captions[::every]
    seen, new = colors_and_edges(images), colors_and_edges(asked)
    mean, deviation = seen.mean(0), seen.std(0) + 1e-3
    seen, new = (seen - mean) / deviation, (new - mean) / deviation
    known, new_pixels = (
        each.reshape(len(each), -1).astype(np.float32) / np.float32(255) for each in (images, asked)
    )
    return {
        "most frequent caption": [most] * len(asked),
        "nearest image, pixels": [captions[number] for number in nearest_rows(known, new_pixels)],
        "nearest image, colors and edges": [captions[number] for number in nearest_rows(seen, new)],
        "linear, a model for each word": linear_captions(seen, captions, new, limit),
    }


def nearest_rows(known: Numbers, asked: Numbers) -> list[int]:
    """For each row of `asked` [M, D] the number of the nearest row of `known` [N, D], by Euclidean distance."""
    squares = (known**2).sum(1)
    found: list[int] = []
    for start in range(0, len(asked), _ROWS):
        distances = squares - 2 * asked[start : start + _ROWS] @ known.T
        found += distances.argmin(1).tolist()
    return found


def colors_and_edges(images: Images) -> Numbers:
    """[N, GRID * GRID * (C + 8)]: of each cell of a grid its mean color and a histogram of the directions of its edges.

    Source: Dalal & Triggs 2005, CVPR (histograms of oriented gradients), here without their normalization by blocks.
    """
    parts = []
    height, width = images.shape[2:]
    for start in range(0, len(images), _ROWS):
        x = images[start : start + _ROWS].astype(np.float32) / 255
        gray = x.mean(1)
        down, right = np.gradient(gray, axis=1), np.gradient(gray, axis=2)
        strength = np.hypot(down, right)
        direction = np.floor((np.arctan2(down, right) % (2 * np.pi)) / (2 * np.pi) * _ANGLES).clip(
            max=_ANGLES - 1
        )
        edges = np.stack([strength * (direction == angle) for angle in range(_ANGLES)], axis=1)
        maps = np.concatenate([x, edges], axis=1)
        parts.append(_cells(height) @ maps @ _cells(width).T)
    return np.concatenate(parts).reshape(len(images), -1).astype(np.float32)


def linear_captions(seen: Numbers, captions: Sequence[Caption], new: Numbers, limit: int) -> list[Caption]:
    """For each place in a caption a linear model of the word there, from the features of the image and the two words before.

    Least squares on one-hot words, with a penalty on the squared weights; the word with the largest output is taken, and the
    next place reads it. The end is a word.
    """
    words = (
        "",
        *sorted({word for caption in captions for word in caption}),
    )  # "": the end, and what lies before the start
    number = {word: place for place, word in enumerate(words)}
    longest = min(limit, max(map(len, captions)) + 1)
    targets = np.zeros((len(captions), longest), np.int64)
    for row, caption in enumerate(captions):
        targets[row, : len(caption)] = [number[word] for word in caption[:longest]]
    one_hot = np.eye(len(words), dtype=np.float32)

    def inputs(features: Numbers, before: NDArray[np.int64]) -> Numbers:
        last = [
            one_hot[before[:, -place]] if before.shape[1] >= place else 0 * features[:, :1]
            for place in (1, 2)
        ]
        return np.concatenate([features, *last, np.ones_like(features[:, :1])], axis=1)

    found = np.zeros((len(new), 0), np.int64)
    going = np.ones(len(captions), bool)  # captions that have not ended before this place
    for place in range(longest):
        x = inputs(seen[going], targets[going, :place])
        square = x.T @ x + _RIDGE * np.eye(x.shape[1], dtype=np.float32)
        weights = np.linalg.solve(
            square.astype(np.float64), (x.T @ one_hot[targets[going, place]]).astype(np.float64)
        )
        chosen = (inputs(new, found) @ weights.astype(np.float32)).argmax(1)
        if place:
            chosen[found[:, -1] == 0] = 0
        found = np.concatenate([found, chosen[:, None]], axis=1)
        going &= targets[:, place] != 0
        if not going.any() or not chosen.any():
            break
    return [tuple(words[each] for each in row if each) for row in found.tolist()]


def _cells(size: int) -> Numbers:
    """A matrix [GRID, size] that takes the mean over each of GRID parts of an axis; parts of short axes share pixels."""
    edges = np.linspace(0, size, GRID + 1)
    matrix = np.zeros((GRID, size), np.float32)
    for part in range(GRID):
        first, last = int(edges[part]), max(int(np.ceil(edges[part + 1])), int(edges[part]) + 1)
        matrix[part, first:last] = 1 / (last - first)
    return matrix
