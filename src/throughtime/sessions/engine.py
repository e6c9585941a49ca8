"""What runs chunks of sequences, each continued from its own state: native over packed weights, or the model itself."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from throughtime.errors import BackendError, InputError, SessionError, one_of
from throughtime.kernels.native.generation.packing import WEIGHTS
from throughtime.kernels.native.streaming import PackedStack, Slab
from throughtime.layers import packed
from throughtime.layers.eval_mode import evaluating
from throughtime.models.embeddings import Continuous, OneHot
from throughtime.models.many_to_many import StreamingParts


class Engine(ABC):
    """The states of some sequences, by slot, and the model that continues them.

    Attributes: native, whether every output is the same to the last bit in any company and for any chunking; reason, why not;
    single, whether the model has one output for a sequence: that of a chunk is of its last step, [1, Q].
    """

    native: bool
    reason: str | None = None
    weights = "float32"

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.single = bool(getattr(model, "pooling", ""))
        self.slots = 0
        self._identity: str | None = None

    @property
    def identity(self) -> str:
        """The SHA-256 of the model's parameters and buffers, names and shapes included, and of how weights are rounded.

        Cost: one pass, the first time.
        """
        if self._identity is None:
            digest = hashlib.sha256(b"" if self.weights == "float32" else self.weights.encode())
            for name, value in self.model.state_dict().items():
                if isinstance(value, Tensor):
                    digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
                    digest.update(
                        value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
                    )
            self._identity = digest.hexdigest()
        return self._identity

    @abstractmethod
    def like(self) -> Engine:
        """Another engine of the same model, without slots; packed weights are shared."""

    @abstractmethod
    def grow(self, slots: int) -> None:
        """At least so many slots; states stay."""

    @abstractmethod
    def check(self, x: Any) -> Tensor:
        """A chunk [t, ...] in the form that `run` takes. Raises: InputError for another one."""

    @abstractmethod
    def run(self, slots: Sequence[int], chunks: Sequence[Tensor]) -> list[Tensor]:
        """Continue different slots with their chunks, each [t, ...]: outputs [t, ...] of each. If it raises, no state changed."""

    @abstractmethod
    def read(self, slot: int) -> dict[str, Tensor]:
        """A copy of a slot's state; empty before the first step of a model whose state has no fixed form."""

    @abstractmethod
    def write(self, slot: int, state: dict[str, Tensor] | None) -> None:
        """Set a slot's state; None is the state before the first step.

        Raises: SessionError for a state of another form; the slot is unchanged then.
        """


