"""What turns a step's input into a vector, where that is not `torch.nn.Embedding`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from throughtime.errors import InputError


class OneHot(nn.Module):
    """ids [...] of 0 to V-1 to one-hot vectors [..., V]. Takes the place of an `nn.Embedding`, with nothing to learn.

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


class Continuous(nn.Module):
    """Identity for inputs that are vectors already, [..., features]: the layers' W_ih reads them. Nothing to learn.

    Raises: InputError, when called, for vectors of another size.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.embedding_dim = features

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        if x.shape[-1] != self.embedding_dim:
            raise InputError(
                f"input must have {self.embedding_dim} features, got {x.shape[-1]}: it is [T, B, {self.embedding_dim}]"
            )
        return x

    def extra_repr(self) -> str:
        return str(self.embedding_dim)


class Subwords(nn.Module):
    """The vector of a word: its own plus the mean of those of its character n-grams; an unknown word has the latter alone.

    ids [..., 1 + M]: the word's number, then the numbers of its n-grams from 1 on, 0 for none. `dropout`: in training the own
    vectors of so many words are left out, as if these words were unknown, so that the n-grams learn to stand for them.
    Source: Bojanowski et al. 2017, TACL (n-grams); Iyyer et al. 2015, ACL (leaving out words).
    Cost: one look-up for each n-gram; memory: `words` + `buckets` vectors.
    """

    def __init__(
        self, words: int, buckets: int, features: int, *, unknown: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding_dim, self.unknown, self.dropout = features, unknown, dropout
        self.words = nn.Embedding(words, features)
        self.ngrams = nn.Embedding(buckets + 1, features, padding_idx=0)
        for table in (self.words, self.ngrams):  # small: what was never trained adds little
            nn.init.uniform_(table.weight, -1 / features, 1 / features)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors [..., features]."""
        own, parts = ids[..., 0], ids[..., 1:]
        kept = own != self.unknown
        if self.training and self.dropout > 0:
            kept = kept & (torch.rand(own.shape, device=own.device) >= self.dropout)
        bags = nn.functional.embedding_bag(
            parts.reshape(-1, parts.shape[-1]), self.ngrams.weight, mode="mean", padding_idx=0
        )
        vectors: Tensor = self.words(own) * kept.unsqueeze(-1) + bags.view(*own.shape, self.embedding_dim)
        return vectors

    def extra_repr(self) -> str:
        return f"dropout={self.dropout:g}" if self.dropout else ""
