"""A word as a vector: learned, pretrained, from its characters, from its shape."""

from __future__ import annotations

import random
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughtime.data.words import COLUMNS, SHAPES
from throughtime.errors import InputError
from throughtime.models.embeddings import Subwords

_SHAPE_FEATURES = 8
_WIDTH = 3  # characters that a filter of the convolution sees


class PretrainedVectors(nn.Module):
    """Vectors from a file, by number; 0 is a word without one, whose vector is zero and stays so.

    They are saved with the module's other weights, so a trained model needs the file no more. A module that was built without
    them (`vectors=None`) must get them from `load_state_dict` before it is used.

    Args: count, vectors [count, features], float; train: whether they are trained with the rest.
    """

    filled: Tensor
    vectors: Tensor

    def __init__(
        self, count: int, features: int, vectors: Tensor | None = None, *, train: bool = False
    ) -> None:
        super().__init__()
        self.embedding_dim = features
        table = torch.zeros(count + 1, features)
        if vectors is not None:
            if vectors.shape != (count, features):
                raise InputError(f"vectors must be [{count}, {features}], got {list(vectors.shape)}")
            table = torch.cat([table[:1], vectors.to(table)])
        if train:
            self.vectors = nn.Parameter(table)
        else:
            self.register_buffer("vectors", table)
        self.register_buffer("filled", torch.tensor(vectors is not None or count == 0))

    def forward(self, numbers: Tensor) -> Tensor:
        """[...] of 0 to count, to [..., features]."""
        if not bool(self.filled):
            raise InputError(
                "the model has no word vectors yet: its training was stopped before the first checkpoint; start it again"
            )
        return F.embedding(numbers, self.vectors, padding_idx=0)

    def extra_repr(self) -> str:
        return f"{len(self.vectors) - 1}, {self.embedding_dim}"


class WithVectors(nn.Module):
    """An embedding of a vocabulary's symbols with their pretrained vectors behind it: ids [...] to [..., D + features].

    Args: embedding, ids to [..., D]; pretrained; rows, whole numbers [V], the number of each symbol's vector, 0 for none; known:
    the symbols from this number on have a pretrained vector alone, and the learned one of symbol 0, the unknown one; None: all
    are known. Of an embedding of `Subwords` the ids are [..., 1 + M], the symbol first.
    """

    rows: Tensor

    def __init__(
        self, embedding: nn.Module, pretrained: PretrainedVectors, rows: Tensor, known: int | None = None
    ) -> None:
        super().__init__()
        self.embedding, self.pretrained = embedding, pretrained
        self.known, self.with_parts = known, isinstance(embedding, Subwords)
        self.embedding_dim = int(embedding.embedding_dim) + pretrained.embedding_dim  # type: ignore[arg-type]
        self.register_buffer("rows", rows)

    def forward(self, ids: Tensor) -> Tensor:
        """[...] to [..., D + features]."""
        words = ids[..., 0] if self.with_parts else ids
        if self.known is not None:
            own = words.masked_fill(words >= self.known, 0)
            ids = torch.cat([own.unsqueeze(-1), ids[..., 1:]], -1) if self.with_parts else own
        return torch.cat([self.embedding(ids), self.pretrained(self.rows[words])], -1)