class NativeEngine(Engine):
    """Streams through csrc/stream.cpp: GRU, LSTM and RNN layers, and models of an embedding, such layers and a linear head.

    The weights are copied: later changes of the model have no effect. What makes the vector of a step, where that is no table of
    symbols' vectors, is the model's own; it is called for each step alone, so that its bits depend on no other.
    Raises: BackendError with `refusal(model)`.
    """

    native = True

    def __init__(
        self,
        model: nn.Module,
        stack: PackedStack | None = None,
        table: Tensor | None = None,
        weights: str = "float32",
    ) -> None:
        super().__init__(model)
        self.weights = weights
        parts = _parts(model)
        if stack is None:
            if reason := refusal(model):
                raise BackendError(reason)
            head = None if parts is None else (parts.head[0].detach(), parts.head[1].detach())
            stack = PackedStack(packed.packed_layers(model if parts is None else parts.layers), head, weights)
            table = _table(model)
        self.stack, self.table = stack, table
        self._encoder = None
        if table is None and parts is not None and type(parts.embedding) is not Continuous:
            self._encoder = parts.embedding
        self.slab = Slab(stack, 0)
        self._call = stack.bind(self.slab)
        self._inputs = stack.inputs

    def like(self) -> NativeEngine:
        other = NativeEngine(self.model, self.stack, self.table, self.weights)
        other._identity = self._identity
        return other

    def grow(self, slots: int) -> None:
        if slots > self.slots:
            self.slab.grow(slots)
            self._call = self.stack.bind(self.slab)
            self.slots = slots

    def check(self, x: Any) -> Tensor:
        if self.table is not None:
            return _checked_ids(x, len(self.table))
        if self._encoder is not None:
            return self._encoded(x)
        if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != self._inputs:
            raise InputError(f"a chunk must be [t, {self._inputs}] of real numbers, got {_came(x)}")
        if x.dtype is torch.float32 and x.is_cpu and x.is_contiguous() and not x.requires_grad:
            return x  # as most are: asked in the order of what the answers cost
        if not x.is_floating_point():
            raise InputError(f"a chunk must be [t, {self._inputs}] of real numbers, got {_came(x)}")
        return x.detach().to("cpu", torch.float32).contiguous()

    def _encoded(self, x: Any) -> Tensor:
        """The vectors [t, D] of steps [t, ...]."""
        assert self._encoder is not None
        if not isinstance(x, Tensor) or x.dim() < 1:
            raise InputError(
                f"a chunk must be a tensor [t, ...], a step of the sequence in each row, got {_came(x)}"
            )
        with evaluating(self._encoder), torch.no_grad():
            try:
                found = [self._encoder(step[None, None]).reshape(1, self._inputs) for step in x]
            except (RuntimeError, IndexError, ValueError) as error:
                raise InputError(
                    f"the model cannot read steps {_came(x)}: {str(error).splitlines()[0]}"
                ) from None
        return torch.cat(found) if found else torch.zeros(0, self._inputs)

    def run(self, slots: Sequence[int], chunks: Sequence[Tensor]) -> list[Tensor]:
        if not slots:
            return []
        lengths = [each.shape[0] for each in chunks]
        offsets = torch.zeros(len(slots) + 1, dtype=torch.int64)
        torch.cumsum(torch.tensor(lengths), 0, out=offsets[1:])
        x = chunks[0] if len(chunks) == 1 else torch.cat(list(chunks))
        y = self._call.run(torch.tensor(slots), offsets, x if self.table is None else self.table[x])
        found = [y] if len(slots) == 1 else list(torch.split(y, lengths))
        return [each[-1:] for each in found] if self.single else found

    def run_one(self, x: Tensor) -> Tensor:
        """Continue slot 0, the shortest way: what `run` does for one stream of real numbers or ids."""
        if self.table is not None:
            x = self.table[self.check(x)]
        elif self._encoder is not None:
            x = self._encoded(x)
        elif (
            type(x) is not Tensor
            or x.dtype is not torch.float32
            or x.dim() != 2
            or x.shape[1] != self._inputs
            or not x.is_contiguous()
            or not x.is_cpu
        ):
            x = self.check(x)
        y = self._call.run_one(0, x, 1)
        return y[-1:] if self.single else y

    def read(self, slot: int) -> dict[str, Tensor]:
        values = self.slab.read(slot)
        return dict(zip(self._names(), values, strict=True))

    def write(self, slot: int, state: dict[str, Tensor] | None) -> None:
        if state is None:
            return self.slab.write(slot, None)
        names, sizes = self._names(), self.slab.sizes * self.stack.parts
        found = {name: (tuple(value.shape), value.dtype) for name, value in state.items()}
        if found != {name: ((size,), torch.float32) for name, size in zip(names, sizes, strict=True)}:
            raise SessionError(
                "snapshot",
                f"the state must be {', '.join(f'{n} [{s}]' for n, s in zip(names, sizes, strict=True))} in float32, got "
                f"{', '.join(f'{name} {list(shape)}' for name, (shape, _) in found.items()) or 'nothing'}: it is another model's",
            )
        self.slab.write(slot, [state[name] for name in names])

    def _names(self) -> list[str]:
        return [
            f"{part}.{n}" for part in ("h", "c")[: self.stack.parts] for n in range(len(self.stack.layers))
        ]


class ModuleEngine(Engine):
    """Streams through the model itself: any `(inputs [t, 1, ...], state) -> (outputs, state)` that reads from left to right.

    Each sequence runs alone, so its company changes no bit; another chunking may change the last bits, as torch may sum in
    another order for another number of steps. The weights are the model's own, as they are at each call.
    Args: stepwise: call the model for each step alone, so that chunking changes no bit either.
    """

    native = False

    def __init__(self, model: nn.Module, reason: str | None = None, stepwise: bool = False) -> None:
        super().__init__(model)
        self.stepwise = stepwise
        if any(getattr(module, "bidirectional", False) for module in model.modules()):
            raise InputError(
                "a bidirectional model cannot stream: its backward half starts at the end; train one without it"
            )
        if what := getattr(model, "needs_whole", ""):
            raise InputError(f"a model with {what} cannot stream: it reads whole sequences")
        self.reason = reason
        self._states: list[Any] = []
        self._example: Any = None  # a state, for the form that all have

    def like(self) -> ModuleEngine:
        other = ModuleEngine(self.model, self.reason, self.stepwise)
        other._example = self._example
        return other

    def grow(self, slots: int) -> None:
        self._states += [None] * (slots - len(self._states))
        self.slots = len(self._states)

    def check(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor) or x.dim() < 1:
            raise InputError(
                f"a chunk must be a tensor [t, ...], a step of the sequence in each row, got {_came(x)}"
            )
        return x.detach()

    def run(self, slots: Sequence[int], chunks: Sequence[Tensor]) -> list[Tensor]:
        outputs, states = [], []
        found_in: Any = getattr(
            self.model, "step_outputs", None
        )  # of a model that returns more than a tensor
        parameter = next(self.model.parameters(), None)
        with evaluating(self.model), torch.no_grad():
            for slot, chunk in zip(slots, chunks, strict=True):
                x = chunk if parameter is None else chunk.to(parameter.device)
                if not len(x):
                    raise InputError("a chunk must have at least one step, got none")
                x = x.unsqueeze(1)
                state, found = self._started(slot, x), []
                for part in torch.split(x, 1) if self.stepwise else [x]:
                    y, state = self.model(part, state)
                    if found_in is not None:
                        y = found_in(y)
                    found.append(y if self.single else y.squeeze(1))
                outputs.append(found[-1] if self.single else torch.cat(found))
                states.append(state)
        for slot, state in zip(slots, states, strict=True):
            self._states[slot] = self._example = state
        return outputs

    def read(self, slot: int) -> dict[str, Tensor]:
        state = self._states[slot]
        if isinstance(state, _Leaves):
            return {name: value.clone() for name, value in state.values.items()}
        return {name: value.detach().clone() for name, value in _named(state).items()}

    def write(self, slot: int, state: dict[str, Tensor] | None) -> None:
        if not state:
            self._states[slot] = None
            return
        found = _Leaves({name: value.clone() for name, value in state.items()})
        self._states[slot] = found if self._example is None else found.like(self._example)

    def _started(self, slot: int, x: Tensor) -> Any:
        """The state that a slot's chunk x [t, 1, ...] goes on from.

        The form of a model's state is that of what it returns. An engine that has run nothing yet learns it from one step of x.
        """
        state = self._states[slot]
        if not isinstance(state, _Leaves):
            return state
        if self._example is None:
            _, self._example = self.model(x[:1], None)
        return state.like(self._example)


