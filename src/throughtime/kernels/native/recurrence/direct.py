"""The direct path of an ordinary eager call from a layer to the library: what does not change between calls is checked once."""

from __future__ import annotations

from collections.abc import Sequence
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
        self.states = 2 if weights.lstm else 1
        self.shapes = [
            (len(weights.hidden), sizes[0]) for sizes in (weights.columns, weights.hidden)[: self.states]
        ]

    @staticmethod
    def of(stack: Stack, names: Sequence[dict[str, str]]) -> DirectCall | None:
        """For a stack that native has run once; None where its calls need the general path."""
        library = load()
        dtype = stack.weights[0]["weight_hh"].dtype
        if stack.random or any(stack.zoneout) or not isinstance(library, Library):
            return None
        if dtype not in (torch.float32, torch.float64) or not dispatch.eager():
            return None
        weights = Weights(stack, library)
        attributes = [attribute for each in names for attribute in each.values()]
        return DirectCall(weights, attributes) if weights.one_size and len(weights._seen) == len(attributes) else None

    def run(self, layer: Any, x: Any, hx: Any) -> tuple[Tensor, Any] | None:
        """(outputs, final state), or None for a call that the general path must run."""
        weights = self.weights
        if type(x) is not Tensor or x.dtype is not weights.dtype or not dispatch.eager():
            return None
        if any(layer.zoneout) or (
            layer.training and (layer.recurrent_dropout or (layer.dropout and layer.num_layers > 1))
        ):
            return None
        demanded = dispatch.demanded(layer.backend)
        if demanded is not None and demanded != "native":
            return None
        parameters = layer._parameters
        tensors = [parameters.get(name) for name in self.attributes]
        if not weights.current(tensors):
            return None
        batched = x.dim() == 3
        if batched:
            steps, batch, features = x.shape
            if layer.batch_first:
                steps, batch, x = batch, steps, x.transpose(0, 1)
        elif x.dim() == 2:
            (steps, features), batch = x.shape, 1
        else:
            return None
        if features != weights.features or not steps or not batch or not _readable(x):
            return None
        states = self._states(hx, batch, batched)
        if states is None:
            return None
        h0, c0 = states
        rows = Rows(steps, batch, steps * batch, None, None, None, None, None)
        x = x.contiguous()
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
        if not batched:
            final = h_n.squeeze(1) if c_n is None else (h_n.squeeze(1), c_n.squeeze(1))
            return y, final
        y = y.view(steps, batch, weights.outputs)
        return y.transpose(0, 1) if layer.batch_first else y, h_n if c_n is None else (h_n, c_n)

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
        value.is_cpu
        and value.layout is torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
        and value.data_ptr() != 0
        and not value.is_neg()
    )
