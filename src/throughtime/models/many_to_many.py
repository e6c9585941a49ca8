"""Many to many: one output for every step, as in a language model or a tagger."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from throughtime.errors import InputError


class StreamingParts(NamedTuple):
    """A model as native streaming runs it: outputs_t = W h_t + b, (h_t, state_t) = layers(embedding(input_t), state_{t-1})."""

    embedding: nn.Module  # of each step alone
    layers: nn.Module
    head: tuple[Tensor, Tensor]  # W [Q, H], b [Q]


class ManyToMany(nn.Module):
    """One row of outputs for each step.

        x_t = embedding(input_t)
        h_t, state_t = layers(x_t, state_{t-1})
        outputs_t = W_hq dropout(h_t) + b_q

    Args:
        embedding: inputs [T, B, ...] to vectors [T, B, D]; has `embedding_dim` = D.
        layers: any `(x [T, B, D], state) -> (y [T, B, H], state)`: a layer of this library, or torch.nn's where no
            lengths are given.
        features: H, the features of the layers' output, both directions together.
        outputs: Q, numbers for each step: logits of V symbols, or values.
        dropout: probability of zeroing a feature of the layers' output before the head.
        tied: the head's weight is the embedding's, [V, D] with D = H (Press & Wolf 2017, arXiv 1608.05859).

    A model with a bidirectional layer carries no state: its backward direction starts at the end. Its state is always None, and
    a state given to it is an error.
    Cost: the layers', and T*B*H*Q multiplications for the outputs.
    """

    def __init__(
        self,
        embedding: nn.Module,
        layers: nn.Module,
        features: int,
        outputs: int,
        *,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = layers
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, outputs)
        self.bidirectional = has_bidirectional(layers)
        if tied:
            tie(self.head, embedding)

    def forward(self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """Read a sequence.

        Args:
            inputs: [T, B] ids, or [T, B, D] numbers.
            state: what the last call returned, to continue from it; None for the initial state.
            lengths: [B], steps of each row; the outputs behind them mean nothing.

        Returns: outputs [T, B, Q], and the state after each row's last step.
        """
        y, state = run_layers(self, inputs, state, lengths)
        return self.head(self.dropout(y)), state

    def streaming_parts(self) -> StreamingParts | None:
        """What the outputs of eval mode are computed from; None of a model that computes something else."""
        if type(self).forward is not ManyToMany.forward or type(self.head) is not nn.Linear:
            return None
        return StreamingParts(self.embedding, self.layers, (self.head.weight, self.head.bias))


def tie(head: nn.Linear, embedding: nn.Module) -> None:
    """Make the embedding's weight [V, D] the head's too.

    Raises: InputError where it has another shape.
    """
    weight = getattr(embedding, "weight", None)
    if weight is None or weight.shape != head.weight.shape:
        came = "none" if weight is None else list(weight.shape)
        raise InputError(
            f"tied needs an embedding weight of shape [{head.out_features}, {head.in_features}], got {came}: "
            "make the embedding as wide as the layers' output"
        )
    head.weight = weight


def run_layers(model: Any, inputs: Tensor, state: Any, lengths: Tensor | None) -> tuple[Tensor, Any]:
    """Embedding and layers of a model: y [T, B, H], and the state to carry (None of a bidirectional model)."""
    if state is not None and model.bidirectional:
        raise InputError(
            "a bidirectional model cannot continue from a state: its backward direction starts at the end; pass None"
        )
    extra = {} if lengths is None else {"lengths": lengths}
    y, state = model.layers(model.embedding(inputs), state, **extra)
    return y, None if model.bidirectional else state


def has_bidirectional(layers: nn.Module) -> bool:
    """Whether any layer runs backward too."""
    return any(getattr(module, "bidirectional", False) for module in layers.modules())