class _Leaves(NamedTuple):
    """A state that was read from a snapshot, by name: its form is not known yet."""

    values: dict[str, Tensor]

    def like(self, example: Any) -> Any:
        """In the form of another state of the model. Raises: SessionError where the tensors are others."""
        expected = {name: (tuple(value.shape), value.dtype) for name, value in _named(example).items()}
        found = {name: (tuple(value.shape), value.dtype) for name, value in self.values.items()}
        if found != expected:
            raise SessionError(
                "snapshot",
                f"the state must be {list(expected.values())}, got {list(found.values())}: it is of another model",
            )
        leaves, form = tree_flatten(example)
        return tree_unflatten(
            [
                self.values[str(n)].to(leaf.device) if isinstance(leaf, Tensor) else leaf
                for n, leaf in enumerate(leaves)
            ],
            form,
        )


def _named(state: Any) -> dict[str, Tensor]:
    """The tensors of a state, by their places."""
    return {str(n): leaf for n, leaf in enumerate(tree_flatten(state)[0]) if isinstance(leaf, Tensor)}


def engine_of(
    model: nn.Module, native: bool | None = None, stepwise: bool = False, weights: str = "float32"
) -> Engine:
    """The engine of a model or a layer. Args: native: True asks for it, False for the other; None: native where it can run;
    stepwise, as of `ModuleEngine`; weights: float32, bf16 or int8, the last two native alone.

    Raises: BackendError with the reason where native, or such weights, were asked for and cannot run; InputError for a model that
    cannot stream.
    """
    one_of("weights", weights, WEIGHTS)
    reason = "asked for by name" if native is False else refusal(model)
    if reason is None or native:
        return NativeEngine(model, weights=weights)
    if weights != "float32":
        raise BackendError(f"{weights} weights are those of native streaming: {reason}")
    return ModuleEngine(model, reason, stepwise)


def refusal(model: nn.Module) -> str | None:
    """Why native streaming cannot run a model, or None."""
    parts = _parts(model)
    layers: Any = model if parts is None else parts.layers
    if parts is None and (hasattr(model, "layers") or hasattr(model, "streaming_parts")):
        return f"native streaming runs layers, or an embedding, layers and a linear head, this is a {type(model).__name__}"
    if parts is not None and getattr(parts.embedding, "max_norm", None) is not None:
        return "native streaming has no embedding with max_norm"
    return packed.layer_refusal(layers, "streaming") or packed.tensor_refusal(model, layers, "streaming")


def _parts(model: Any) -> StreamingParts | None:
    """What a model consists of; None of a layer."""
    parts: StreamingParts | None = model.streaming_parts() if hasattr(model, "streaming_parts") else None
    return parts


def _table(model: nn.Module) -> Tensor | None:
    """The vector of each symbol [V, D], where a model reads symbols."""
    parts = _parts(model)
    embedding = None if parts is None else parts.embedding
    if isinstance(embedding, OneHot):
        return torch.eye(embedding.num_embeddings)
    return embedding.weight.detach().clone() if type(embedding) is nn.Embedding else None


def _checked_ids(x: Any, symbols: int) -> Tensor:
    if not isinstance(x, Tensor) or x.dim() != 1 or x.is_floating_point():
        raise InputError(f"a chunk must be whole numbers [t], ids of symbols, got {_came(x)}")
    if len(x) and not 0 <= int(x.min()) <= int(x.max()) < symbols:
        raise InputError(f"ids must lie between 0 and {symbols - 1}, got {int(x.min())} to {int(x.max())}")
    return x.detach().to("cpu", torch.int64)


def _came(x: Any) -> str:
    if not isinstance(x, Tensor):
        return type(x).__name__
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
