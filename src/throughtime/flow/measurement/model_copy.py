"""A copy of the caller's model to measure on: float64, evaluation mode, torch.nn's recurrent layers as this library's."""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

from torch import nn

from throughtime.bptt.inputs import parts_over_time
from throughtime.errors import InputError
from throughtime.layers import GRU, LSTM, RNN, CausalCNN, FeedForward, Recurrent
from throughtime.layers.base import RecurrentLayer

Layer: TypeAlias = RecurrentLayer | Recurrent
_STOCK: tuple[tuple[type[nn.Module], type[RecurrentLayer]], ...] = (
    (nn.RNN, RNN),
    (nn.GRU, GRU),
    (nn.LSTM, LSTM),
)


def measurable(model: nn.Module) -> nn.Module:
    """A deep copy of `model` in float64 and evaluation mode, every parameter with a gradient, torch.nn's layers replaced.

    The caller's model, its gradients and torch's random state stay as they are.
    Cost: twice the parameters' memory, as the copy is in float64.
    Raises: InputError if it holds no recurrent layer, or one of torch.nn's that has been rewritten.
    """
    source = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    ours = copy.deepcopy(source)
    for name, module in list(ours.named_modules(remove_duplicate=False)):
        replacement = _converted(module, name)
        if replacement is None:
            continue
        if not name:
            ours = replacement
        else:
            parent, _, child = name.rpartition(".")
            setattr(ours.get_submodule(parent), child, replacement)
    if not layers_of(ours):
        if any(isinstance(module, CausalCNN | FeedForward) for module in ours.modules()):
            raise InputError(
                "the model has no recurrence: no state goes from step to step through a matrix, so half-life, spectral radius "
                "and Jacobian products have no meaning; throughtime influence shows which inputs its outputs depend on"
            )
        raise InputError(
            "the model holds no recurrent layer to measure: expected throughtime.RNN, GRU, LSTM or Recurrent, or "
            f"torch.nn's, got {type(source).__name__}; a cell of its own goes into throughtime.Recurrent(cell)"
        )
    ours = ours.double().eval()
    for parameter in ours.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return ours


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """The recurrent layers over the sequence's steps, by their path in the model; "" for a layer alone."""
    return {
        name: module
        for name, module in parts_over_time(model)
        if isinstance(module, RecurrentLayer | Recurrent)
    }


def _converted(module: nn.Module, name: str) -> RecurrentLayer | None:
    """This library's layer over the weights of torch.nn's; None for any other module."""
    for stock, mine in _STOCK:
        if not isinstance(module, stock):
            continue
        if type(module).forward is not stock.forward:
            raise InputError(
                f"{name or 'the model'} is a {type(module).__name__} whose forward is not torch.nn.{stock.__name__}'s, so it "
                "cannot be measured as one: write it as a throughtime.Cell and take throughtime.Recurrent"
            )
        return _as(mine, module)
    return None


def _as(kind: type[RecurrentLayer], module: Any) -> RecurrentLayer:
    options: dict[str, Any] = {
        "num_layers": module.num_layers,
        "bias": module.bias,
        "batch_first": module.batch_first,
        "bidirectional": module.bidirectional,
    }
    if kind is RNN:
        options["nonlinearity"] = module.nonlinearity
    if kind is LSTM:
        options["proj_size"] = module.proj_size
    # On the meta device nothing is drawn, so torch's random state stays.
    layer = kind(module.input_size, module.hidden_size, device="meta", **options)
    names = [name for name, _ in layer.named_parameters()]
    # Read as attributes: of a parametrized weight this is the weight, not what it is made from.
    weights = {name: getattr(module, name).detach().clone() for name in names}
    layer.load_state_dict(weights, assign=True)
    for name in names:  # assigned tensors become parameters
        assert isinstance(getattr(layer, name), nn.Parameter)
    return layer
