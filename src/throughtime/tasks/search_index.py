"""The index of a search: passages, their vectors, and the exact best matches; kept on disk between uses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from throughtime.data.readers.passages import Passage
from throughtime.errors import InputError, RunError
from throughtime.files import write_whole
from throughtime.runs.tensors import load_tensors, save_tensors

_CHUNK = 1 << 24  # scores computed at a time, 64 MB
Encode = Callable[[Sequence[str]], Tensor]
"""Texts to unit vectors [N, D]."""


class Hit(NamedTuple):
    """A passage that was found."""

    score: float  # the cosine, -1 to 1
    passage: Passage


class Index:
    """Passages with their vectors.

    Args: passages; vectors [N, D] of unit length; encode, of queries; remarks: what the user should know, as of files left out.
    """

    def __init__(
        self, passages: Sequence[Passage], vectors: Tensor, encode: Encode, remarks: Sequence[str] = ()
    ) -> None:
        if vectors.dim() != 2 or len(vectors) != len(passages):
            raise InputError(
                f"vectors must be [{len(passages)}, D], one for each passage, got {list(vectors.shape)}"
            )
        self.passages, self.vectors, self.encode = tuple(passages), vectors, encode
        self.remarks = tuple(remarks)

    def search(self, query: str, k: int = 5) -> list[Hit]:
        """The k passages that fit a query best, the best first; all of them if there are fewer.

        Raises: InputError for an empty query, or k below 1.
        """
        if not query.strip():
            raise InputError("expected a query, got an empty text")
        scores, numbers = top(self.encode([query]), self.vectors, k)
        return [
            Hit(score, self.passages[number])
            for score, number in zip(scores[0].tolist(), numbers[0].tolist(), strict=True)
        ]

    def __len__(self) -> int:
        """Passages."""
        return len(self.passages)


def top(queries: Tensor, vectors: Tensor, k: int, chunk: int = _CHUNK) -> tuple[Tensor, Tensor]:
    """The k largest scores of each query and the numbers of their vectors, [Q, k] each, the largest first.

    Exact: all scores, by matrix products over at most `chunk` scores at a time; of equal scores the lower number comes first.
    Args: queries [Q, D]; vectors [N, D]. k is at most N in the result.
    Raises: InputError for k below 1 or no vectors.
    """
    if k < 1 or not len(vectors):
        raise InputError(f"expected k of at least 1 and at least one passage, got {k} and {len(vectors)}")
    rows = max(1, chunk // max(1, len(queries)))
    scores = queries.new_zeros(len(queries), 0)
    numbers = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(vectors), rows):
        part = queries @ vectors[start : start + rows].t()
        own = torch.arange(start, start + part.shape[1], device=numbers.device).expand(len(queries), -1)
        scores, numbers = torch.cat([scores, part], 1), torch.cat([numbers, own], 1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        scores, numbers = scores.gather(1, order), numbers.gather(1, order)
    return scores, numbers


def fingerprint(model: nn.Module) -> str:
    """The SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, each in sorted(model.state_dict().items()):
        digest.update(f"{name}{each.dtype}{list(each.shape)}\0".encode())
        digest.update(each.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Store:
    """Two files that keep an index: NAME.json, the passages, and NAME.safetensors, their vectors.

    The second holds the checksum of the first and of the weights that made the vectors. Files of other weights, damaged files and
    files that do not belong together are taken for none: an index can be made again.
    """

    def __init__(self, folder: Path, name: str, weights: str) -> None:
        self.texts, self.tensors = folder / f"{name}.json", folder / f"{name}.safetensors"
        self.weights = weights

    def load(self) -> tuple[list[Passage], Tensor] | None:
        """Passages and vectors; None where there are none for these weights."""
        try:
            data = self.texts.read_bytes()
            tensors, metadata = load_tensors(self.tensors)
        except (OSError, RunError):
            return None
        expected = {"weights": self.weights, "passages": hashlib.sha256(data).hexdigest()}
        if any(metadata.get(name) != value for name, value in expected.items()):
            return None
        passages = [Passage(text, place) for text, place in json.loads(data)["passages"]]
        vectors = tensors["vectors"]
        return (passages, vectors) if len(vectors) == len(passages) else None

    def save(self, passages: Sequence[Passage], vectors: Tensor) -> None:
        """Write both files, each whole or not at all.

        Raises: RunError where they cannot be written.
        """
        data = json.dumps({"passages": passages}, ensure_ascii=False).encode("utf-8", "replace")
        try:
            self.texts.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write {self.texts.parent}: {error.strerror}") from None
        write_whole(self.texts, data)
        checksums = {"weights": self.weights, "passages": hashlib.sha256(data).hexdigest()}
        save_tensors(self.tensors, {"vectors": vectors}, checksums)


def vectors_of(passages: Sequence[Passage], encode: Encode, known: dict[str, Tensor]) -> Tensor:
    """The vectors of passages [N, D]; those of texts in `known` are taken from there, the others computed."""
    new = [each.text for each in passages if each.text not in known]
    if new:
        known = known | dict(zip(new, encode(new), strict=True))
    return torch.stack([known[each.text] for each in passages])
