"""The base class of the RNN, GRU and LSTM layers: torch.nn's arguments, parameters and forms of input.

A layer owns parameters with torch.nn's names (weight_ih_l0, weight_hh_l0_reverse, ...), binds one recurrence to them for each
layer and direction, and runs the call on the backend that dispatch chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.bptt.carry import ACTIVE, Carry
from throughtime.cells.init import initialize
from throughtime.cells.recurrence import Recurrence
from throughtime.errors import BackendError, one_of
from throughtime.kernels import dispatch
from throughtime.kernels.dispatch import Call, active_transform, under_autocast, unreadable
from throughtime.kernels.native.recurrence.direct import DirectCall
from throughtime.kernels.stack import Stack, Stacked, run_reference
from throughtime.layers import checks, interop
from throughtime.layers.sequence import PaddedBatch, StateForm, unpack, values_known
from throughtime.layers.trace import Trace, Tracer, Visit


class RecurrentLayer(nn.Module):
    """Base of the drop-in layers; see `RNN`, `GRU`, `LSTM`.

    Keyword arguments beyond torch.nn:
        layer_norm: normalize the linear maps (Ba, Kiros & Hinton 2016).
        recurrent_dropout: fraction of hidden units that are dropped before the recurrent linear map, one mask for a whole call
            (Gal & Ghahramani 2016).
        zoneout: fraction of units that keep their value in a step (Krueger et al. 2016); for an LSTM also a pair (h, c).
        init: "torch", "orthogonal", "identity" or "xavier"; see `throughtime.cells.init`.
        backend: run on this backend or raise its reason; None lets dispatch choose.
        hidden_size: also a sequence, one size for each layer. States are then tuples of [B, H] instead of one tensor.
    """

    recurrence: ClassVar[type[Recurrence]]
    state_type: ClassVar[type[Any]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        init: str = "torch",
        forget_bias: float = 0.0,
        backend: str | None = None,
        options: Mapping[str, Any],
        extras: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        checks.check_arguments(input_size, num_layers, bias, batch_first, dropout)
        if num_layers == 1 and isinstance(hidden_size, list | tuple) and hidden_size:
            num_layers = len(hidden_size)
        self.hidden_sizes = checks.check_hidden_sizes(hidden_size, num_layers, proj_size)
        self.input_size = input_size
        self.hidden_size = hidden_size if isinstance(hidden_size, int) else tuple(hidden_size)
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.layer_norm = layer_norm
        self.recurrent_dropout = checks.check_rate("recurrent_dropout", recurrent_dropout)
        rates = zoneout if isinstance(zoneout, tuple) else (zoneout,) * len(self.state_type._fields)
        self.zoneout = tuple(checks.check_rate("zoneout", rate) for rate in rates)
        if len(self.zoneout) != len(self.state_type._fields):
            raise ValueError(
                f"zoneout must be one number for each of {self.state_type._fields}, got {zoneout!r}"
            )
        self.init = init
        self.forget_bias = forget_bias
        self.backend = backend if backend is None else one_of("backend", backend, dispatch.NAMES)
        self.options = dict(options)  # of the recurrence itself: nonlinearity, reset_after, peepholes
        self._direct: DirectCall | None = None  # after the first call that native ran
        self._extras = extras  # those of them that torch.nn's layer does not have, as in `Call`
        outputs = tuple(proj_size or size for size in self.hidden_sizes)
        self._form = StateForm.of(self.state_type, outputs, self.hidden_sizes, self._directions)
        self._names: list[dict[str, str]] = []
        for layer, size in enumerate(self.hidden_sizes):
            features = input_size if layer == 0 else outputs[layer - 1] * self._directions
            for suffix in ("", "_reverse")[: self._directions]:
                shapes = self.recurrence.shapes(
                    features, size, bias=bias, layer_norm=layer_norm, proj_size=proj_size, **options
                )
                names = {name: f"{name}_l{layer}{suffix}" for name in shapes}
                for name, shape in shapes.items():
                    setattr(self, names[name], nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
                self._names.append(names)
        self._attributes = [attribute for names in self._names for attribute in names.values()]
        self.reset_parameters()
        self.flatten_parameters()

    @property
    def mode(self) -> str:
        """torch.nn's name for this kind of layer."""
        raise NotImplementedError

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, as torch.nn lists them."""
        return [[getattr(self, name) for name in names.values()] for names in self._names]

    def flatten_parameters(self) -> None:
        """Lay the weights of a plain layer on CUDA out as cuDNN reads them, or it copies them at each call. As in torch.nn."""
        interop.flatten_parameters(self, self._extra_names())

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        found = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.flatten_parameters()
        return found

    def reset_parameters(self) -> None:
        """Initialize all parameters again by the layer's `init`."""
        for number, names in enumerate(self._names):
            tensors = {name: getattr(self, attribute) for name, attribute in names.items()}
            size = self.hidden_sizes[number // self._directions]
            initialize(tensors, size, self.init, self.forget_bias)

    def _extra_names(self) -> tuple[str, ...]:
        """What torch.nn's layer does not have, as in `Call`."""
        extras = [name for name in ("layer_norm", "recurrent_dropout") if getattr(self, name)]
        extras += ["zoneout"] * any(self.zoneout)
        extras += ["different hidden sizes"] * (len(set(self.hidden_sizes)) > 1)
        return (*extras, *self._extras)

    def call(self, input: Tensor, lengths: Tensor | None = None, tensors: Sequence[Tensor] = ()) -> Call:
        """This call as plain data, for `throughtime.backends(explain=...)`; `tensors`: others that it reads."""
        return Call(
            cell=self.recurrence.kind,
            extras=self._extra_names(),
            device=input.device.type,
            dtype=input.dtype,
            ragged=lengths is not None,
            empty_rows=lengths is not None and values_known(lengths) and bool((lengths == 0).any()),
            transform=active_transform(),
            autocast=under_autocast(input.device.type),
            projected=self.proj_size > 0,
            unreadable=unreadable((input, *tensors)),
        )

    def forward(
        self, input: Tensor | PackedSequence, hx: Any = None, *, lengths: Tensor | None = None
    ) -> tuple[Any, Any]:
        """Run the layers over a batch of sequences.

        Args:
            input: [T, B, D]; [B, T, D] with batch_first; [T, D]; or a PackedSequence.
            hx: the state before the first step; zeros by default.
            lengths: [B] whole numbers; input beyond a row's length is never read (it may be NaN), outputs there are zero,
                and the final state is that after the row's last real step.

        Returns: outputs in the input's form, and the final state [layers * directions, B, H] (a pair of them for an LSTM).
        Raises: torch.nn's errors for wrong shapes; BackendError if a backend asked for by name cannot run the call.
        """
        if torch.compiler.is_compiling():
            return self._run(input, hx, lengths)
        carry = ACTIVE.get()
        if self._direct is not None and lengths is None and carry is None:
            found = self._direct.run(self, input, hx)
            if found is not None:
                return found
        if interop.is_symbolic(input):
            symbolic: tuple[Any, Any] = interop.symbolic_call(self, input, hx, lengths)
            return symbolic
        return self._run(input, hx, lengths, carry)

    def to_torch(self) -> nn.RNNBase:
        """torch.nn's layer with this layer's weights, copied, and mode.

        Raises: InputError naming what torch.nn's layer does not have.
        """
        return interop.to_torch(self, self._extra_names())

    def _run(
        self,
        input: Tensor | PackedSequence,
        hx: Any,
        lengths: Tensor | None,
        carry: Carry | None = None,
    ) -> tuple[Any, Any]:
        """A call in any form, on any backend."""
        stack = self._stack()
        batch, components = self._read(input, hx, lengths, stack)
        tensors = [t for c in components for t in ((c,) if isinstance(c, Tensor) else c)]
        tensors += [t for named in stack.weights for t in named.values()]
        call = self.call(batch.x, batch.lengths, tensors)
        if carry is not None:
            scale = carry.enter(self, input, hx, len(batch.x), able=self._scales(call))
            call, stack = call._replace(carry_scale=scale is not None), stack._replace(carry_scale=scale)
        backend = dispatch.choose(call, self.backend)
        named = dispatch.demanded(self.backend) is not None
        y, finals = backend.run(stack, batch.x, components, batch.lengths, named)
        if backend.name == "native" and batch.lengths is None and not torch.compiler.is_compiling():
            self._direct = DirectCall.of(stack, self._attributes, self._parameters)
        output, final = batch.output(y), self._form.give(finals, batch)
        if carry is not None:
            carry.leave(self, output, final)
        return output, final

    def _scales(self, call: Call) -> bool:
        """Whether the backend of this call can multiply the gradient of the carried state at each step."""
        if self.bidirectional or call.transform:
            return False
        try:
            dispatch.choose(call._replace(carry_scale=True), self.backend)
        except BackendError:  # one that was asked for by name cannot
            return False
        return True

    def trace(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        visit: Visit | None = None,
    ) -> Trace:
        """Run as `forward` does and return every step's states and gates, by name.

        Args: visit, called with (layer and direction, t, state) after each step; it may change the state in place, without
        gradients, and the output, the layers above and all later steps read what it left.

        Returns: Trace(output, hx, steps): `trace.steps["l0"]["c"]` is [T, B, H], time first, rows in the caller's order (also
        of a PackedSequence), zero in the padding; "l0_reverse" is the other direction. Everything is differentiable.
        Runs on the reference; memory: all states and gates.
        """
        stack = self._stack()
        batch, components = self._read(input, hx, lengths, stack)
        tracer = Tracer(batch, visit)
        y, finals = run_reference(stack, batch.x, components, batch.lengths, tracer.watch)
        steps = {
            f"l{n // self._directions}" + "_reverse" * (n % self._directions): s
            for n, s in tracer.steps.items()
        }
        return Trace(batch.output(y), self._form.give(finals, batch), steps)

    def _stack(self) -> Stack:
        """The weights of all layers and directions, each read once, and the options of the call."""
        weights = tuple(
            {name: getattr(self, attribute) for name, attribute in names.items()} for names in self._names
        )
        options = self.dropout, self.training, self.recurrent_dropout, self.zoneout
        return Stack(
            self.recurrence,
            self.state_type,
            self.options,
            weights,
            self.num_layers,
            self.bidirectional,
            *options,
        )

    def _read(
        self, input: Tensor | PackedSequence, hx: Any, lengths: Tensor | None, stack: Stack
    ) -> tuple[PaddedBatch, list[Stacked]]:
        """The input with time first, and the components of the state in the order of its rows."""
        dtype = stack.weights[0]["weight_ih"].dtype
        batch = unpack(type(self).__name__, input, lengths, self.input_size, dtype, self.batch_first)
        ragged = batch.lengths
        if ragged is not None and values_known(ragged) and bool((ragged == batch.x.shape[0]).all()):
            batch = batch._replace(lengths=None)
        return batch, self._form.read(hx, batch)

    def extra_repr(self) -> str:
        """The sizes and the options that differ from torch.nn's defaults."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        defaults: dict[str, Any] = {
            "proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
            "layer_norm": False, "recurrent_dropout": 0.0, "init": "torch", "forget_bias": 0.0, "backend": None,
            "nonlinearity": "tanh", "reset_after": True, "peepholes": False,
        }  # fmt: skip
        shown += [
            f"{name}={getattr(self, name)}"
            for name, value in defaults.items()
            if getattr(self, name, value) != value
        ]
        shown += [f"zoneout={self.zoneout}"] * any(self.zoneout)
        return ", ".join(shown)
