"""Initialization of a recurrence's parameters. The recurrent blocks decide whether the gradient vanishes or explodes at first."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from throughtime.errors import InputError, one_of

SCHEMES = ("torch", "orthogonal", "identity", "xavier")


@torch.no_grad()
def initialize(
    parameters: Mapping[str, Tensor], hidden_size: int, scheme: str = "torch", forget_bias: float = 0.0
) -> None:
    """Fill one cell's parameters in place, by their names.

    torch       all of U(-1/sqrt(H), 1/sqrt(H)), in torch.nn's order: the same seed gives torch.nn's values
    orthogonal  each gate's W_hh orthogonal (Saxe, McClelland & Ganguli 2013, arXiv 1312.6120), W_ih Glorot, biases zero
    identity    each gate's W_hh the identity, W_ih N(0, 0.001), biases zero (Le, Jaitly & Hinton 2015, arXiv 1504.00941);
                made for the ReLU RNN
    xavier      each gate's W_hh and W_ih Glorot uniform (Glorot & Bengio 2010), biases zero

    A layer norm's gains start at 1 and its shifts at 0 in every scheme. `forget_bias` is added to the second of the four gates.
    Raises: InputError for an unknown scheme, or a forget bias where there is no bias.
    """
    one_of("init", scheme, SCHEMES)
    bound = 1.0 / math.sqrt(hidden_size) if hidden_size > 0 else 0.0
    for name, value in parameters.items():
        if name.startswith("gain_"):
            nn.init.ones_(value)
        elif (
            name.startswith("bias_") and name.replace("bias_", "gain_") in parameters
        ):  # a layer norm's shift
            nn.init.zeros_(value)
        elif scheme == "torch":
            nn.init.uniform_(value, -bound, bound)
        elif value.dim() == 1:
            nn.init.zeros_(value)
        else:
            for block in torch.split(value, hidden_size) if name in ("weight_ih", "weight_hh") else (value,):
                _fill(name, block, scheme)
    if forget_bias:
        if "bias_ih" not in parameters:
            raise InputError(
                f"forget_bias={forget_bias} needs biases, got bias=False: leave forget_bias at 0 or set bias=True"
            )
        parameters["bias_ih"][hidden_size : 2 * hidden_size] += forget_bias


def _fill(name: str, block: Tensor, scheme: str) -> None:
    if name == "weight_hh" and scheme == "orthogonal":
        nn.init.orthogonal_(block)
    elif name == "weight_hh" and scheme == "identity":
        nn.init.eye_(block)
    elif name == "weight_ih" and scheme == "identity":
        nn.init.normal_(block, std=0.001)
    else:
        nn.init.xavier_uniform_(block)
