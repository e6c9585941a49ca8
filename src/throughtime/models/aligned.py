"""Many to many, aligned: one output for every input, as in a language model (S4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from throughtime.errors import InputError


class Aligned(nn.Module):
    """Symbols in, one row of logits out for each of them.

        x_t = embedding(id_t)
        h_t, state_t = layers(x_t, state_{t-1})
        logits_t = W_hq dropout(h_t) + b_q

    Args:
        embedding: ids [T, B] to vectors [T, B, D]; has `embedding_dim` = D.
        layers: any `(x [T, B, D], state) -> (outputs [T, B, H], state)`: a layer of this library or torch.nn's.
        outputs: H, the features of the layers' output, both directions together.
        symbols: V, the number of logits.
        dropout: share of the layers' output that is left out before the head.
        tied: the head's weight is the embedding's, [V, D] with D = H (Press & Wolf 2017, arXiv 1608.05859).

    A model with a bidirectional layer has no state to carry: what its backward half knows after a window is
    its beginning. Its state is always None, and a state given to it is an error.
    Cost: the layers', and T*B*H*V multiplications for the logits.
    """

    def __init__(
        self,
        embedding: nn.Module,
        layers: nn.Module,
        outputs: int,
        symbols: int,
        *,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = layers
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(outputs, symbols)
        self.bidirectional = any(getattr(module, "bidirectional", False) for module in layers.modules())
        if tied:
            weight = getattr(embedding, "weight", None)
            if weight is None or weight.shape != self.head.weight.shape:
                came = "none" if weight is None else list(weight.shape)
                raise InputError(
                    f"tied needs an embedding weight of shape [{symbols}, {outputs}], got {came}: "
                    "make the embedding as wide as the layers' output"
                )
            self.head.weight = weight

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read symbols.

        Args:
            ids: [T, B] int64.
            state: what the last call returned, to go on from there; None starts anew.

        Returns: logits [T, B, V], and the state after the last step.
        """
        if state is not None and self.bidirectional:
            raise InputError(
                "a bidirectional model cannot go on from a state: its backward half comes from the end; pass None"
            )
        outputs, state = self.layers(self.embedding(ids), state)
        return self.head(self.dropout(outputs)), None if self.bidirectional else state
