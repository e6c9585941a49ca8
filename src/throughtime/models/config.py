"""What a model is built from, as plain values. Imports no torch, so that a help text can read the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from throughtime.errors import InputError
from throughtime.options import Settings, option

CELLS = ("rnn", "gru", "lstm", "mingru", "indrnn", "lnlstm", "none", "cnn")
INITS = ("torch", "orthogonal", "identity", "xavier")
NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")
POOLINGS = ("last", "mean", "max", "attention")
LARGEST = 65_536  # units or features: a square matrix of more does not fit into any memory
BLOCKS = 4  # of a cnn, where nothing is said: its outputs read 61 steps
FARTHEST = 2**20  # steps that a cnn may read back: its state holds them all

# Settings that only some cells have.
_ONLY_FOR = {
    "recurrent_dropout": ("rnn", "gru", "lstm"),
    "zoneout": ("rnn", "gru", "lstm"),
    "layer_norm": ("rnn", "gru", "lstm"),
    "init": ("rnn", "gru", "lstm"),
    "forget_bias": ("lstm",),
    "peepholes": ("lstm",),
    "reset_before": ("gru",),
    "nonlinearity": ("rnn", "none"),
    "kernel": ("cnn",),
}
_option = partial(option, panel="Model")
_fraction = partial(_option, metavar="P", low=0, below=1)


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The settings of a model: embedding, layers, pooling, head.

    Two of the cells are not recurrent, for comparison: none sees each step alone, cnn is a stack of causal dilated convolutions.

    Raises: InputError, on one line, for a value that no model can be built from.
    """

    section: ClassVar[str] = "model"

    cell: str = _option(
        "lstm",
        f"{', '.join(CELLS)}. none: no recurrence; cnn: dilated convolutions.",
        metavar="CELL",
        choices=CELLS,
    )
    hidden: int | tuple[int, ...] = _option(
        512, "Units of a layer, or of each layer.", metavar="N[,N...]", low=1, high=LARGEST
    )
    layers: int | None = _option(
        None,
        "Stacked layers; of cnn: residual blocks, each reading twice as far back as the one below.",
        metavar="N",
        low=1,
        high=1000,
        default_text=f"1, of cnn {BLOCKS}",
    )
    embedding: int | str = _option(
        64,
        "Features of a symbol's learned vector, or one-hot vectors.",
        metavar="N|onehot",
        choices=("onehot",),
        low=1,
        high=LARGEST,
    )
    pooling: str = _option(
        "last",
        f"One vector for a sequence: {', '.join(POOLINGS)} over its steps.",
        metavar="HOW",
        choices=POOLINGS,
    )
    dropout: float = _fraction(0.0, "Dropout between layers and before the head.")
    recurrent_dropout: float = _fraction(0.0, "Dropout on the recurrent input, one mask for each sequence.")
    zoneout: float = _fraction(0.0, "Probability that a unit keeps its last value at a step.")
    layer_norm: bool = _option(False, "Layer normalization inside the cell.")
    bidirectional: bool = _option(False, "Read both ways; such a model cannot generate or stream.")
    tied: bool = _option(
        False, "Head and embedding share their weights; needs embedding = units of the last layer."
    )
    init: str = _option("torch", f"Initialization: {', '.join(INITS)}.", metavar="HOW", choices=INITS)
    forget_bias: float = _option(
        0.0, "LSTM: added to the forget gate's bias at the start.", metavar="X", low=-100, high=100
    )
    nonlinearity: str = _option(
        "tanh", f"rnn, none: {', '.join(NONLINEARITIES)}.", metavar="PHI", choices=NONLINEARITIES
    )
    peepholes: bool = _option(False, "LSTM: the gates read the cell state.")
    reset_before: bool = _option(
        False, "GRU: reset before the matrix product, as in Cho et al. 2014; torch.nn resets after it."
    )
    kernel: int = _option(3, "cnn: steps that a convolution reads.", metavar="N", low=1, high=1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is None:
            one = BLOCKS if self.cell == "cnn" else 1
            depth = len(self.hidden) if isinstance(self.hidden, tuple) else one
            object.__setattr__(self, "layers", depth)
        _ = self.sizes
        for name, cells in _ONLY_FOR.items():
            value = getattr(self, name)
            if value != getattr(ModelConfig, name) and self.cell not in cells:
                raise InputError(
                    f"{name} = {value} is a setting of {', '.join(cells)}; {self.cell} has none: leave it out"
                )
        if (self.receptive_field or 0) > FARTHEST:
            raise InputError(
                f"a cnn must read back at most {FARTHEST:,} steps, got {len(self.sizes)} blocks with kernel {self.kernel}, and "
                "each block reads twice as far as the one below: take fewer layers"
            )
        self._check_tied()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer.

        Raises: InputError for sizes that are not one for each layer.
        """
        layers = self.layers or 1
        each = self.hidden if isinstance(self.hidden, tuple) else (self.hidden,) * layers
        if len(each) != layers and layers != 1:
            raise InputError(f"hidden must be one size or one for each of {layers} layers, got {len(each)}")
        return each

    @property
    def outputs(self) -> int:
        """Features of the last layer's output, both directions together."""
        return self.sizes[-1] * (2 if self.bidirectional else 1)

    @property
    def receptive_field(self) -> int | None:
        """Steps that an output can depend on, its own the last of them; None of a recurrence, which has no such limit."""
        if self.cell == "none":
            return 1
        if self.cell == "cnn":
            return 1 + 2 * (self.kernel - 1) * ((1 << len(self.sizes)) - 1)
        return None

    def _check_tied(self) -> None:
        if not self.tied:
            return
        if self.embedding == "onehot":
            raise InputError(
                "tied needs a learned embedding, got onehot: give embedding a size, or leave tied out"
            )
        # A decoder runs in one direction, whatever its encoder does; where the sizes meet, they are compared once more.
        if self.embedding not in (self.outputs, self.sizes[-1]):
            raise InputError(
                f"tied needs an embedding as wide as the last layer's output, {self.outputs}, got {self.embedding}: "
                f"set embedding to {self.outputs}"
            )
