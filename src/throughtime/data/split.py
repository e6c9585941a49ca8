"""Training and validation parts of one sequence."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from throughtime.errors import InputError

Sequence = TypeVar("Sequence", str, Tensor)


def split_by_position(sequence: Sequence, validation: float = 0.1) -> tuple[Sequence, Sequence]:
    """The first part to train on, the last to validate with; a tensor is cut along its first axis, no copy.

    By position, not at random: neighbouring windows of a text share words, which would tell the answers.
    Raises: InputError unless 0 <= validation < 1.
    """
    if not 0 <= validation < 1:
        raise InputError(f"validation must be a fraction from 0 up to 1, got {validation}")
    cut = int(len(sequence) * (1 - validation))
    return sequence[:cut], sequence[cut:]
