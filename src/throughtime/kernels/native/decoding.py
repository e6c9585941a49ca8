"""Steps of a decoder with attention in native code, and the best next symbols of each row (csrc/decode.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.errors import BackendError, InputError
from throughtime.kernels.native.generation.interface import address, layer_struct, loaded, unavailable
from throughtime.kernels.native.generation.packing import (
    LOGIT_BLOCK,
    GeneratorLayer,
    Panels,
    pack,
    pack_head,
    pack_layer,
)

KINDS = ("none", "product", "additive")  # in the order of tt_attention
FREE, ONLY_END, NOT_END = range(3)  # of tt_rule
_NO_MEMORY = 1  # of tt_generation_status
DIVERGED = "the logits hold NaN or infinity: the model's training diverged, or it is damaged"


class Weights(NamedTuple):
    """A decoder's tensors, of torch.nn's shapes."""

    layers: Sequence[GeneratorLayer]
    embedding: Tensor  # [V, E]
    head_weight: Tensor  # [V, features]
    head_bias: Tensor
    kind: str = "none"  # of `KINDS`; product compares the top layer's output with the keys
    combine: Tensor | None = None  # [features, M + H]
    query_weight: Tensor | None = None  # additive: [A, H]
    query_bias: Tensor | None = None  # [A]
    score: Tensor | None = None  # [A]
    summarized: int = 0  # numbers of a source's summary that every step reads
    fed: bool = False  # whether the attentional vector of the step before is read


class Sources(NamedTuple):
    """What is attended to, of B sources; float32, contiguous, on the CPU."""

    keys: Tensor | None = None  # [B, S, A]
    outputs: Tensor | None = None  # [B, S, M]
    lengths: Tensor | None = None  # int64 [B], at least 1
    summary: Tensor | None = None  # [B, summarized]


class Best(NamedTuple):
    """The best next symbols of each of N rows."""

    values: Tensor  # float32 [N, C], log-probabilities, the largest first; -infinity where nothing is left to choose
    places: Tensor  # int64 [N, C], symbols
    ends: Tensor  # bool [N], whether the end is the likeliest of all symbols


class PackedDecoder:
    """A decoder with its weights packed. The weights are copied: later changes of the tensors have no effect.

    The states of N rows are one tensor [N, width]: of each layer h and, of an LSTM, c; then what is fed to the next step.
    Raises: BackendError where the native library is missing.
    """

    def __init__(self, weights: Weights) -> None:
        if reason := unavailable():
            raise BackendError(f"native decoding needs the native library: {reason}")
        self.library, self.weights = loaded(), weights
        width = int(self.library.handle.tt_generation_width())
        with torch.no_grad():
            self.layers = [pack_layer(layer, width, "float32", folded=False) for layer in weights.layers]
            head, head_bias = pack_head(weights.head_weight, weights.head_bias, width, "float32")
            self._embedding = weights.embedding.detach().float().contiguous()
            self._head = head.values, head_bias
            self._combine = None if weights.combine is None else _map(weights.combine, width)
            self._query = None if weights.query_weight is None else _map(weights.query_weight, width)
            self._query_bias = None
            if weights.query_bias is not None:
                self._query_bias = Panels(1, len(weights.query_bias), 4, width).rows(weights.query_bias)
            self._score = None if weights.score is None else weights.score.detach().float().contiguous()
        self.symbols, self.features = weights.head_weight.shape
        self.embedded = weights.embedding.shape[1]
        parts = 2 if weights.layers[0].kind == "lstm" else 1  # tensors of a layer's state: h, or h and c
        self.width = parts * sum(layer.panels.padded for layer in self.layers)
        self.width += self.features if weights.fed else 0
        self._structs = (self.library.structs["generation_layer"] * len(self.layers))(
            *(layer_struct(layer, self.library) for layer in self.layers)
        )
        self.pointers = {
            "layer": ctypes.addressof(self._structs), "embedding": address(self._embedding),
            "query_weight": address(self._query), "query_bias": address(self._query_bias),
            "score_weight": address(self._score), "combine_weight": address(self._combine),
            "head_weight": address(self._head[0]), "head_bias": address(self._head[1]),
        }  # fmt: skip
        self.run = self.library.handle.tt_decode_step

    def states(self, parts: Sequence[Sequence[Tensor]], fed: Tensor | None) -> Tensor:
        """States [N, width] of h and, of an LSTM, c: `parts` [part][layer], each [N, H]; fed [N, features]."""
        columns = [
            F.pad(part[number], (0, layer.panels.padded - layer.panels.size))
            for number, layer in enumerate(self.layers)
            for part in parts
        ]
        return torch.cat([*columns, *([] if fed is None else [fed])], dim=1).float().contiguous()

    def bind(self, sources: Sources) -> Call:
        """What calls on the same sources share."""
        return Call(self, sources)


class Rows(NamedTuple):
    """N rows that read a symbol each; all contiguous and on the CPU, which is not checked here."""

    symbols: Tensor  # int64 [N]
    states: Tensor  # [rows of the step before, width]
    parents: Tensor  # int64 [N]: which of these each row continues; several may continue the same one
    sources: Tensor  # int64 [N]


class Call:
    """Steps of a decoder over some sources: the C struct is made once."""

    def __init__(self, decoder: PackedDecoder, sources: Sources) -> None:
        weights = decoder.weights
        self.decoder, self._sources, self._step = decoder, sources, 0
        _, self._length, memory = (0, 0, 0) if sources.outputs is None else sources.outputs.shape
        self._struct = decoder.library.structs["decode"](
            layers=len(decoder.layers), embedded=decoder.embedded, summarized=weights.summarized, fed=int(weights.fed),
            attention=KINDS.index(weights.kind), length=self._length, memory=memory,
            compared=0 if sources.keys is None else sources.keys.shape[2], features=decoder.features, symbols=decoder.symbols,
            width=decoder.width, **decoder.pointers, summary=address(sources.summary), keys=address(sources.keys),
            outputs=address(sources.outputs), lengths=address(sources.lengths),
        )  # fmt: skip
        self._reference = ctypes.byref(self._struct)

    def logits(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
        """The logits [N, V], the new states [N, width], and the weights of attention [N, S] where there is one."""
        logits = torch.empty(len(rows.symbols), -(-self.decoder.symbols // LOGIT_BLOCK) * LOGIT_BLOCK)
        self._struct.count, self._struct.logits = 0, logits.data_ptr()
        return logits[:, : self.decoder.symbols], *self._run(rows)

    def best(
        self, rows: Rows, count: int, end: int, excluded: Tensor | None, rules: Tensor | None
    ) -> tuple[Best, Tensor, Tensor | None]:
        """The `count` best next symbols of each row; the rest as of `logits`.

        Args: excluded, uint8 [V], not 0 for symbols that are never chosen, though the end can be; rules, uint8 [N]: `FREE`,
        `ONLY_END` or `NOT_END`.
        Raises: InputError for logits that are not numbers.
        """
        number, call = len(rows.symbols), self._struct
        values = torch.empty(number, count)
        places = torch.empty(number, count, dtype=torch.int64)
        ends = torch.empty(number, dtype=torch.bool)
        call.count, call.end, call.logits = count, end, None
        call.excluded, call.rules = address(excluded), address(rules)
        call.values, call.places, call.ends = values.data_ptr(), places.data_ptr(), ends.data_ptr()
        return Best(values, places, ends), *self._run(rows)

    def _run(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        call, number = self._struct, len(rows.symbols)
        states = torch.empty(number, self.decoder.width)
        weights = torch.empty(number, self._length) if self._length else None
        call.rows, call.threads, call.step = number, torch.get_num_threads(), self._step
        call.symbol, call.parent = rows.symbols.data_ptr(), rows.parents.data_ptr()
        call.source, call.states = rows.sources.data_ptr(), rows.states.data_ptr()
        call.new_states, call.weights = states.data_ptr(), address(weights)
        self._step += 1
        if status := self.decoder.run(self._reference):
            if status == _NO_MEMORY:
                raise MemoryError("no memory for a step of the decoder")
            raise InputError(DIVERGED)
        return states, weights


def _map(weight: Tensor, width: int) -> Tensor:
    """A weight [R, K] in panels."""
    return pack(Panels(1, weight.shape[0], 4, width), weight.detach().float(), "float32").values
