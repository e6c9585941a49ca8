"""One step of a stream with float32, bf16 and int8 weights, in turn: `python -m benchmarks.stream_weights`. One thread."""

from __future__ import annotations

from functools import partial

import torch

import throughtime as tt
from throughtime.bench.timing import interleave

SIZES = ((tt.LSTM, 512, 1), (tt.LSTM, 512, 2), (tt.GRU, 256, 2), (tt.GRU, 64, 1))  # layer, units, layers
WEIGHTS = ("float32", "bf16", "int8")


def main() -> None:
    """Print microseconds for each size and kind of weights."""
    torch.set_num_threads(1)
    for kind, hidden, layers in SIZES:
        torch.manual_seed(0)
        layer, x = kind(hidden, hidden, layers).eval(), torch.randn(1, hidden)
        sides = {name: partial(tt.stream(layer, weights=name).feed, x) for name in WEIGHTS}
        times = interleave(sides, seconds=2.0)
        figures = ", ".join(f"{name} {times[name].median * 1e6:.1f}" for name in WEIGHTS)
        print(f"{kind.__name__} {layers} x {hidden}: {figures} us")


if __name__ == "__main__":
    main()
