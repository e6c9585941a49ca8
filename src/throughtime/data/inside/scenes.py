"""Images that are drawn, not read: shapes on a canvas, with captions that say which and where they are."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.data.readers.captions import Captioned, as_bytes

SIZE = 48  # rows and columns of an image
COLORS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.15, 0.75, 0.20),
    "blue": (0.15, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "purple": (0.65, 0.20, 0.85),
    "white": (0.95, 0.95, 0.95),
}
RADII = {
    "small": (4.4, 5.0),
    "": (7.0, 7.8),
    "large": (15.5, 18.5),
}  # in pixels; most shapes have no adjective
COUNTS = {1: "a", 2: "two", 3: "three"}
MIRRORED = {
    "left of": "right of", "right of": "left of", "above": "below", "below": "above", "inside": "around",
}  # fmt: skip
# Pairs of color and shape that no training image shows: each color and each shape alone is in many.
HELD_OUT = {
    "validation": (("red", "square"), ("green", "triangle"), ("purple", "circle")),
    "test": (("blue", "triangle"), ("yellow", "star"), ("white", "circle")),
}
_Field = NDArray[np.float64]


class Group(NamedTuple):
    """One to three shapes of one kind."""

    number: int
    size: str
    color: str
    shape: str

    def words(self) -> str:
        """As in "a small red circle", "two green circles"."""
        shape = self.shape if self.number == 1 else f"{self.shape}s"
        return " ".join(filter(None, (COUNTS[self.number], self.size, self.color, shape)))


class Scene(NamedTuple):
    """What an image shows."""

    first: Group
    relation: str = ""  # of MIRRORED
    second: Group | None = None

    def captions(self) -> tuple[str, ...]:
        """All captions that are right: of two groups, either may be named first."""
        if self.second is None:
            return (self.first.words(),)
        one, other = self.first.words(), self.second.words()
        return f"{one} {self.relation} {other}", f"{other} {MIRRORED[self.relation]} {one}"


def scenes(part: str, count: int, seed: int = 0, size: int = SIZE) -> Captioned:
    """So many images [3, size, size] of "train", "validation" or "test", the same for the same seed on every machine.

    An image shows one group of one to three equal shapes, or two groups, one left of, right of, above, below or inside the
    other. Place, size, brightness, background and noise vary, and half of the images are drawn without antialiasing.
    Of the captions that are right one is drawn to train on; it comes first, the others are references.
    Every image of the validation or test part shows a pair of color and shape that no training image has (`HELD_OUT`), and
    none of the other held-out part, so that no caption of it can be remembered.
    """
    draws = random.Random(f"scenes/{seed}/{part}")
    noise = np.random.default_rng(draws.getrandbits(63))
    images, captions = [], []
    for _ in range(count):
        scene = _scene(draws, part)
        images.append(as_bytes(draw(scene, draws, noise, size)))
        said = list(scene.captions())
        draws.shuffle(said)
        captions.append(tuple(said))
    names = tuple(f"{part} {number}" for number in range(count))
    return Captioned(np.stack(images), tuple(captions), 1, names)


def draw(
    scene: Scene, draws: random.Random, noise: np.random.Generator, size: int = SIZE
) -> NDArray[np.float32]:
    """An image [size, size, 3] of numbers from 0 to 1."""
    image = np.full((size, size, 3), draws.uniform(0, 0.25))
    soft = draws.random() < 0.5
    for group, places in _placed(scene, draws):
        light = draws.uniform(0.8, 1.0)
        for x, y, radius in places:
            turn = draws.uniform(-0.15, 0.15)
            cover = _cover(group.shape, x, y, radius, turn, soft, size)[..., None]
            image = (1 - cover) * image + cover * light * np.array(COLORS[group.color])
    image += noise.normal(0, 0.03, image.shape)
    return image.clip(0, 1).astype(np.float32)


def _scene(draws: random.Random, part: str) -> Scene:
    held = {pair for pairs in HELD_OUT.values() for pair in pairs}
    known = [pair for pair in itertools.product(COLORS, SHAPES) if pair not in held]

    def group(pair: tuple[str, str], most: int = 3) -> Group:
        return Group(draws.choices((1, 2, 3)[:most], (3, 1, 1)[:most])[0], draws.choice(("small", "")), *pair)

    relation = draws.choices(("", *MIRRORED), (4, 3, 3, 3, 3, 3))[0]
    first = draws.choice(known if part == "train" else HELD_OUT[part])
    if not relation:
        return Scene(Group(1, "large", *first) if draws.random() < 0.2 else group(first))
    while True:
        second = draws.choice(known if part == "train" else [*known, *HELD_OUT[part]])
        pairs = draws.sample((first, second), 2)
        # Inside a shape of the same color nothing is seen.
        if second != first and (relation != "inside" or second[0] != first[0]):
            break
    first, second = pairs
    if relation == "inside":
        return Scene(group(first, 1), relation, Group(1, "large", *second))
    return Scene(group(first), relation, group(second))


_Places = list[tuple[float, float, float]]  # x, y and radius of each shape; y counts downward


def _placed(scene: Scene, draws: random.Random) -> list[tuple[Group, _Places]]:
    """Where the shapes of each group are; what is drawn later lies on top."""
    first, second, middle = scene.first, scene.second, (SIZE - 1) / 2
    if second is None:
        return [(first, _anywhere(first, draws))]
    if scene.relation == "inside":
        x, y = (middle + draws.uniform(-2, 2) for _ in range(2))
        inner = (x + draws.uniform(-1, 1), y + draws.uniform(-1, 1), draws.uniform(*RADII[first.size]))
        return [(second, [(x, y, draws.uniform(*RADII[second.size]))]), (first, [inner])]
    sides = (0, 1) if scene.relation in ("left of", "above") else (1, 0)
    while True:
        found = [_in_half(group, side, draws) for group, side in zip((first, second), sides, strict=True)]
        (along, across), (along_too, across_too) = (
            np.mean([each[:2] for each in places], axis=0) for places in found
        )
        if abs(across - across_too) <= 0.6 * abs(
            along - along_too
        ):  # so that the relation is the one to be seen
            break
    if scene.relation in ("above", "below"):
        found = [[(x, y, radius) for y, x, radius in places] for places in found]
    return list(zip((first, second), found, strict=True))


def _anywhere(group: Group, draws: random.Random) -> _Places:
    """Places apart from each other."""
    while True:
        places: _Places = []
        for _ in range(group.number):
            radius = draws.uniform(*RADII[group.size])
            x, y = (draws.uniform(radius + 1, SIZE - 2 - radius) for _ in range(2))
            places.append((x, y, radius))
        if all(math.dist(a[:2], b[:2]) > a[2] + b[2] + 2 for a, b in itertools.combinations(places, 2)):
            return places


def _in_half(group: Group, side: int, draws: random.Random) -> _Places:
    """Places in the left (0) or right (1) half of the image, one below the other."""
    room, places = SIZE / max(group.number, 2), []
    start = 0.0 if group.number > 1 else SIZE / 4
    for number in range(group.number):
        radius = draws.uniform(*RADII[group.size])
        x = side * SIZE / 2 + draws.uniform(radius + 0.5, SIZE / 2 - radius - 1.5)
        low = start + number * room
        places.append((x, draws.uniform(low + radius, low + room - radius), radius))
    return places


def _cover(shape: str, x: float, y: float, radius: float, turn: float, soft: bool, size: int) -> _Field:
    """How much of each pixel [size, size] a shape covers, 0 to 1; x, y and radius are of an image of SIZE pixels."""
    rows, columns = (np.mgrid[:size, :size] + 0.5) * (SIZE / size) - 0.5
    dx, dy = columns - x, rows - y
    along, down = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
    distance = SHAPES[shape](along, down, radius) * (size / SIZE)
    return (0.5 - distance).clip(0, 1) if soft else (distance < 0).astype(np.float64)


# The distance of each pixel from the outline, negative inside, near the outline exact: x, y and radius in pixels.


def _circle(x: _Field, y: _Field, radius: float) -> _Field:
    return np.hypot(x, y) - radius


def _square(x: _Field, y: _Field, radius: float) -> _Field:
    return np.maximum(abs(x), abs(y)) - 0.85 * radius


def _triangle(x: _Field, y: _Field, radius: float) -> _Field:
    """Point up; the corners lie 1.2 radii from the middle."""
    return np.maximum(y, math.cos(math.pi / 6) * abs(x) - 0.5 * y) - 0.6 * radius


def _star(x: _Field, y: _Field, radius: float) -> _Field:
    """Five points 1.2 radii from the middle, the notches between them 0.5."""
    angle = abs((np.arctan2(x, -y) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    length, point, notch = np.hypot(x, y), 1.2 * radius, 0.5 * radius
    # The side from the point (at angle 0) to the notch (at angle pi / 5), and its normal.
    side = np.array([notch * math.cos(math.pi / 5) - point, notch * math.sin(math.pi / 5)])
    normal = np.array([side[1], -side[0]]) / np.hypot(*side)
    distance: _Field = (length * np.cos(angle) - point) * normal[0] + length * np.sin(angle) * normal[1]
    return distance


SHAPES: Mapping[str, Callable[[_Field, _Field, float], _Field]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star,
}  # fmt: skip
