"""Sampling from a recurrent language model, many symbols in one native call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.errors import BackendError, InputError, one_of
from throughtime.kernels.native.generation.interface import (
    CallStruct,
    LayerStruct,
    check_ids,
    check_options,
    check_shapes,
    check_tensor,
    unavailable,
)
from throughtime.kernels.native.generation.packing import (
    GATES,
    LOGIT_BLOCK,
    WEIGHTS,
    GeneratorLayer,
    pack_head,
    pack_layer,
    table,
)
from throughtime.kernels.native.library import ACTIVATIONS, Library, load, pad

__all__ = ["Generator", "GeneratorLayer", "GeneratorState", "SamplingError", "unavailable"]

# Multiplications in one native call: well under a second, after which Python can handle Ctrl-C.
_WORK = 1e9


class GeneratorState(NamedTuple):
    """The state of generation: a value that later calls never change."""

    h: tuple[Tensor, ...]  # each layer's [B, H]
    c: tuple[Tensor, ...]  # each LSTM layer's [B, H]
    logits: Tensor  # [B, V] of the next symbol
    position: int = 0  # number of the next step: with the seed and the row, it determines the random number


class SamplingError(InputError):
    """The next symbol cannot be sampled; `num_sampled` is how many were before it."""

    def __init__(self, message: str, num_sampled: int) -> None:
        super().__init__(message)
        self.num_sampled = num_sampled


class Generator:
    """The generation loop over packed weights; arithmetic in float32 on the CPU.

    Args:
        layers: from the input to the output, in any mixture of kinds; each reads the H of the one before.
        head_weight, head_bias: [V, H of the last layer], [V] or None.
        embedding: [V, D of the first layer]; None: symbols are one-hot, D = V.
        weights: how they are stored: "float32"; "bf16", half the memory; "int8", a quarter of it and a scale for each
            row (`packing.quantize`). Applies to every matrix of a step: W_hh, W_ih, the head.

    The weights are copied: later changes of the tensors have no effect. Embedding, W_ih of the first layer and its biases become
    one float32 table with a row for each symbol where that is at most 64 MB.
    Raises: InputError for shapes that do not fit together; BackendError where the native library is missing.
    Cost of a symbol: the weights are read once for all rows; no memory is allocated.
    """

    def __init__(
        self,
        layers: Sequence[GeneratorLayer],
        head_weight: Tensor,
        head_bias: Tensor | None = None,
        embedding: Tensor | None = None,
        *,
        weights: str = "float32",
    ) -> None:
        self.weights = one_of("weights", weights, WEIGHTS)
        if reason := unavailable():
            raise BackendError(f"generation needs the native library: {reason}")
        check_shapes(layers, head_weight, head_bias, embedding)
        library = load()
        assert isinstance(library, Library)  # not `unavailable()`
        self._handle = library.handle
        width = int(self._handle.tt_generation_width())
        self.symbols = head_weight.shape[0]
        with torch.no_grad():
            self._table = table(layers[0], embedding, width)
            self._embedding = (
                None
                if self._table is not None or embedding is None
                else embedding.clone(memory_format=torch.contiguous_format)
            )
            folded = self._table is not None
            self._layers = [
                pack_layer(layer, width, weights, folded=folded and i == 0) for i, layer in enumerate(layers)
            ]
            self._head, self._head_bias = pack_head(head_weight, head_bias, width, weights)
        self._work = self._head.values.numel() + sum(2 * x.weight_hh.values.numel() for x in self._layers)

    def initial(self, batch: int = 1) -> GeneratorState:
        """The state before the first symbol: zero states, and all symbols equally likely."""
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        zeros = tuple(torch.zeros(batch, layer.panels.size) for layer in self._layers)
        cell_states = tuple(z.clone() for z, x in zip(zeros, self._layers, strict=True) if x.kind == "lstm")
        return GeneratorState(zeros, cell_states, torch.zeros(batch, self.symbols))

    def feed(self, ids: Tensor, state: GeneratorState | None = None) -> GeneratorState:
        """Read symbols [T, B], or [T] for one row, and return the state after them."""
        state = self.initial(1 if ids.dim() == 1 else ids.shape[-1]) if state is None else state
        columns = ids.unsqueeze(1) if ids.dim() == 1 else ids
        if columns.dim() != 2 or columns.shape[1] != state.logits.shape[0] or ids.dtype != torch.int64:
            raise InputError(
                f"ids must be int64 [T, {state.logits.shape[0]}], got {ids.dtype} {list(ids.shape)}"
            )
        check_ids("ids", columns, self.symbols)
        finished = torch.zeros(columns.shape[1], dtype=torch.bool)
        for chunk in torch.split(columns, self._steps(columns.shape[1])):
            _, state = self._call(chunk.contiguous(), len(chunk), state, finished, {}, (), ())
        return state

    def run(
        self,
        n: int,
        state: GeneratorState | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        banned: Sequence[int] = (),
        stops: Sequence[int] = (),
    ) -> tuple[Tensor, GeneratorState]:
        """Sample n symbols for each row, each from the distribution that follows those before it.

        Temperature 0 takes the most probable (the first among equals); else symbols are sampled from the softmax of logits /
        temperature, of the top_k largest, of the smallest set with a total probability of top_p. `banned` ids are never sampled.
        The result depends on the seed, the state's position and the row alone, not on threads or on how n is divided over calls.

        Returns: ids [n, B], and the state after them. A row that samples one of `stops` holds it, and -1 after it (its
            state goes on with the others'); when all rows have stopped, there are fewer than n.
        Raises: InputError for values out of range; SamplingError, and nothing is sampled, for logits that hold NaN or infinity,
            and when every symbol is excluded.
        """
        state = self.initial() if state is None else state
        numbers = check_options(n, temperature, top_k, top_p, seed)
        for name, values in (("banned", banned), ("stops", stops)):
            check_ids(name, torch.as_tensor(values, dtype=torch.int64), self.symbols)
        batch, num_sampled = state.logits.shape[0], 0
        chunks = [torch.empty(0, batch, dtype=torch.int64)]
        finished = torch.zeros(batch, dtype=torch.bool)
        while num_sampled < n and not bool(finished.all()):
            ids = torch.full((min(n - num_sampled, self._steps(batch)), batch), -1, dtype=torch.int64)
            try:
                steps, state = self._call(ids, 0, state, finished, numbers, banned, stops)
            except SamplingError as error:
                raise SamplingError(str(error), num_sampled + error.num_sampled) from None
            chunks.append(ids[:steps])
            num_sampled += steps
        return torch.cat(chunks), state

    def _steps(self, batch: int) -> int:
        return max(1, min(2**20, int(_WORK / (self._work * batch))))

    @torch.no_grad()
    def _call(
        self,
        ids: Tensor,
        num_read: int,
        state: GeneratorState,
        finished: Tensor,
        numbers: dict[str, Any],
        banned: Sequence[int],
        stops: Sequence[int],
    ) -> tuple[int, GeneratorState]:
        """One native call over `ids` [steps, B]: the first `num_read` steps are read, the others sampled and written.

        Returns the number of steps that were run, and the state after them.
        """
        batch = state.logits.shape[0]
        self._check_state(state, batch)
        padded_symbols = -(-self.symbols // LOGIT_BLOCK) * LOGIT_BLOCK
        logits = F.pad(state.logits, (0, padded_symbols - self.symbols), value=float("-inf")).clone(
            memory_format=torch.contiguous_format
        )
        cell_states = iter(state.c)
        h = [pad(v, x.panels.padded).clone() for v, x in zip(state.h, self._layers, strict=True)]
        c = [
            pad(next(cell_states), x.panels.padded).clone() if x.kind == "lstm" else None
            for x in self._layers
        ]
        layers = (LayerStruct * len(h))()
        for i, layer in enumerate(self._layers):
            numbers_of = (list(GATES).index(layer.kind), ACTIVATIONS[layer.nonlinearity], layer.inputs)
            of_input = layer.weight_ih or (None, None)
            weights = (of_input[0], layer.weight_hh.values, of_input[1], layer.weight_hh.scale)
            tensors = (*weights, layer.bias, layer.bias_hn, h[i], c[i])
            layers[i] = LayerStruct(
                *numbers_of, layer.panels.size, layer.panels.padded, *(_address(t) for t in tensors)
            )
        lists = [torch.tensor(list(values), dtype=torch.int64) for values in (banned, stops)]
        call = CallStruct(
            len(h), batch, self.symbols, WEIGHTS.index(self.weights), len(ids), num_read, torch.get_num_threads(),
            position=state.position, layer=layers, banned_count=len(banned), stop_count=len(stops),
            banned=_address(lists[0]), stops=_address(lists[1]),
            table=_address(self._table), embedding=_address(self._embedding), head_weight=_address(self._head.values),
            head_bias=_address(self._head_bias), head_scale=_address(self._head.scale), ids=_address(ids),
            finished=_address(finished), logits=_address(logits), **numbers,
        )  # fmt: skip
        status = self._handle.tt_generate(ctypes.byref(call))
        if status == 1:
            raise MemoryError("no memory for the states of a generation")
        if status:
            raise SamplingError(_REASONS[status], call.done)
        after = GeneratorState(
            tuple(v[:, : x.panels.size].clone() for v, x in zip(h, self._layers, strict=True)),
            tuple(
                v[:, : x.panels.size].clone() for v, x in zip(c, self._layers, strict=True) if v is not None
            ),
            logits[:, : self.symbols].clone(),
            state.position + call.done,
        )
        return call.done, after

    def _check_state(self, state: GeneratorState, batch: int) -> None:
        hidden = [layer.panels.size for layer in self._layers]
        cell_states = [layer.panels.size for layer in self._layers if layer.kind == "lstm"]
        expected = [(batch, size) for size in (*hidden, *cell_states, self.symbols)]
        tensors = [*state.h, *state.c, state.logits]
        shapes = [tuple(value.shape) for value in tensors]
        if shapes != expected or len(state.h) != len(hidden):
            raise InputError(f"the state's tensors must have shapes {expected}, got {shapes}")
        for value in tensors:
            check_tensor("the state", value)


_REASONS = {
    2: "the logits hold NaN or infinity: the model's training diverged, or it is damaged",
    3: "every symbol is excluded: there is nothing left to sample from",
}


def _address(value: Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()
