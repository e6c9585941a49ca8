"""Chunks of many sequences in one native call, each continued from its own state (csrc/stream.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from throughtime.errors import BackendError
from throughtime.kernels.native.generation.interface import address, layer_struct, loaded, unavailable
from throughtime.kernels.native.generation.packing import WEIGHTS, GeneratorLayer, pack_head, pack_layer


class Slab:
    """The states of many sequences: for each layer h [slots, padded H], and of an LSTM c, side by side."""

    def __init__(self, stack: PackedStack, slots: int) -> None:
        self.slots = slots
        self.sizes = [layer.panels.size for layer in stack.layers]
        self.parts = [
            [torch.zeros(slots, layer.panels.padded) for layer in stack.layers] for _ in range(stack.parts)
        ]

    def read(self, slot: int) -> list[Tensor]:
        """A copy of one sequence's state: h [H] of each layer, then c of each."""
        return [
            values[slot, :size].clone()
            for part in self.parts
            for values, size in zip(part, self.sizes, strict=True)
        ]

    def write(self, slot: int, state: Sequence[Tensor] | None) -> None:
        """Set one sequence's state, None for zeros."""
        values = iter(state or ())
        for part in self.parts:
            for tensor, size in zip(part, self.sizes, strict=True):
                if state is None:
                    tensor[slot] = 0
                else:
                    tensor[slot, :size] = next(values)

    def grow(self, slots: int) -> None:
        """More slots; those there are keep their states."""
        for part in self.parts:
            for number, tensor in enumerate(part):
                part[number] = torch.cat([tensor, tensor.new_zeros(slots - self.slots, tensor.shape[1])])
        self.slots = slots


class PackedStack:
    """Layers, and a linear head if there is one, with their weights packed for streaming.

    The weights are copied: later changes of the tensors have no effect, and threads can share a stack.
    Args: layers: all of one kind, each reads the H of the one before; head: (weight [V, H], bias [V] or None); weights: how they
    are stored, of `WEIGHTS` in generation/packing.py.
    Raises: BackendError where the native library is missing.
    """

    def __init__(
        self,
        layers: Sequence[GeneratorLayer],
        head: tuple[Tensor, Tensor | None] | None = None,
        weights: str = "float32",
    ) -> None:
        if reason := unavailable():
            raise BackendError(f"streaming needs the native library: {reason}")
        self.library = loaded()
        width = int(self.library.handle.tt_generation_width())
        with torch.no_grad():
            self.layers = [pack_layer(layer, width, weights, folded=False) for layer in layers]
            self._head = None if head is None else pack_head(*head, width, weights)
        self.weights = WEIGHTS.index(weights)
        self.inputs = layers[0].weight_ih.shape[1]
        self.outputs = layers[-1].hidden if head is None else head[0].shape[0]
        self.parts = 2 if layers[0].kind == "lstm" else 1  # tensors of a layer's state: h, or h and c

    def bind(self, slab: Slab) -> Call:
        """What calls on a slab share."""
        return Call(self, slab)


class Call:
    """Calls of a stack on a slab: their C structs are made once."""

    def __init__(self, stack: PackedStack, slab: Slab) -> None:
        library, self.stack, self.slab = stack.library, stack, slab
        count = len(stack.layers)
        self._layers = (library.structs["generation_layer"] * count)(
            *(layer_struct(layer, library) for layer in stack.layers)
        )
        for layer, *values in zip(self._layers, *slab.parts, strict=True):
            layer.h, layer.c = [*(value.data_ptr() for value in values), None][:2]
        head = stack._head
        self._call = library.structs["stream"](
            layers=count, weights=stack.weights, inputs=stack.inputs, outputs=stack.outputs, layer=ctypes.addressof(self._layers),
            head_weight=None if head is None else address(head[0].values),
            head_bias=None if head is None else address(head[1]),
            head_scale=None if head is None else address(head[0].scale),
        )  # fmt: skip
        self._run = library.handle.tt_stream_chunks
        self._reference = ctypes.byref(self._call)
        self._one = torch.tensor([0, 0, 0])  # the slot of one row, and its offsets
        self._one_address = self._one.data_ptr()

    def run(self, slots: Tensor, offsets: Tensor, x: Tensor) -> Tensor:
        """Continue the sequences in `slots` [rows] with their steps of x [N, D]; the outputs [N, outputs].

        Args: slots, int64, none twice; offsets, int64 [rows + 1]: row r has steps offsets[r] to offsets[r + 1]; x float32. All
        contiguous and on the CPU, which is not checked here.
        """
        call = self._call
        y = torch.empty(len(x), self.stack.outputs)
        call.rows, call.threads = len(slots), torch.get_num_threads()
        call.slots, call.offsets = slots.data_ptr(), offsets.data_ptr()
        call.x, call.y = x.data_ptr(), y.data_ptr()
        if self._run(self._reference):
            raise MemoryError("no memory for the states of a call; no state was changed")
        return y

    def run_one(self, slot: int, x: Tensor, threads: int) -> Tensor:
        """`run` for one sequence, x [t, D]."""
        steps = x.shape[0]
        call, place = self._call, self._one_address
        y = torch.empty(steps, self.stack.outputs)
        if self._one_slot != (slot, steps):
            self._one[0], self._one[2] = slot, steps
            self._one_slot = (slot, steps)
        call.rows, call.threads, call.slots, call.offsets = 1, threads, place, place + 8
        call.x, call.y = x.data_ptr(), y.data_ptr()
        if self._run(self._reference):
            raise MemoryError("no memory for the states of a call; no state was changed")
        return y

    _one_slot = (0, 0)
