"""A measurement as JSON, and back to the same numbers."""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.errors import InputError
from throughtime.flow.result import Flow

FORMAT = 1


def to_json(flow: Flow) -> str:
    """One object; a tensor is {"dtype", "shape", "values"}, a number that JSON has no word for is "nan", "inf" or "-inf".

    float64 is written so that it is read back bit for bit; the pictures' float32 with six digits.
    """
    return json.dumps({"format": FORMAT, "flow": _plain(flow)}, allow_nan=False)


def from_json(text: str) -> Flow:
    """What `to_json` wrote.

    Raises: InputError for text that is no measurement, or one of a newer format.
    """
    try:
        whole = json.loads(text)
        version = whole["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected the JSON of a flow measurement, got other text ({error})") from None
    if version != FORMAT:
        raise InputError(
            f"this measurement has format {version}, and this version reads {FORMAT}: measure again"
        )
    try:
        found: Flow = _read(Flow, whole["flow"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the JSON of this flow measurement is damaged: {error!r}; measure again") from None
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        digits = _short if value.dtype == torch.float32 else _number
        flat = value.flatten().tolist()
        return {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "values": [digits(each) for each in flat],
        }
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return _number(value) if isinstance(value, float) else value


def _number(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _short(value: float) -> Any:
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def _read(kind: Any, value: Any) -> Any:
    """A value of the type that the dataclass declares."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return (
            None
            if value is None
            else _read(next(each for each in inner if each is not types.NoneType), value)
        )
    if kind is Tensor:
        values = [float(each) if isinstance(each, str) else each for each in value["values"]]
        return torch.tensor(values, dtype=getattr(torch, value["dtype"])).reshape(value["shape"])
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        # What a measurement of an earlier version does not hold yet has a default.
        known = [each for each in fields(kind) if each.name in value or each.default is MISSING]
        return kind(**{each.name: _read(hints[each.name], value[each.name]) for each in known})  # type: ignore[operator]
    if origin is dict:
        return {key: _read(inner[1], each) for key, each in value.items()}
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_read(of, each) for of, each in zip(kinds, value, strict=True))
    return float(value) if kind is float else value
