"""Numbers in the place of symbols: what stands where an embedding stands when the input is already a vector."""

from __future__ import annotations

from torch import Tensor, nn

from throughtime.errors import InputError


class Continuous(nn.Module):
    """Vectors [..., features] as they are; the layers' own W_ih is the linear map that reads them. Nothing to learn.

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
