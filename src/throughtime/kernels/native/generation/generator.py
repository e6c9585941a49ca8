"""Sampling from a recurrent language model, many symbols in one native call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from throughtime.errors import BackendError, InputError, one_of
from throughtime.kernels.native.generation.interface import (
    address,
    check_ids,
    check_sampling,
    check_shapes,
    check_tensor,
    layer_struct,
    loaded,
    unavailable,
)
from throughtime.kernels.native.generation.packing import (
    LOGIT_BLOCK,
    WEIGHTS,
    GeneratorLayer,
    pack_head,
    pack_layer,
    table,
)

__all__ = ["Generator", "GeneratorLayer", "SamplingError", "State", "unavailable"]

# Multiplications in one native call: well under a second, after which Python can handle Ctrl-C.
_WORK = 1e9


class State(NamedTuple):
    """What a language model carries from symbol to symbol of B texts: a value that no call changes.

    model: what the model returns as its state and takes back, any nesting of tensors. Of layers of one size: h [L, B, H], or the
        pair (h, c) of an LSTM; of layers of different sizes a tuple of [B, H] in the place of each tensor. None before the
        first symbol.
    logits: [B, V] of the next symbol; None before the first symbol.
    position: symbols read so far; with the seed and the row, it determines the next random number of native generation.
    """

    model: Any = None
    logits: Tensor | None = None
    position: int = 0


class SamplingError(InputError):
    """The next symbol cannot be sampled; `num_sampled` is how many were before it."""

    def __init__(self, message: str, num_sampled: int) -> None:
        super().__init__(message)
        self.num_sampled = num_sampled


class Generator:
    """The generation loop over packed weights; arithmetic in float32 on the CPU.

    Args:
        layers: from the input to the output, all of one kind; each reads the H of the one before.
        head_weight, head_bias: [V, H of the last layer], [V] or None.
        embedding: [V, D of the first layer]; None: symbols are one-hot, D = V.
        weights: how they are stored: "float32"; "bf16", half the memory; "int8", a quarter of it and a scale for each
            row (`packing.quantize`). Applies to every matrix of a step: W_hh, W_ih, the head.

    The weights are copied: later changes of the tensors have no effect, and threads can share a generator. Embedding, W_ih of the
    first layer and its biases become one float32 table with a row for each symbol where that is at most 64 MB.
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
        self._library = loaded()
        width = int(self._library.handle.tt_generation_width())
        self.symbols = head_weight.shape[0]
        with torch.no_grad():
            self._table = table(layers[0], embedding, width)
            folded = self._table is not None
            self._embedding = None if folded or embedding is None else embedding.clone().contiguous()
            self._layers = [
                pack_layer(layer, width, weights, folded=folded and i == 0) for i, layer in enumerate(layers)
            ]
            self._head, self._head_bias = pack_head(head_weight, head_bias, width, weights)
        self._sizes = [layer.panels.size for layer in self._layers]
        self._uniform = len(set(self._sizes)) == 1
        self._parts = 2 if layers[0].kind == "lstm" else 1  # tensors of a layer's state: h, or h and c
        self._work = self._head.values.numel() + sum(2 * x.weight_hh.values.numel() for x in self._layers)

    def initial(self, batch: int = 1) -> State:
        """The state before the first symbol: zero states, and all symbols equally likely."""
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        parts = [[torch.zeros(batch, size) for size in self._sizes] for _ in range(self._parts)]
        return State(self._joined(parts), torch.zeros(batch, self.symbols))

    def feed(self, ids: Tensor, state: State | None = None) -> State:
        """Read symbols [T, B], or [T] for one row, and return the state after them."""
        columns = ids.unsqueeze(1) if ids.dim() == 1 else ids
        state = self._started(state, columns.shape[-1])
        batch = len(state.logits)  # type: ignore[arg-type]  # started
        if columns.dim() != 2 or columns.shape[1] != batch or ids.dtype != torch.int64:
            raise InputError(f"ids must be int64 [T, {batch}], got {ids.dtype} {list(ids.shape)}")
        check_ids("ids", columns, self.symbols)
        finished = torch.zeros(batch, dtype=torch.bool)
        for chunk in torch.split(columns, self._steps(batch)):
            _, state = self._call(chunk.contiguous(), len(chunk), state, finished, {}, (), ())
        return state

    def run(
        self,
        n: int,
        state: State | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        banned: Sequence[int] = (),
        stops: Sequence[int] = (),
    ) -> tuple[Tensor, State]:
        """Sample n symbols for each row, each from the distribution that follows those before it.

        Temperature 0 takes the most probable (the first among equals); else symbols are sampled from the softmax of logits /
        temperature, of the top_k largest, of the smallest set with a total probability of top_p. `banned` ids are never sampled.
        The result depends on the seed, the state's position and the row alone, not on threads or on how n is divided over calls.

        Returns: ids [n, B], and the state after them. A row that samples one of `stops` holds it, and -1 after it (its
            state goes on with the others'); when all rows have stopped, there are fewer than n.
        Raises: InputError for values out of range; SamplingError, and nothing is sampled, for logits that hold NaN or infinity,
            and when every symbol is excluded.
        """
        state = self._started(state, 1)
        if not 0 <= n < 2**40:
            raise InputError(f"n must be 0 or more, got {n}")
        numbers = check_sampling(temperature, top_k, top_p, seed)
        for name, values in (("banned", banned), ("stops", stops)):
            check_ids(name, torch.as_tensor(values, dtype=torch.int64), self.symbols)
        batch, num_sampled = len(state.logits), 0  # type: ignore[arg-type]  # started
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

    def _started(self, state: State | None, batch: int) -> State:
        return self.initial(batch) if state is None or state.logits is None else state

    @torch.no_grad()
    def _call(
        self,
        ids: Tensor,
        num_read: int,
        state: State,
        finished: Tensor,
        numbers: dict[str, Any],
        banned: Sequence[int],
        stops: Sequence[int],
    ) -> tuple[int, State]:
        """One native call over `ids` [steps, B]: the first `num_read` steps are read, the others sampled and written.

        Returns the number of steps that were run, and the state after them.
        """
        parts, logits = self._buffers(state)
        structs = self._library.structs
        layers = (structs["generation_layer"] * len(self._layers))(
            *(layer_struct(layer, self._library) for layer in self._layers)
        )
        for layer, *addresses in zip(layers, *([address(v) for v in part] for part in parts), strict=True):
            layer.h, layer.c = addresses if self._parts == 2 else (*addresses, None)
        lists = [torch.tensor(list(values), dtype=torch.int64) for values in (banned, stops)]
        call = structs["generation"](
            layers=len(layers), batch=len(logits), symbols=self.symbols, weights=WEIGHTS.index(self.weights),
            tokens=len(ids), num_read=num_read, threads=torch.get_num_threads(), position=state.position,
            layer=ctypes.addressof(layers), banned_count=len(banned),
            stop_count=len(stops), banned=address(lists[0]), stops=address(lists[1]), table=address(self._table),
            embedding=address(self._embedding), head_weight=address(self._head.values),
            head_bias=address(self._head_bias), head_scale=address(self._head.scale), ids=address(ids),
            finished=address(finished), logits=address(logits), **numbers,
        )  # fmt: skip
        status = self._library.handle.tt_generate(ctypes.byref(call))
        if status == 1:
            raise MemoryError("no memory for the states of a generation")
        if status:
            raise SamplingError(_REASONS[status], call.done)
        cut = [[v[:, :size] for v, size in zip(part, self._sizes, strict=True)] for part in parts]
        after = State(self._joined(cut), logits[:, : self.symbols].clone(), state.position + call.done)
        return call.done, after

    def _buffers(self, state: State) -> tuple[list[list[Tensor]], Tensor]:
        """What a call reads and writes: copies [B, padded H] of h (and c) of each layer, and of the logits."""
        assert state.logits is not None  # started
        batch, values = len(state.logits), (state.model, state.logits)
        each: Any = tuple((batch, size) for size in self._sizes)
        each = (len(each), *each[0]) if self._uniform else each
        expected = (each if self._parts == 1 else (each,) * self._parts, (batch, self.symbols))
        shapes = tree_map(lambda v: tuple(v.shape) if isinstance(v, Tensor) else v, values)
        if shapes != expected:
            raise InputError(f"the state's tensors must have shapes {expected}, got {shapes}")
        for value in tree_leaves(values):
            check_tensor("the state", value)
        columns = (
            [_padded(v, layer.panels.padded, 0.0) for v, layer in zip(part, self._layers, strict=True)]
            for part in ([state.model] if self._parts == 1 else state.model)
        )
        padded_symbols = -(-self.symbols // LOGIT_BLOCK) * LOGIT_BLOCK
        return list(columns), _padded(state.logits, padded_symbols, float("-inf"))

    def _joined(self, parts: list[list[Tensor]]) -> Any:
        """A copy of h, or of (h, c), of each layer in the form of `State.model`."""
        joined = [torch.stack(part) if self._uniform else tuple(v.clone() for v in part) for part in parts]
        return joined[0] if self._parts == 1 else tuple(joined)


_REASONS = {
    2: "the logits hold NaN or infinity: the model's training diverged, or it is damaged",
    3: "every symbol is excluded: there is nothing left to sample from",
}


def _padded(value: Tensor, size: int, fill: float) -> Tensor:
    """A copy [B, size] of `value`, filled up."""
    copy = torch.full((len(value), size), fill)
    copy[:, : value.shape[1]] = value
    return copy
