"""One to many: a language model that begins from a style."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from throughtime.models.embeddings import OneHot
from throughtime.models.initial_state import InitialState, has_state
from throughtime.models.many_to_many import ManyToMany

NO_STYLE = -1  # the number of a text without a style, whose vector is zero


class StyledState(NamedTuple):
    """Texts part-way: N rows, on axis -2 of every tensor."""

    styles: Tensor  # int64 [N, 1]
    layers: Any


class Styled(nn.Module):
    """A language model whose initial state is a function of a style.

        s       = the style's learned vector [E]; zero without a style
        state_0 = tanh(W s + b), for each tensor of the state; of convolutions, which have none, the padding
        x_t     = embedding(input_t)              or, with `every_step`, embedding(input_t) + U s
        logits_t, state_t = the rest of the language model (x_t, state_{t-1})

    Args: language_model, whose layers run from left to right; styles, how many; size, E; every_step, whether the style is an
        input of every step too, which a long text needs where the layers forget how they began.
    Source: InitialState's; training on some examples without their class, so that one model writes with and without: Ho &
        Salimans 2021, arXiv 2207.12598.
    Cost: beside the language model's, K*E + E*H parameters for each tensor of the state, and a product for each text.
    """

    def __init__(
        self, language_model: ManyToMany, styles: int, size: int, *, every_step: bool = False
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.styles = nn.Embedding(styles, size)
        self.initial = InitialState(language_model.layers, size) if has_state(language_model.layers) else None
        width: Any = language_model.embedding.embedding_dim
        self.every_step = nn.Linear(size, width, bias=False) if every_step else None

    @property
    def layers(self) -> nn.Module:
        """Those of the language model."""
        return self.language_model.layers

    @property
    def head(self) -> nn.Linear:
        """That of the language model."""
        return self.language_model.head

    def forward(
        self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read texts.

        Args:
            inputs: ids [T, B].
            state: what the last call returned, to continue from it; None to begin from the style.
            lengths: [B], steps of each row; the logits behind them mean nothing.
            context: the number of each row's style, int64 [B], NO_STYLE for none; None: none at all.

        Returns: logits [T, B, V], and the state after each row's last step.
        """
        if context is None:
            context = torch.full(inputs.shape[1:2], NO_STYLE, device=inputs.device)
        model, style = self.language_model, self.vectors(context)
        x = model.embedding(inputs)
        if self.every_step is not None:
            x = x + self.every_step(style)
        if state is None and self.initial is not None:
            state = self.initial(style)
        extra = {} if lengths is None else {"lengths": lengths}
        y, state = model.layers(x, state, **extra)
        return model.head(model.dropout(y)), state

    def begin(self, context: Tensor) -> StyledState:
        """The state before the first symbol of texts in styles [N]."""
        state = None if self.initial is None else self.initial(self.vectors(context))
        return StyledState(context[:, None], state)

    def read(self, state: StyledState, symbols: Tensor, lengths: Tensor | None = None) -> StyledState:
        """The state after symbols [T, N]. Args: lengths [N], steps of each row."""
        return state._replace(layers=self(symbols, state.layers, lengths, state.styles[:, 0])[1])

    def step(self, state: StyledState, symbols: Tensor) -> tuple[Tensor, StyledState]:
        """Read one symbol of each row [N]: the logits [N, V] of the next, and the new state. As decoders take it."""
        logits, layers = self(symbols[None], state.layers, None, state.styles[:, 0])
        return logits[0], state._replace(layers=layers)

    def vectors(self, numbers: Tensor) -> Tensor:
        """The vectors [B, E] of styles [B]; zero for NO_STYLE."""
        known = (numbers != NO_STYLE)[:, None]
        return torch.where(known, self.styles(numbers.clamp(min=0)), 0.0)

    @torch.no_grad()
    def of_style(self, number: int) -> tuple[ManyToMany, Any]:
        """The language model of one style, NO_STYLE for none, and its initial state for one row.

        It shares this model's weights; with `every_step` it has an embedding of its own, embedding + U s, so that it is a plain
        language model, which the native loop of generation runs. Its logits are those of this model, up to rounding.
        Cost: a copy of the embedding with `every_step`, else nothing.
        """
        model = self.language_model
        device = next(self.parameters()).device
        style = self.vectors(torch.tensor([number], device=device))
        state = None if self.initial is None else self.initial(style)
        if self.every_step is None:
            return model, state
        embedding: Any = model.embedding
        weight = (
            torch.eye(embedding.num_embeddings, device=device)
            if isinstance(embedding, OneHot)
            else embedding.weight
        )
        with torch.device("meta"):  # its own head is replaced, and draws nothing
            found = ManyToMany(embedding, model.layers, model.head.in_features, model.head.out_features)
        table = weight + self.every_step(style)
        found.embedding = nn.Embedding(table.shape[0], table.shape[1], _weight=table, _freeze=True)
        found.head = model.head
        return found.train(model.training), state
