"""Symbols as vectors with a single 1: the course's input."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneHot(nn.Module):
    """ids [...] of 0 to V-1 to vectors [..., V]. Stands where an `nn.Embedding` stands, with nothing to learn.

    Cost: V numbers for each id, so it suits characters, not words.
    """

    like: Tensor

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding_dim = self.num_embeddings = symbols
        # Holds no value: it follows the module's device and dtype, and with it the vectors do.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors, in the dtype and on the device of the module."""
        return self.like.new_zeros(*ids.shape, self.num_embeddings).scatter_(-1, ids.unsqueeze(-1), 1)

    def extra_repr(self) -> str:
        return str(self.num_embeddings)
