"""Durations, samples and sizes of a run: the full one, and a quick one that only checks that everything works."""

from __future__ import annotations

from typing import NamedTuple

from throughtime.bench.recurrences import SHAPES, Shape


class Plan(NamedTuple):
    """What a run measures."""

    threads: int
    seconds: float  # for all sides of one row together
    least: int  # samples of each side, fewer of a slow one; see `throughtime.bench.timing`
    shapes: tuple[Shape, ...]  # training and inference
    ragged: tuple[Shape, ...]
    options: tuple[Shape, ...]
    bf16: tuple[Shape, ...]
    denormals: tuple[Shape, ...]
    generated: tuple[tuple[int, int], ...]  # (layers, H)
    batches: tuple[int, ...]
    tokens: int  # generated in one call
    peak_size: int


FULL = Plan(
    threads=2,
    seconds=2.0,
    least=9,
    shapes=SHAPES,
    ragged=(
        *(Shape(steps, 32, 128, 256) for steps in (50, 200, 500)),
        Shape(200, 32, 128, 512),
    ),
    options=(Shape(64, 64, 512, 512), Shape(256, 16, 64, 64)),
    bf16=(Shape(64, 64, 512, 512), Shape(64, 32, 1024, 1024)),
    denormals=(Shape(200, 32, 128, 128), Shape(200, 32, 256, 256)),
    generated=tuple((layers, hidden) for layers in (1, 2) for hidden in (64, 128, 256, 512, 1024)),
    batches=(1, 16),
    tokens=400,  # many, so that the fixed cost of a call hardly counts
    peak_size=2048,
)
QUICK = Plan(
    threads=1,
    seconds=0.02,
    least=1,
    shapes=(Shape(7, 3, 5, 13),),
    ragged=(Shape(9, 4, 5, 13),),
    options=(Shape(7, 3, 5, 13),),
    bf16=(Shape(7, 3, 5, 13),),
    denormals=(Shape(250, 3, 5, 13),),
    generated=((1, 13), (2, 13)),
    batches=(1, 3),
    tokens=4,
    peak_size=64,
)
