"""What one step of a stream costs: a recurrent layer beside causal convolutions with as many parameters.

Both are first checked: the stream, fed one step at a time, must give what the whole sequence gives. Then they are timed in turn;
the figures are medians.

python examples/streaming_cost.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import throughtime as tt
from throughtime.layers import CausalCNN

FEATURES, STEPS = 64, 200


def parameters(layer: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(each.numel() for each in layer.parameters())


def equal_size(recurrent: nn.Module, blocks: int) -> CausalCNN:
    """Causal convolutions with about as many parameters."""
    target, low, high = parameters(recurrent), 1, 1024
    with torch.device("meta"):  # sizes alone, no memory
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high) if parameters(CausalCNN(FEATURES, middle, blocks)) < target else (low, middle)
            )
    return CausalCNN(FEATURES, high, blocks)


def stream(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The outputs for x [T, 1, D], fed one step at a time."""
    state, found = None, []
    for step in x.split(1):
        y, state = layer(step, state)
        found.append(y)
    return torch.cat(found)


def timed(sides: dict[str, Callable[[], Any]], rounds: int = 15) -> dict[str, float]:
    """Median seconds of each side, one round of all after the other."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            begin = time.perf_counter()
            run()
            samples[name].append(time.perf_counter() - begin)
    return {name: statistics.median(each[2:]) for name, each in samples.items()}


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(STEPS, 1, FEATURES)
    torch.set_num_threads(1)
    print("cell  hidden  parameters  receptive field  numbers of state  us a step  times the LSTM's")
    for hidden in (64, 128, 256):
        lstm = tt.LSTM(FEATURES, hidden).eval()
        layers: dict[str, nn.Module] = {"lstm": lstm, "gru": tt.GRU(FEATURES, hidden).eval()}
        layers |= {f"cnn, {blocks} blocks": equal_size(lstm, blocks).eval() for blocks in (4, 7)}
        with torch.inference_mode():
            for name, layer in layers.items():
                whole, streamed = layer(x)[0], stream(layer, x)
                error = float((whole - streamed).abs().max())
                assert error < 1e-4, f"{name}: the stream differs from the whole by {error}"
            found = timed({name: lambda layer=layer: stream(layer, x) for name, layer in layers.items()})
            for name, layer in layers.items():
                _, state = layer(x[:1])
                kept = sum(each.numel() for each in (state if isinstance(state, tuple) else (state,)))
                field = layer.receptive_field if isinstance(layer, CausalCNN) else "no limit"
                size = layer.hidden_sizes[0] if isinstance(layer, CausalCNN) else hidden
                print(
                    f"{name}  {size}  {parameters(layer):,}  {field}  {kept:,}  {found[name] / STEPS * 1e6:.1f}  "
                    f"{found[name] / found['lstm']:.1f}"
                )


if __name__ == "__main__":
    main()
