"""An inspection as JSON for the page: values of 8 bits with a scale, probabilities of 16, in base64."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import torch
from torch import Tensor

from throughtime.errors import InputError
from throughtime.page.features import correlations, label_features, number_features, text_features
from throughtime.page.inspection import Inspection, Inspector

NUMBERS = 24_000_000
"""Values of states and gates that are sent at most; where the gates would exceed it they are left out."""
_STATES = ("h", "c", "0", "1")


def payload(inspector: Inspector, found: Inspection, *, units: bool = True) -> dict[str, Any]:
    """JSON of an inspection.

        names, unknown, truth   of the whole sequence, and the ids of a model that generates
        first                   the step that everything below starts at; S steps
        layers                  [{"name", "parts": {name: {"scale", "size", "data"}}}]: int8 [S, H], value = data / 127 * scale
        top                     {"k", "ids", "p"}: uint16 or uint32 [S, K], and uint16 [S, K] of 65535
        log_p                   float32 [S], NaN where there is none
        units                   of each layer and part: variance [H], and Pearson's r [F, H] with `features`
        input                   the numbers that were read, int8 [S, D] with a scale

    Args: units, whether units are compared with features. Raises: InputError where it is more than NUMBERS values.
    """
    parts = found.parts
    if _count(parts) > NUMBERS:
        parts = {layer: {p: v for p, v in kept.items() if p in _STATES} for layer, kept in parts.items()}
    if (count := _count(parts)) > NUMBERS:
        raise InputError(
            f"the states of this sequence are {count:,} numbers, and the page takes {NUMBERS:,}: give fewer steps"
        )
    reading = found.reading
    result: dict[str, Any] = {
        "names": list(reading.names),
        "unknown": list(reading.unknown),
        "truth": list(reading.truth) if isinstance(reading.truth, tuple) else reading.truth,
        "remark": reading.remark,
        "first": found.first,
        "layers": [
            {"name": layer, "parts": {part: quantised(value) for part, value in kept.items()}}
            for layer, kept in parts.items()
        ],
        "without_gates": len(parts) > 0 and parts is not found.parts,
    }
    if inspector.generates:
        result["ids"] = reading.inputs[:, 0].tolist()
    if found.top is not None and found.probabilities is not None:
        result["top"] = _top(found.top, found.probabilities, len(inspector.labels))
    if found.log_probability is not None:
        result["log_p"] = _base64(found.log_probability.float())
    if inspector.kind != "text":
        result["input"] = quantised(reading.inputs[found.first :, 0].float().cpu())
    if units:
        result["units"] = _units(inspector, found)
    return result


def quantised(values: Tensor) -> dict[str, Any]:
    """Values [S, H] as int8: value = data / 127 * scale, wrong by at most scale / 254."""
    scale = float(values.abs().max()) if values.numel() else 0.0
    whole = (values / scale * 127).round() if scale > 0 else torch.zeros_like(values)
    return {"scale": scale, "size": values.shape[1], "data": _base64(whole.to(torch.int8))}


def influences(inspector: Inspector, found: Inspection, positions: int, last: int) -> dict[str, Any]:
    """The influence on each of the last `positions` steps, for a page without a server: uint8 [n, last], the nearest step first.

    value = data / 255 * scale of its row. Cost: a backward pass for each step.
    """
    count = min(positions, len(found.reading))
    start = len(found.reading) - count
    rows = torch.zeros(count, last, dtype=torch.uint8)
    scales = torch.zeros(count)
    for row in range(count):
        _, values = inspector.influence(found.reading, start + row, last)
        if not inspector.forward:
            values = values[: start + row + 1][-last:]
        if len(values) and float(values.max()) > 0:
            scales[row] = values.max()
            rows[row, : len(values)] = (values.flip(0) / values.max() * 255).round().to(torch.uint8)
    return {"first": start, "last": last, "scales": scales.tolist(), "data": _base64(rows)}


def _count(parts: dict[str, dict[str, Tensor]]) -> int:
    return sum(value.numel() for kept in parts.values() for value in kept.values())


def _units(inspector: Inspector, found: Inspection) -> dict[str, Any]:
    """The variance of every unit, and how it goes with simple features."""
    reading, labels = found.reading, inspector.labels
    if inspector.kind == "text":
        spaced = reading.names if inspector.about()["by_character"] else _words(reading.names)
        features = text_features(spaced)
        features = {name: value[found.first :] for name, value in features.items()}
        if inspector.predicts == "step":
            features |= label_features(found.top, labels)
    else:
        inputs = reading.inputs[found.first :, 0].float().cpu()
        picture = inspector.about()
        named = (
            picture["columns"] or [f"input {n + 1}" for n in range(inputs.shape[1])]
            if picture["draw"] == "lines"
            else []
        )
        answers = None if inspector.predicts == "whole" and not inspector.forward else found.top
        features = number_features(inputs, named, answers, labels)
    return {
        "features": list(features),
        "of": {
            layer: {
                part: {
                    "variance": _short(value.var(0, correction=0)),
                    "r": [_short(row) for row in correlations(value, features)],
                }
                for part, value in kept.items()
            }
            for layer, kept in found.parts.items()
        },
    }


def _words(names: tuple[str, ...]) -> list[str]:
    """Words with the spaces between them, as places in a line are counted."""
    return [name if name[:1].isspace() or n == 0 else f" {name}" for n, name in enumerate(names)]


def _top(ids: Tensor, probabilities: Tensor, labels: int) -> dict[str, Any]:
    kind = torch.uint16 if labels < 2**16 else torch.uint32
    whole = (probabilities.double().nan_to_num(0) * 65535).round().to(torch.int32)
    return {
        "k": ids.shape[1],
        "wide": kind is torch.uint32,
        "ids": _base64(ids.to(kind)),
        "p": _base64(whole.to(torch.uint16)),
        "none": []
        if not bool(probabilities.isnan().any())
        else probabilities.isnan().any(1).nonzero()[:, 0].tolist(),
    }


def _short(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _base64(values: Tensor) -> str:
    """The numbers in little-endian order."""
    array = values.contiguous().numpy()
    if sys.byteorder == "big":
        array = array.byteswap()
    return base64.b64encode(array.tobytes()).decode()


def json_bytes(value: Any) -> bytes:
    """Strict JSON in ASCII, which any text survives: also a lone surrogate, which UTF-8 has no form for."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
