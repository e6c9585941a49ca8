"""The structs of generation (csrc/generate.h), and the checks of everything that is passed through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.errors import InputError
from throughtime.kernels.native.generation.packing import GeneratorLayer, PackedLayer
from throughtime.kernels.native.library import GATES, Library, load


def layer_struct(layer: PackedLayer, library: Library) -> Any:
    """A layer without a state, a `generation_layer`. It points to the layer's tensors and does not keep them alive."""
    of_input = layer.weight_ih
    return library.structs["generation_layer"](
        cell=library.cells[layer.kind],
        activation=library.activations[layer.nonlinearity],
        inputs=layer.inputs,
        hidden=layer.panels.size,
        padded=layer.panels.padded,
        weight_ih=None if of_input is None else address(of_input.values),
        scale_ih=None if of_input is None else address(of_input.scale),
        weight_hh=address(layer.weight_hh.values),
        scale_hh=address(layer.weight_hh.scale),
        bias=address(layer.bias),
        bias_hn=address(layer.bias_hn),
    )


def address(value: Tensor | None) -> int | None:
    """Where a tensor's numbers are."""
    return None if value is None else value.data_ptr()


def unavailable() -> str | None:
    """Why there is no native generation on this machine, or None."""
    library = load()
    return library if isinstance(library, str) else None


def loaded() -> Library:
    """The library, where `unavailable` has no reason why there is none."""
    library = load()
    assert isinstance(library, Library)  # the caller has asked
    return library


def check_tensor(name: str, value: Tensor) -> None:
    if value.dtype != torch.float32 or value.device.type != "cpu":
        kind = f"{str(value.dtype).removeprefix('torch.')} on {value.device}"
        raise InputError(f"native generation computes in float32 on the CPU, {name} is {kind}")


def check_ids(name: str, ids: Tensor, symbols: int) -> None:
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < symbols:
        raise InputError(
            f"{name} must lie between 0 and {symbols - 1}, got {int(ids.min())} to {int(ids.max())}"
        )


def check_sampling(
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """The options of sampling as the struct `generation` takes them.

    Raises: InputError for one out of range.
    """
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature must be a positive number (or 0 for greedy), got {temperature}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p must lie above 0 and be at most 1, got {top_p}")
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"seed must be a 64-bit whole number, got {seed}")
    return {
        "temperature": float(temperature),
        "top_k": min(top_k or 0, 2**62),
        "top_p": 1.0 if top_p is None else float(top_p),
        "seed": seed % 2**64,
    }


def check_shapes(
    layers: Sequence[GeneratorLayer],
    head_weight: Tensor,
    head_bias: Tensor | None,
    embedding: Tensor | None,
) -> None:
    if not layers:
        raise InputError("a generator needs at least one layer, got none")
    if len(kinds := {layer.kind for layer in layers}) > 1:
        raise InputError(f"all layers must be of one kind, got {', '.join(sorted(kinds))}")
    library = loaded()
    symbols = head_weight.shape[0]
    features = symbols if embedding is None else embedding.shape[-1]
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("embedding", embedding, (symbols, features))
    ]
    for i, layer in enumerate(layers):
        if layer.kind not in GATES:
            raise InputError(f"kind must be one of {', '.join(GATES)}, got {layer.kind!r}")
        if layer.nonlinearity not in library.activations:
            raise InputError(
                f"nonlinearity must be one of {', '.join(library.activations)}, got {layer.nonlinearity!r}"
            )
        rows, hidden = GATES[layer.kind] * layer.hidden, layer.hidden
        expected += [
            (f"layer {i}'s weight_ih", layer.weight_ih, (rows, features)),
            (f"layer {i}'s weight_hh", layer.weight_hh, (rows, hidden)),
            (f"layer {i}'s bias_ih", layer.bias_ih, (rows,)),
            (f"layer {i}'s bias_hh", layer.bias_hh, (rows,)),
        ]
        features = hidden
    expected += [("head_weight", head_weight, (symbols, features)), ("head_bias", head_bias, (symbols,))]
    for name, value, shape in expected:
        if value is None:
            continue
        check_tensor(name, value)
        if tuple(value.shape) != shape or 0 in shape:
            raise InputError(f"{name} must be {list(shape)} with nothing empty, got {list(value.shape)}")
