"""The direct path of an ordinary eager call from a layer to the library: what does not change between calls is checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.kernels import dispatch
from throughtime.kernels.native.library import Library, load
from throughtime.kernels.native.recurrence import call
from throughtime.kernels.native.recurrence.autograd import NativeStack
from throughtime.kernels.native.recurrence.call import NONE
from throughtime.kernels.native.recurrence.rows import Rows
from throughtime.kernels.native.recurrence.weights import Weights
from throughtime.kernels.stack import Stack


class DirectCall:
    """Runs a layer's full batches as the general path does, or leaves them to it.

    Kept are the weights' addresses. At each call they are compared with the layer's parameters: one that was replaced, moved,
    converted, parametrized or swapped (`torch.func.functional_call`) leaves the call to the general path, which gives all errors.
    """

    def __init__(self, weights: Weights, attributes: Sequence[str]) -> None:
        self.weights = weights
        self.attributes = attributes
        self.options = dict(weights.stack.options)
        self.states = 2 if weights.lstm else 1
        self.shapes = [
            (len(weights.hidden), sizes[0]) for sizes in (weights.columns, weights.hidden)[: self.states]
        ]

    @staticmethod
    def of(stack: Stack, attributes: Sequence[str], parameters: Mapping[str, Any]) -> DirectCall | None:
        """For a layer's stack that native has run once; None where its calls need the general path."""
        tensors = [value for named in stack.weights for value in named.values()]
        if any(parameters.get(name) is not value for name, value in zip(attributes, tensors, strict=True)):
            return None
        library = load()
        dtype = stack.weights[0]["weight_hh"].dtype
        if stack.random or any(stack.zoneout) or not isinstance(library, Library):
            return None
        if dtype not in (torch.float32, torch.float64) or not dispatch.eager():
            return None
        weights = Weights(stack, library)
        return DirectCall(weights, attributes) if weights.one_size and len(weights._seen) == len(attributes) else None

    def __reduce__(self) -> tuple[Any, ...]:
        # Addresses in this process's memory: a copy of the layer finds its own.
        return type(None), ()

    def run(self, layer: Any, x: Any, hx: Any) -> tuple[Tensor, Any] | None:
        """(outputs, final state), or None for a call that the general path must run."""
        weights = self.weights
        if type(x) is not Tensor or x.dtype is not weights.dtype or not dispatch.eager():
            return None
        random = layer.recurrent_dropout or (layer.dropout and layer.num_layers > 1)
        if (random and layer.training) or any(layer.zoneout) or layer.options != self.options:
            return None
        demanded = dispatch.demanded(layer.backend)
        if demanded is not None and demanded != "native":
            return None
        parameters = layer._parameters
        tensors = [parameters.get(name) for name in self.attributes]
        if not weights.current(tensors):
            return None
        shape = x.shape
        if len(shape) == 3 and layer.batch_first:
            batch, steps, features = shape
            x = x.transpose(0, 1)
        elif len(shape) == 3:
            steps, batch, features = shape
        elif len(shape) == 2:
            (steps, features), batch = shape, 1
        else:
            return None
        if features != weights.features or not steps or not batch or not _readable(x):
            return None
        states = self._states(hx, batch, len(shape) == 3)
        if states is None:
            return None
        h0, c0 = states
        rows, x = Rows(steps, batch, steps * batch), x.contiguous()
        if torch.is_grad_enabled() and any(
            value is not None and value.requires_grad for value in (x, h0, c0, *tensors)
        ):
            x = x.view(rows.total, features)
            y, h_n, *c = NativeStack.apply(  # type: ignore[no-untyped-call]
                weights, rows, NONE, demanded is not None, x, h0, c0, *tensors
            )
            c_n = c[0] if c else None
        else:
            y, h_n, c_n, _ = call.forward(weights, rows, NONE, x, h0, c0, False)
        if len(shape) == 2:
            y, h_n, c_n = y.squeeze(1), h_n.squeeze(1), None if c_n is None else c_n.squeeze(1)
        elif layer.batch_first:
            y = y.transpose(0, 1)
        return y, h_n if c_n is None else (h_n, c_n)

    def _states(self, hx: Any, batch: int, batched: bool) -> tuple[Tensor | None, Tensor | None] | None:
        """The initial state as the library reads it, None for zeros; or None if it is not of the expected form."""
        if hx is None:
            return None, None
        if self.states == 1:
            values = (hx,)
        elif type(hx) is tuple and len(hx) == 2:
            values = hx
        else:
            return None
        for value, (rows, size) in zip(values, self.shapes, strict=True):
            expected = (rows, batch, size) if batched else (rows, size)
            if type(value) is not Tensor or value.dtype is not self.weights.dtype or value.shape != expected:
                return None
            if not _readable(value):
                return None
        return values[0].contiguous(), values[1].contiguous() if self.states == 2 else None


def _readable(value: Tensor) -> bool:
    """Whether it is dense numbers in the CPU's memory, as `dispatch.unreadable` asks in words."""
    return (
        value.is_cpu and value.layout is torch.strided and value.data_ptr() != 0 and not value.is_neg()
    )
