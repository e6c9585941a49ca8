"""Other parts of torch that meet a layer: torch.nn's own layers, cuDNN's layout of weights, and symbolic tracing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.backends.cudnn import rnn
from torch.fx import Proxy

from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.layers.base import RecurrentLayer


def to_torch(layer: RecurrentLayer, extras: tuple[str, ...]) -> nn.RNNBase:
    """torch.nn's layer with the same weights (copied), mode and gradients switched on or off alike.

    Raises: InputError naming what torch.nn's layer does not have: `extras`.
    """
    if extras:
        raise InputError(
            f"torch.nn.{type(layer).__name__} has no {', '.join(extras)}: to_torch() converts layers without it"
        )
    first = layer.all_weights[0][0]
    options = {"nonlinearity": layer.options["nonlinearity"]} if layer.recurrence.kind == "rnn" else {}
    if layer.proj_size:
        options["proj_size"] = layer.proj_size
    made: nn.RNNBase = getattr(nn, layer.recurrence.kind.upper())(
        layer.input_size,
        layer.hidden_sizes[0],
        layer.num_layers,
        bias=layer.bias,
        batch_first=layer.batch_first,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
        device=first.device,
        dtype=first.dtype,
        **options,
    )
    made.load_state_dict(layer.state_dict())
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(getattr(layer, name).requires_grad)
    return made.train(layer.training)


def flatten_parameters(layer: RecurrentLayer, extras: tuple[str, ...]) -> None:
    """Lay the weights of a plain layer on CUDA out as cuDNN reads them, as torch.nn's layers do; no effect on others."""
    weights: list[Tensor] = [parameter for each in layer.all_weights for parameter in each]
    plain = all(weight.is_cuda and type(weight) is nn.Parameter for weight in weights)
    if extras or not plain or len({weight.data_ptr() for weight in weights}) != len(weights):
        return
    if not all(torch.backends.cudnn.is_acceptable(weight) for weight in weights):  # type: ignore[no-untyped-call]
        return
    if torch._use_cudnn_rnn_flatten_weight():
        with torch.no_grad(), torch.cuda.device_of(weights[0]):  # type: ignore[no-untyped-call]
            torch._cudnn_rnn_flatten_weight(
                weights,
                len(layer.all_weights[0]),
                layer.input_size,
                rnn.get_cudnn_mode(layer.mode),  # type: ignore[no-untyped-call]
                layer.hidden_sizes[0],
                layer.proj_size,
                layer.num_layers,
                layer.batch_first,
                layer.bidirectional,
            )


def symbolic_call(layer: nn.Module, input: Any, hx: Any, lengths: Any) -> Any:
    """A call under `torch.fx.symbolic_trace` as one node of the graph, as torch.nn's layers are."""
    tracer = input.tracer
    arguments = (input,) if hx is None else (input, hx)
    keywords = {} if lengths is None else {"lengths": lengths}
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), arguments, keywords)


def is_symbolic(value: Any) -> bool:
    """Whether it is a value of `torch.fx.symbolic_trace`."""
    return not isinstance(value, Tensor) and isinstance(value, Proxy)
