"""Causal dilated convolutions over time: residual blocks, each reading twice as far back as the one below.

A convolution has no recurrence, but it can be run like one: what it needs of the past is its last (k - 1) d inputs, and that is
its state. Source: Bai, Kolter & Koltun 2018, arXiv 1803.01271 (TCN).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.layers.checks import check_arguments, check_hidden_sizes
from throughtime.layers.direction import padding_of
from throughtime.layers.sequence import check_input, check_lengths

State = tuple[Tensor, ...]


class CausalConvolution(nn.Module):
    """One convolution over the steps up to now.

        y_t = b + sum_{j<k} W_j x_{t - (k-1-j) d},    W = g V / |V|

    with the norm taken for each output (weight normalization: Salimans & Kingma 2016, arXiv 1602.07868).
    Args: inputs, outputs: features; kernel_size k; dilation d.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.reach = (kernel_size - 1) * dilation
        """Steps before the current one that it reads over."""
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel_size))  # V
        self.gain = nn.Parameter(torch.empty(outputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch.nn.Conv1d: U(-1/sqrt(n), 1/sqrt(n)) with n inputs to an output."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        with torch.no_grad():
            self.gain.copy_(self.weight.flatten(1).norm(dim=1))

    def forward(self, x: Tensor, before: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """X [B, C, T], `before` [reach, B, C] or None for zeros: y [B, H, T], and the last `reach` inputs of each row."""
        x = F.pad(x, (self.reach, 0)) if before is None else torch.cat([before.permute(1, 2, 0), x], dim=2)
        scale = (self.gain / self.weight.flatten(1).norm(dim=1))[:, None, None]
        y = F.conv1d(x, scale * self.weight, self.bias, dilation=self.dilation)
        if lengths is None:
            after = x[:, :, x.shape[2] - self.reach :]
        else:  # those up to each row's own last step
            index = lengths[:, None] + torch.arange(self.reach, device=x.device)
            after = x.gather(2, index[:, None, :].expand(-1, x.shape[1], -1))
        return y, after.permute(2, 0, 1).contiguous()

    def extra_repr(self) -> str:
        outputs, inputs, kernel_size = self.weight.shape
        return f"{inputs}, {outputs}, kernel_size={kernel_size}, dilation={self.dilation}"


class ResidualBlock(nn.Module):
    """Two convolutions of one dilation, and a way past them.

    z = dropout(relu(conv_2(dropout(relu(conv_1(x))))))
    y = relu(z + x), or relu(z + W x) where the sizes differ
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = CausalConvolution(inputs, outputs, kernel_size, dilation)
        self.second = CausalConvolution(outputs, outputs, kernel_size, dilation)
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, before: Sequence[Tensor | None], lengths: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """X [B, C, T] and the states of both convolutions: y [B, H, T] and their new states."""
        z, one = self.first(x, before[0], lengths)
        z, two = self.second(self.dropout(F.relu(z)), before[1], lengths)
        past = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.dropout(F.relu(z)) + past), [one, two]


class CausalCNN(nn.Module):
    """A stack of residual blocks of causal convolutions, block l with dilation 2^l.

    An output depends on its own step and the `receptive_field` - 1 before it,

        receptive_field = 1 + 2 (k - 1) (2^blocks - 1)

    Args: input_size; hidden_size, features of every block or of each; num_layers, the blocks; kernel_size; dropout, after each
    convolution's relu.
    Call: `layer(x [T, B, D], state=None, lengths=None) -> (y [T, B, H], state)`. The state is a tuple of the last inputs
    [(k - 1) 2^l, B, features] of the two convolutions of each block, at each row's last real step; None for kernel_size 1, which
    needs no past. A sequence cut anywhere with the state carried over the cut is the whole sequence, up to rounding: torch's
    convolution may sum in another order for another number of steps.
    Input beyond a row's length is never read, and outputs there are zero.
    Cost: for each block 2 k H^2 multiplications a step, all steps at once; torch's conv1d.
    Raises: InputError for a state of another form; torch.nn's errors for wrong sizes and shapes.
    Source: Bai, Kolter & Koltun 2018, arXiv 1803.01271, section 3.
    """

    batch_first = False
    bidirectional = False
    runs_on = "torch's conv1d"

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 4,
        *,
        kernel_size: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        # One block has a place for dropout too: no warning of a dropout that does nothing.
        check_arguments(input_size, max(2, num_layers), True, False, dropout)
        if not isinstance(kernel_size, int) or kernel_size < 1:
            raise InputError(f"kernel_size must be at least 1 step, got {kernel_size!r}")
        self.hidden_sizes = check_hidden_sizes(hidden_size, num_layers, 0)
        self.input_size, self.num_layers, self.kernel_size = input_size, num_layers, kernel_size
        features = (input_size, *self.hidden_sizes)
        self.blocks = nn.ModuleList(
            ResidualBlock(features[number], size, kernel_size, 2**number, dropout)
            for number, size in enumerate(self.hidden_sizes)
        )

    @property
    def receptive_field(self) -> int:
        """Steps that an output can depend on."""
        return 1 + 2 * (self.kernel_size - 1) * ((1 << self.num_layers) - 1)

    def forward(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        """Run the blocks from left to right."""
        check_input(x, 3, self.input_size, next(self.parameters()).dtype)
        before = self._checked(state, x.shape[1])
        padding = ends = None
        if lengths is not None:
            ends = check_lengths(lengths, x.shape[0], x.shape[1], x.device).to(x.device)
            padding = padding_of(ends, x)
            x = x.masked_fill(padding, 0)
        y = x.permute(1, 2, 0)
        after: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            y, new = block(y, before[2 * number : 2 * number + 2], ends)
            after += new
        y = y.permute(2, 0, 1)
        return (y if padding is None else y.masked_fill(padding, 0)), (
            tuple(after) if self.kernel_size > 1 else None
        )

    def _checked(self, state: Any, batch: int) -> Sequence[Tensor | None]:
        """The state of each convolution in their order; None where they start from zeros."""
        if state is None:
            return [None] * (2 * self.num_layers)
        convolutions = [each for each in self.modules() if isinstance(each, CausalConvolution)]
        expected = [(each.reach, batch, each.weight.shape[1]) for each in convolutions]
        given = state if isinstance(state, (tuple, list)) else (state,)
        found = [tuple(each.shape) if isinstance(each, Tensor) else None for each in given]
        if found != expected:
            raise InputError(
                f"the state of a CausalCNN of {self.num_layers} blocks must be {len(expected)} tensors [steps, batch, features], "
                f"{', '.join(map(str, expected[:2]))}, ..., got {', '.join(map(str, found[:2])) or 'none'}: "
                "pass what the last call returned, or None"
            )
        return list(given)

    def extra_repr(self) -> str:
        return f"receptive_field={self.receptive_field}"
