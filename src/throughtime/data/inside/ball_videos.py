"""Videos that are drawn, not read: a ball among walls, as small images, with what it does in each of them."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.data.readers.series import Series

SIZE = 12  # rows and columns of an image
DIRECTIONS = ("east", "northeast", "north", "northwest", "west", "southwest", "south", "southeast")
_EDGE = 0.5  # the center of the ball stays so far inside the image


class _Wall(NamedTuple):
    """A wall inside: all pixels from top to bottom, left to right."""

    top: int
    left: int
    bottom: int
    right: int

    def hit(self, x: float, y: float) -> bool:
        """Whether a ball there would overlap it; x is the column, y the row of its center."""
        return self.left - 1 < x < self.right + 1 and self.top - 1 < y < self.bottom + 1


def ball_videos(what: str = "direction", count: int = 600, seed: int = 0) -> Series:
    """Videos of 30 to 60 images of 12 x 12 pixels, with a label for each image; the same for the same seed on every machine.

    A ball rests for 1 to 6 images, then moves in one of eight directions, straight on, until it bounces off the border or off a
    wall inside. The label is of the step that led to the image: the direction ("east", "northeast", ..., or "still"), "bounce"
    or "none" where it changed its direction or did not, or of both the direction, and "bounce" where it changed. A single image
    shows where the ball is, and not where it came from.
    """
    draws = random.Random(f"ball videos/{seed}")
    noise = torch.Generator().manual_seed(draws.getrandbits(63))
    values, labels = [], []
    for _ in range(count):
        frames, found = _video(draws, what)
        frames += 0.05 * torch.randn(frames.shape, generator=noise)
        values.append(frames.flatten(1))
        labels.append(found)
    return Series(values, labels, [str(number) for number in range(count)], frame=(SIZE, SIZE, 1))


def _video(draws: random.Random, what: str) -> tuple[Tensor, tuple[str, ...]]:
    wall = _wall(draws)
    while True:
        x, y = (draws.uniform(1.5, SIZE - 2.5) for _ in range(2))
        direction, speed = draws.randrange(len(DIRECTIONS)), draws.uniform(0.7, 1.3)
        dx = speed * _sign(math.cos(direction * math.pi / 4))
        dy = -speed * _sign(math.sin(direction * math.pi / 4))  # rows count downward
        # Where it could have come from is free, so that it can always turn back.
        if not any(_blocked(wall, x - n * dx, y - n * dy) for n in (0, 1)):
            break
    rest, places, labels = draws.randint(1, 6), [], []
    for step in range(draws.randint(30, 60)):
        bounced = False
        if step >= rest:
            across, down = _blocked(wall, x + dx, y), _blocked(wall, x, y + dy)
            if not across and not down and _blocked(wall, x + dx, y + dy):
                across = down = True  # straight into a corner
            dx, dy = (-dx if across else dx), (-dy if down else dy)
            if _blocked(wall, x + dx, y + dy):  # between two walls: back along the way it came
                dx, dy = (dx if across else -dx), (dy if down else -dy)
                across = down = True
            bounced = (across and dx != 0) or (down and dy != 0)
            x, y = x + dx, y + dy
        moving = _name(dx, dy) if step >= rest else "still"
        labels.append(
            {"direction": moving, "bounce": "bounce" if bounced else "none"}.get(
                what, "bounce" if bounced else moving
            )
        )
        places.append((x, y))
    return _images(wall, places), tuple(labels)


def _wall(draws: random.Random) -> _Wall:
    """A bar of one pixel's width and 3 to 5 pixels' length, with room for the ball on all sides."""
    length, place = draws.randint(3, 5), draws.randint(4, SIZE - 5)
    start = draws.randint(3, SIZE - 3 - length)
    if draws.random() < 0.5:
        return _Wall(place, start, place, start + length - 1)
    return _Wall(start, place, start + length - 1, place)


def _blocked(wall: _Wall, x: float, y: float) -> bool:
    inside = all(_EDGE <= each <= SIZE - 1 - _EDGE for each in (x, y))
    return not inside or wall.hit(x, y)


def _name(dx: float, dy: float) -> str:
    return DIRECTIONS[round(math.atan2(-dy, dx) / (math.pi / 4)) % len(DIRECTIONS)]


def _sign(number: float) -> int:
    return 0 if abs(number) < 1e-9 else (1 if number > 0 else -1)


def _images(wall: _Wall, places: list[tuple[float, float]]) -> Tensor:
    """The ball at each of t places as a round spot of brightness 1, the wall at 0.5; float32 [t, SIZE, SIZE]."""
    x, y = torch.tensor(places)[:, :, None, None].unbind(1)
    rows, columns = torch.arange(SIZE)[:, None], torch.arange(SIZE)
    images = torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 1.2)
    images[:, wall.top : wall.bottom + 1, wall.left : wall.right + 1] = 0.5
    return images
