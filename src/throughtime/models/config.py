"""What a model is built from, as plain values. Imports no torch, so that a help text can read the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from throughtime.errors import InputError, one_of

CELLS = ("rnn", "gru", "lstm", "mingru", "indrnn", "lnlstm")
INITS = ("torch", "orthogonal", "identity", "xavier")
NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")

# Which of the settings below a cell does not have, by the cells that do have it.
_ONLY_FOR = {
    "recurrent_dropout": ("rnn", "gru", "lstm"),
    "zoneout": ("rnn", "gru", "lstm"),
    "layer_norm": ("rnn", "gru", "lstm"),
    "init": ("rnn", "gru", "lstm"),
    "forget_bias": ("lstm",),
    "peepholes": ("lstm",),
    "reset_after": ("gru",),
    "nonlinearity": ("rnn",),
}


@dataclass(frozen=True)
class ModelConfig:
    """The settings of a recurrent model: embedding, layers, head.

    Raises: InputError, on one line, for a value that no model can be built from.
    """

    section: ClassVar[str] = "model"

    cell: str = "lstm"
    """One of `CELLS`."""
    hidden: int | tuple[int, ...] = 512
    """Units of each layer; several numbers give each layer its own."""
    layers: int = 1
    embedding: int | str = 64
    """Features of a symbol's vector, learned; or "onehot": as many as there are symbols, nothing learned."""
    dropout: float = 0.0
    """Share of units left out between layers and before the head."""
    recurrent_dropout: float = 0.0
    """Share of the recurrent input left out, the same units at every step of a window."""
    zoneout: float = 0.0
    """Share of units that keep their last value at a step."""
    layer_norm: bool = False
    bidirectional: bool = False
    tied: bool = False
    """The head's weight is the embedding's: needs embedding = units of the last layer."""
    init: str = "torch"
    forget_bias: float = 0.0
    """Added to the LSTM's forget gate at the start; 1 makes it remember at first."""
    nonlinearity: str = "tanh"
    """Of the plain RNN."""
    reset_after: bool = True
    """The GRU resets after the matrix product, as torch.nn does; False: before it, as the course does."""
    peepholes: bool = False

    def __post_init__(self) -> None:
        one_of("cell", self.cell, CELLS)
        one_of("init", self.init, INITS)
        one_of("nonlinearity", self.nonlinearity, NONLINEARITIES)
        if isinstance(self.hidden, list):
            object.__setattr__(self, "hidden", tuple(self.hidden))
        _ = self.sizes
        if isinstance(self.embedding, str):
            one_of("embedding", self.embedding, ("onehot",))
        elif self.embedding < 1:
            raise InputError(f"embedding must be at least 1, or onehot, got {self.embedding}")
        for name in ("dropout", "recurrent_dropout", "zoneout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"{name} must be a share from 0 up to 1, got {value}")
        for name, cells in _ONLY_FOR.items():
            value = getattr(self, name)
            if value != getattr(ModelConfig, name) and self.cell not in cells:
                raise InputError(
                    f"{name} = {value} is a setting of {', '.join(cells)}; {self.cell} has none: leave it out"
                )
        self._check_tied()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer.

        Raises: InputError for sizes that are not positive, or not one for each layer.
        """
        if self.layers < 1:
            raise InputError(f"layers must be at least 1, got {self.layers}")
        each = self.hidden if isinstance(self.hidden, tuple) else (self.hidden,) * self.layers
        if len(each) != self.layers and self.layers != 1:
            raise InputError(
                f"hidden must be one size or one for each of {self.layers} layers, got {len(each)}"
            )
        if not each or min(each) < 1:
            raise InputError(f"hidden must be at least 1, got {self.hidden}")
        return each

    def _check_tied(self) -> None:
        if not self.tied:
            return
        outputs = self.sizes[-1] * (2 if self.bidirectional else 1)
        if self.embedding == "onehot":
            raise InputError(
                "tied needs a learned embedding, got onehot: give embedding a size, or leave tied out"
            )
        if self.embedding != outputs:
            raise InputError(
                f"tied needs an embedding as wide as the last layer's output, {outputs}, got {self.embedding}: "
                f"set embedding to {outputs}"
            )