class CharacterEncoder(nn.Module):
    """A vector for each word from its characters: ids [N, C], 0 behind a word's end, to [N, features].

    lstm: the last states of both directions of an LSTM over the word's characters (Ling et al. 2015, EMNLP).
    cnn: filters over three neighbouring characters, the maximum of each over the word (Ma & Hovy 2016, ACL).
    A word of no characters is zeros. Cost: C steps of N rows (lstm), or one convolution over N * C characters (cnn).
    """

    inside_step: ClassVar[bool] = True
    """Its layers run over the characters inside one step: BPTT does not cut them, and gradient flow does not measure them."""

    def __init__(self, kind: str, characters: int, size: int, features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, size, padding_idx=0)
        self.features = features
        self.layer: nn.Module
        if kind == "lstm":
            from throughtime.layers import LSTM

            if features % 2:
                raise InputError(f"character features must be even, half for each direction, got {features}")
            self.layer = LSTM(size, features // 2, bidirectional=True)
        else:
            self.layer = nn.Conv1d(size, features, _WIDTH, padding=_WIDTH // 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors."""
        lengths = (ids > 0).sum(1)
        longest = int(lengths.max())
        if longest == 0:
            return self.embedding.weight.new_zeros(len(ids), self.features)
        x = self.embedding(ids[:, :longest])  # [N, C, D]
        if isinstance(self.layer, nn.Conv1d):
            y = self.layer(x.transpose(1, 2))  # [N, features, C]
            outside = torch.arange(longest, device=ids.device) >= lengths.unsqueeze(1)
            found: Tensor = y.masked_fill(outside.unsqueeze(1), -torch.inf).amax(2)
            return found.masked_fill((lengths == 0).unsqueeze(1), 0)
        _, (h, _) = self.layer(x.transpose(0, 1), lengths=lengths.cpu())
        return torch.cat([h[0], h[1]], -1)


class WordEncoder(nn.Module):
    """Words as `throughtime.data.words.WordTable` encodes them, [T, B, F] whole numbers, to vectors [T, B, embedding_dim].

    The learned vector of the word, its pretrained vector, a vector for its shape (capitals, digits) and one from its characters,
    one behind the other. Of equal words of a batch the characters are read once.

    Args: words, an embedding of word numbers; word_dropout: the probability, in training, that a word's number becomes that of
    the unknown word, so that this one is trained too (Lample et al. 2016, NAACL); the other vectors stay.
    """

    def __init__(
        self,
        words: nn.Module,
        pretrained: PretrainedVectors | None,
        characters: CharacterEncoder | None,
        *,
        word_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.words, self.pretrained, self.characters = words, pretrained, characters
        self.shapes = nn.Embedding(SHAPES, _SHAPE_FEATURES)
        self.word_dropout = word_dropout
        self.dropout = nn.Dropout(dropout)
        self.embedding_dim = int(words.embedding_dim) + _SHAPE_FEATURES  # type: ignore[arg-type]
        self.embedding_dim += pretrained.embedding_dim if pretrained is not None else 0
        self.embedding_dim += characters.features if characters is not None else 0

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors."""
        words, numbers, shapes = tokens[..., :COLUMNS].unbind(-1)
        if self.training and self.word_dropout:
            words = words.masked_fill(torch.rand(words.shape, device=words.device) < self.word_dropout, 0)
        parts = [self.words(words), self.shapes(shapes)]
        if self.pretrained is not None:
            parts.append(self.pretrained(numbers))
        if self.characters is not None:
            first, inverse = unique_rows(tokens[..., COLUMNS:].flatten(0, -2))
            parts.append(F.embedding(inverse.view(words.shape), self.characters(first)))
        found: Tensor = self.dropout(torch.cat(parts, -1))
        return found


def unique_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows of whole numbers [N, C]: (rows [U, C], which of them each row is, int64 [N]).

    By a number for each row, which is checked: much faster than `torch.unique(dim=0)`, and exact.
    Cost: one pass over the rows, and a sort of N numbers.
    """
    draws = random.Random(0)
    factors = torch.tensor(
        [draws.getrandbits(63) | 1 for _ in range(rows.shape[1])], dtype=torch.int64, device=rows.device
    )
    _, inverse = torch.unique((rows * factors).sum(1), return_inverse=True)
    count = int(inverse.max()) + 1 if len(inverse) else 0
    places = torch.arange(len(rows), device=rows.device)
    first = rows[places.new_zeros(count).scatter_(0, inverse, places)]
    if torch.equal(first[inverse], rows):
        return first, inverse
    first, inverse = torch.unique(rows, dim=0, return_inverse=True)  # two rows with one number
    return first, inverse
