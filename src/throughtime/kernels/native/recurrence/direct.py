"""The direct path of an ordinary eager call from a layer to the library: what does not change between calls is checked once."""

from __future__ import annotations

import operator
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
        self.parameters_in = operator.itemgetter(*attributes)
        self.zoneout = weights.stack.zoneout
        self.options = dict(weights.stack.options)
        self.lstm = weights.lstm
        self.shapes = [
            (len(weights.hidden), sizes[0]) for sizes in (weights.columns, weights.hidden)[: 1 + self.lstm]
        ]
        self._rows = Rows(1, 1, 1)  # of the last call

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
        return DirectCall(weights, attributes) if weights.one_size and weights.can_be_current else None

    def __reduce__(self) -> tuple[Any, ...]:
        # Addresses in this process's memory: a copy of the layer finds its own.
        return type(None), ()

    def run(self, layer: Any, x: Any, hx: Any) -> tuple[Tensor, Any] | None:
        """(outputs, final state), or None for a call that the general path must run."""
        weights, dtype = self.weights, self.weights.dtype
        if type(x) is not Tensor or x.dtype is not dtype or not dispatch.eager():
            return None
        random = layer.training and (layer.recurrent_dropout or (layer.dropout and layer.num_layers > 1))
        if random or layer.zoneout != self.zoneout or layer.options != self.options:
            return None
        demanded = dispatch.demanded(layer.backend)
        if demanded is not None and demanded != "native":
            return None
        try:
            tensors = self.parameters_in(layer._parameters)
        except KeyError:
            return None
        if not weights.current(tensors):
            return None
        shape, batch_first = x.shape, layer.batch_first
        if len(shape) == 3:
            steps, batch, features = shape
            if batch_first:
                steps, batch, x = batch, steps, x.transpose(0, 1)
        elif len(shape) == 2:
            (steps, features), batch = shape, 1
        else:
            return None
        if features != weights.features or not steps or not batch or not _readable(x):
            return None
        h0 = c0 = None
        if hx is not None:
            if self.lstm:
                if type(hx) is not tuple or len(hx) != 2:
                    return None
                h0, c0 = hx
            else:
                h0 = hx
            for value, (rows, size) in zip((h0, c0), self.shapes, strict=False):
                expected = (rows, batch, size) if len(shape) == 3 else (rows, size)
                if (
                    type(value) is not Tensor
                    or value.dtype is not dtype
                    or value.shape != expected
                    or not _readable(value)
                ):
                    return None
            h0, c0 = h0.contiguous(), None if c0 is None else c0.contiguous()
        full = self._rows
        if full.steps != steps or full.batch != batch:
            full = self._rows = Rows(steps, batch, steps * batch)
        x = x.contiguous()
        if torch.is_grad_enabled() and any(
            value.requires_grad for value in (x, h0, c0, *tensors) if value is not None
        ):
            x = x.view(full.total, features)
            y, h_n, *c = NativeStack.apply(  # type: ignore[no-untyped-call]
                weights, full, NONE, demanded is not None, x, h0, c0, *tensors
            )
            c_n = c[0] if c else None
        else:
            y, h_n, c_n, _ = call.forward(weights, full, NONE, x, h0, c0, False)
        if len(shape) == 2:
            y, h_n, c_n = y.squeeze(1), h_n.squeeze(1), None if c_n is None else c_n.squeeze(1)
        elif batch_first:
            y = y.transpose(0, 1)
        return y, h_n if c_n is None else (h_n, c_n)


def _readable(value: Tensor) -> bool:
    """Whether it is dense numbers in the CPU's memory, as `dispatch.unreadable` asks in words."""
    return (
        value.is_cpu
        and value.layout is torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
        and value.data_ptr() != 0
        and not value.is_neg()
    )
