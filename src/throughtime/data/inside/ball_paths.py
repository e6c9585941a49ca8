"""Sequences of numbers that are drawn, not read: the path of a ball that follows the outline of a shape."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch

from throughtime.data.readers.series import Series

Point = tuple[float, float]


def ball_paths(count: int = 3600, seed: int = 0) -> Series:
    """Paths [t, 2] of x and y with the name of the shape, as many of each shape, the same for the same seed on every machine.

    A ball goes round a shape of random size, place and rotation, from a random point of it, in either direction, once to one
    and a half times, in 20 to 50 steps each time round, at a speed that varies; what is seen has noise of 3 % of the size. So
    no single step tells the shape, and neither do sums over the steps.
    """
    draws = random.Random(f"ball paths/{seed}")
    values, labels = [], []
    for number in range(count):
        name = list(SHAPES)[number % len(SHAPES)]
        values.append(torch.tensor(_path(SHAPES[name], draws), dtype=torch.float32))
        labels.append(name)
    return Series(values, labels, [str(number) for number in range(count)], ("x", "y"))


def _path(shape: Callable[[float], Point], draws: random.Random) -> list[Point]:
    size, turn = draws.uniform(0.7, 1.4), draws.uniform(0, 2 * math.pi)
    left, up = draws.uniform(-0.3, 0.3), draws.uniform(-0.3, 0.3)
    step = draws.choice((-1, 1)) / draws.randint(20, 50)  # of the way round
    place = draws.random()
    path = []
    for _ in range(round(draws.uniform(1, 1.5) / abs(step))):
        x, y = shape(place % 1)
        x, y = x + draws.gauss(0, 0.03), y + draws.gauss(0, 0.03)
        path.append(
            (
                left + size * (x * math.cos(turn) - y * math.sin(turn)),
                up + size * (x * math.sin(turn) + y * math.cos(turn)),
            )
        )
        place += step * draws.uniform(0.7, 1.3)
    return path


def _circle(place: float) -> Point:
    return math.cos(2 * math.pi * place), math.sin(2 * math.pi * place)


def _eight(place: float) -> Point:
    return math.sin(2 * math.pi * place), math.sin(4 * math.pi * place) / 2


def _spiral(place: float) -> Point:
    """Two turns outward in the first half, the same way back in the second."""
    out = 1 - abs(2 * place - 1)
    return out * math.cos(4 * math.pi * out), out * math.sin(4 * math.pi * out)


def _polygon(corners: Sequence[Point]) -> Callable[[float], Point]:
    """The outline through some corners, all of it at one speed."""
    sides = [(corners[n], corners[(n + 1) % len(corners)]) for n in range(len(corners))]
    lengths = [math.dist(*side) for side in sides]

    def at(place: float) -> Point:
        rest = place * sum(lengths)
        number = 0
        while rest > lengths[number] and number < len(sides) - 1:
            rest -= lengths[number]
            number += 1
        (start, stop), part = sides[number], rest / lengths[number]
        return start[0] + part * (stop[0] - start[0]), start[1] + part * (stop[1] - start[1])

    return at


def _corners(number: int, inner: float = 1.0) -> list[Point]:
    """Corners on a circle, every second one drawn in by `inner`."""
    angles = [2 * math.pi * n / number for n in range(number)]
    radii = [inner if n % 2 else 1.0 for n in range(number)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


SHAPES: dict[str, Callable[[float], Point]] = {
    "circle": _circle,
    "square": _polygon(_corners(4)),
    "triangle": _polygon(_corners(3)),
    "star": _polygon(_corners(10, 0.45)),
    "figure eight": _eight,
    "spiral": _spiral,
}
