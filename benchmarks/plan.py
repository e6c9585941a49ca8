"""Durations, samples and sizes of a run: the full one, and a quick one that only checks that everything works."""

from __future__ import annotations

from typing import NamedTuple

from throughtime.bench.recurrences import SHAPES, Shape


class Unavailable(Exception):
    """What a suite needs is not on this machine; the message says what."""


class Decoding(NamedTuple):
    """The sizes of an encoder-decoder, and of what it reads and writes."""

    hidden: int
    layers: int
    symbols: int
    source: int  # steps
    target: int  # steps, of every row
    batches: tuple[int, ...]


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
    calls: tuple[Shape, ...]  # with the state carried
    short: tuple[Shape, ...]  # training calls
    calls_busy: tuple[int, ...]  # processes beside
    shared: tuple[tuple[str, Shape], ...]  # training, by cell
    shared_generated: tuple[tuple[int, int], ...]  # (H, batch)
    shared_busy: tuple[int, ...]
    randomized: tuple[Shape, ...]
    gpu: tuple[Shape, ...]
    streams: tuple[tuple[int, int], ...]  # (layers, H), one step of one stream
    pools: tuple[tuple[int, int, int], ...]  # (layers, H, sessions), one step of each
    decoded: Decoding


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
    calls=tuple(
        Shape(steps, batch, hidden, hidden)
        for steps in (1, 10)
        for batch in (1, 8, 64)
        for hidden in (32, 128, 512)
    ),
    short=(Shape(10, 1, 16, 32), Shape(100, 1, 64, 64), Shape(35, 32, 128, 128)),
    calls_busy=(0, 2),
    shared=(
        ("LSTM", Shape(64, 16, 64, 384)),
        ("GRU", Shape(64, 16, 64, 384)),
        ("LSTM", Shape(64, 64, 512, 512)),
    ),
    shared_generated=((512, 1), (512, 16)),
    shared_busy=(0, 1, 2),
    randomized=tuple(Shape(350, 16, hidden, hidden) for hidden in (64, 256, 512)),
    gpu=(
        Shape(35, 32, 256, 256),
        Shape(64, 64, 512, 512),
        Shape(128, 32, 1024, 1024),
        Shape(100, 1, 64, 64),
    ),
    streams=tuple((layers, hidden) for layers in (1, 2) for hidden in (64, 128, 256, 512)),
    pools=((2, 256, 16), (2, 256, 256)),
    decoded=Decoding(hidden=256, layers=2, symbols=10_000, source=20, target=20, batches=(1, 64)),
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
    calls=(Shape(1, 1, 13, 13), Shape(3, 2, 13, 13)),
    short=(Shape(7, 3, 5, 13),),
    calls_busy=(0, 1),
    shared=(("GRU", Shape(7, 3, 5, 13)),),
    shared_generated=((13, 3),),
    shared_busy=(0, 1),
    randomized=(Shape(60, 3, 5, 13),),
    gpu=(Shape(7, 3, 5, 13),),
    streams=((1, 13),),
    pools=((2, 13, 5),),
    decoded=Decoding(hidden=13, layers=2, symbols=31, source=7, target=5, batches=(1, 3)),
)
