"""A sequence written from a source: an encoder, a decoder, and attention between them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from throughtime.errors import InputError, one_of
from throughtime.models.attention import ATTENTIONS, Attention, Memory
from throughtime.models.encoders import Encoded
from throughtime.models.initial_state import InitialState, example_state, has_state
from throughtime.models.many_to_many import has_bidirectional, tie


class DecoderState(NamedTuple):
    """A decoder between two symbols: N rows, on axis -2 of every tensor outside `memory`."""

    memory: Memory | None
    summary: Tensor | None  # [N, E], where every step reads it
    layers: Any  # the layers' state
    fed: Tensor | None  # [N, A], the last attentional vector, with input feeding
    attention: Tensor | None = None  # [N, S], the weights of the last step; only `step` keeps them


class EncoderDecoder(nn.Module):
    """A decoder that predicts each symbol from those before it and from what an encoder read.

        encoded = encoder(context)                                     once
        s_0 = the encoder's final state if it has the decoder's form, else tanh(W summary + b)
        x_t = embedding(y_{t-1})                                       with input feeding [embedding(y_{t-1}), a_{t-1}],
                                                                       without attention [embedding(y_{t-1}), summary]
        h_t, s_t = layers(x_t, s_{t-1})
        c_t = attention(h_t, encoder outputs);  a_t = tanh(W_c [c_t, h_t])        without attention a_t = h_t
        logits_t = W_o dropout(a_t) + b_o

    The decoder's layers do not read the attention of their own step (Luong's form), so in training all steps of the target run in
    one call. Input feeding gives that up: the layers run step by step.

    Args:
        encoder: `encoder(context) -> Encoded`, with `memory_features` and `summary_features`.
        embedding: ids to vectors, has `embedding_dim`. layers: of the decoder, of one direction; they read `input_size` features.
        features: H, of the layers' output. outputs: V.
        attention: none, dot, general or additive; none where the encoder has no outputs.
        input_feeding: see above. scheduled_sampling: in training, the probability that a symbol read is not the true one, but one
        drawn from the model in a first pass over the true ones.
        dropout: on embeddings and before the head. tied: the head's weight is the embedding's.

    The state carries the memory, so a target may be cut and continued like any sequence; the gradient that a strategy cuts there
    does not reach the encoder from later windows.
    Cost: encoder and decoder; scheduled sampling runs the decoder twice.
    Source: Sutskever, Vinyals & Le 2014, NeurIPS; Cho et al. 2014, EMNLP; Luong, Pham & Manning 2015, EMNLP (attentional vector,
    input feeding); Bengio et al. 2015, NeurIPS (scheduled sampling); Mihaylova & Martins 2019, ACL workshop (in two passes).
    """

    def __init__(
        self,
        encoder: nn.Module,
        embedding: nn.Module,
        layers: nn.Module,
        features: int,
        outputs: int,
        *,
        attention: str = "general",
        input_feeding: bool = False,
        scheduled_sampling: float = 0.0,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        one_of("attention", attention, ATTENTIONS)
        memory, summary = int(encoder.memory_features), int(encoder.summary_features)  # type: ignore[arg-type]
        if attention != "none" and not memory:
            raise InputError(f"attention {attention} needs an encoder with outputs to attend to: use none")
        if input_feeding and attention == "none":
            raise InputError("input feeding feeds what attention found: choose an attention, or leave it out")
        if has_bidirectional(layers):
            raise InputError(
                "a decoder cannot read both ways: at each step its backward half would read the symbols to be predicted"
            )
        self.encoder = encoder
        self.embedding = embedding
        self.layers = layers
        self.input_feeding, self.scheduled_sampling = input_feeding, scheduled_sampling
        self.initial = InitialState(layers, summary) if has_state(layers) and not self._same_form() else None
        self.attention: Attention | None = None
        if attention != "none":
            self.attention = Attention(attention, features, memory)
            self.combine = nn.Linear(memory + features, features, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, outputs)
        if tied:
            tie(self.head, embedding)

    @staticmethod
    def input_size(
        embedding: nn.Module, encoder: nn.Module, features: int, attention: str, feeding: bool
    ) -> int:
        """Features that the decoder's layers read."""
        more = int(encoder.summary_features) if attention == "none" else features if feeding else 0  # type: ignore[arg-type]
        return int(embedding.embedding_dim) + more  # type: ignore[arg-type]

    def forward(
        self,
        inputs: Tensor,
        state: DecoderState | None = None,
        lengths: Tensor | None = None,
        context: Any = None,
    ) -> tuple[Tensor, DecoderState]:
        """Predict with teacher forcing.

        Args: inputs: [T, B], the symbols before those predicted, first a start symbol. state: what the last call returned; None
        starts from `context`. lengths: [B], steps of each row.
        Returns: logits [T, B, V], and the state after each row's last step.
        """
        if state is None:
            state = self.begin(context)
        if self.training and self.scheduled_sampling > 0:
            inputs = self._sampled(inputs, state, lengths)
        vectors, _, state = self._decode(inputs, state, lengths)
        return self.head(self.dropout(vectors)), state

    def begin(self, context: Any) -> DecoderState:
        """The state before the first symbol. Raises: InputError without a context."""
        if context is None:
            raise InputError("the model writes from a source: pass context=, or a state to continue from")
        return self.start(self.encoder(context))

    def start(self, encoded: Encoded) -> DecoderState:
        """The state before the first symbol, of what the encoder returned."""
        memory = summary = fed = None
        if self.attention is not None:
            assert encoded.outputs is not None
            memory = self.attention.remember(encoded.outputs, encoded.lengths)
            if self.input_feeding:
                fed = encoded.summary.new_zeros(len(encoded.summary), self.head.in_features)
        else:
            summary = encoded.summary
        layers = encoded.state if has_state(self.layers) else None
        if self.initial is not None:
            layers = self.initial(encoded.summary)
        return DecoderState(memory, summary, layers, fed)

    def step(self, state: DecoderState, symbols: Tensor) -> tuple[Tensor, DecoderState]:
        """Read one symbol of each row [N]: the logits [N, V] of the next, and the new state. As decoders take it."""
        vectors, weights, state = self._decode(symbols[None], state, None)
        if weights is not None:
            state = state._replace(attention=weights[0])
        return self.head(self.dropout(vectors[0])), state

    def alignment(self, inputs: Tensor, context: Any, lengths: Tensor | None = None) -> Tensor:
        """The attention weights [T, B, S] with which each symbol after `inputs` [T, B] is predicted. Raises: InputError without
        attention.
        """
        if self.attention is None:
            raise InputError("the model was built without attention: there are no weights to look at")
        _, weights, _ = self._decode(inputs, self.begin(context), lengths)
        assert weights is not None
        return weights

    def _decode(
        self, inputs: Tensor, state: DecoderState, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, DecoderState]:
        """Attentional vectors [T, B, H], attention weights [T, B, S], and the state."""
        x = self.dropout(self.embedding(inputs))
        if self.input_feeding:
            return self._step_by_step(x, state, lengths)
        if state.summary is not None:
            x = torch.cat([x, state.summary.expand(len(x), -1, -1)], dim=-1)
        extra = {} if lengths is None else {"lengths": lengths}
        y, layers = self.layers(x, state.layers, **extra)
        vectors, weights = self._attend(y, state.memory)
        return vectors, weights, state._replace(layers=layers, attention=None)

    def _step_by_step(
        self, x: Tensor, state: DecoderState, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, DecoderState]:
        vectors, weights = [], []
        layers, fed = state.layers, state.fed
        assert fed is not None
        for t, each in enumerate(x):
            going = None if lengths is None else lengths.cpu() > t
            extra = {} if going is None else {"lengths": going.long()}
            y, layers = self.layers(torch.cat([each, fed], dim=-1)[None], layers, **extra)
            vector, weight = self._attend(y, state.memory)
            fed = vector[0] if going is None else torch.where(going.to(fed.device)[:, None], vector[0], fed)
            vectors.append(vector)
            weights.append(weight)
        new = state._replace(layers=layers, fed=fed, attention=None)
        return torch.cat(vectors), torch.cat([each for each in weights if each is not None]), new

    def _attend(self, y: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        if self.attention is None:
            return y, None
        assert memory is not None
        found, weights = self.attention(y, memory)
        return self.combine(torch.cat([found, y], dim=-1)).tanh(), weights

    def _sampled(self, inputs: Tensor, state: DecoderState, lengths: Tensor | None) -> Tensor:
        """The inputs [T, B], some of them replaced by draws from the model's own predictions."""
        with torch.no_grad():
            vectors, _, _ = self._decode(inputs, state, lengths)
            logits = self.head(self.dropout(vectors[:-1])).float()
            if not len(logits):
                return inputs
            # The padding has logits too, of whatever numbers the layers left there.
            chances = logits.nan_to_num().softmax(-1)
            drawn = torch.multinomial(chances.flatten(0, 1), 1).view(logits.shape[:2])
            replaced = torch.rand(drawn.shape, device=drawn.device) < self.scheduled_sampling
            return torch.cat([inputs[:1], torch.where(replaced, drawn, inputs[1:])])

    def _same_form(self) -> bool:
        """Whether the encoder's final state is one that the decoder's layers can start from."""
        layers = getattr(self.encoder, "layers", None)
        if layers is None or has_bidirectional(layers) or not has_state(layers):
            return False
        return bool(_form(layers) == _form(self.layers))


def _form(layers: Any) -> tuple[Any, ...]:
    """The kind, sizes and structure of a state."""
    tensors, form = tree_flatten(example_state(layers))
    return type(layers), [tuple(tensor.shape) for tensor in tensors], form
