"""A dialogue with a trained model, which keeps its state from turn to turn."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from throughtime.data.assets import Assets
from throughtime.data.batch import Source
from throughtime.data.exchanges import Turn
from throughtime.decoding import Hypothesis, beam, greedy, sample
from throughtime.errors import InputError
from throughtime.layers.eval_mode import evaluating
from throughtime.models.dialogue import last_steps, mean_log_likelihood
from throughtime.models.encoders import Encoded
from throughtime.models.initial_state import example_state
from throughtime.models.native_decoder import decoding_step
from throughtime.runs.tree import load_tree, save_tree
from throughtime.tasks.chat import ChatTask, marks
from throughtime.tasks.search_index import fingerprint

UNSURE = "I do not know."
_FORM = "throughtime chat 1"


class ChatState(NamedTuple):
    """A dialogue so far. `Chat.snapshot` copies it."""

    layers: Any = None  # the encoder's state; None before the first turn
    outputs: Tensor | None = None  # [s, 1, M], the encoder's outputs that attention may look at
    turns: tuple[Turn, ...] = ()


class Chat:
    """A dialogue: each turn is read once, and the encoder's state is kept, so a turn costs its own symbols whatever came before.

    The model's replies are read by the encoder too. What is kept after some turns is what reading them all at once would give. A
    run that was trained with `history` reads the last turns anew each time.

    Args: model, of a run of the task chat; its task and assets. `throughtime.load(run).chat()` makes one.
    Attributes: confidence, the probability, as far as the validation part tells, that the last reply is the one in the data; NaN
    where the run had no validation part or its training has not ended.
    """

    def __init__(self, model: Any, task: ChatTask, assets: Assets) -> None:
        self.model, self.task, self.assets = model, task, assets
        self.confidence = float("nan")
        self._state = ChatState()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said so far; `own` is True of the model's replies."""
        return self._state.turns

    def say(
        self,
        text: str,
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        beam: int | None = None,
        seed: int | None = None,
        min_confidence: float | None = None,
    ) -> str:
        """Say something, and return the reply. If that fails, or is interrupted, the dialogue is as it was before.

        Args:
            temperature: draw each symbol, see `throughtime.decoding.draw`; None: the likeliest reply that is found.
            top_p: draw from the likeliest symbols that together have this probability.
            beam: hypotheses of beam search; 1 is greedy. None: as the run says. Not together with the two above.
            seed: of what is drawn; the same seed and the same dialogue give the same reply. None: another each time.
            min_confidence: a reply that is less likely to be right than this probability is not given; UNSURE is said instead.

        Raises: InputError for an empty text, options that contradict each other, or a confidence that was never fitted.
        """
        if not text.strip():
            raise InputError("expected something said, got an empty text")
        if beam is not None and (temperature is not None or top_p is not None):
            raise InputError(
                "a reply is drawn (temperature, top_p) or searched for (beam), got both: keep one"
            )
        if min_confidence is not None and not self.model.confidence.fitted:
            raise InputError(
                "min_confidence needs a run whose training has ended and that has a validation part: leave it out, or train "
                "with a validation part"
            )
        with evaluating(self.model), torch.inference_mode():
            state, encoded = self._read(self._state, Turn(False, text))
            start, both = self.model.start(encoded), marks(self.assets)
            found = self._reply(start, temperature, top_p, beam, seed, len(state.turns))
            likely = mean_log_likelihood(self.model, start, found.symbols, both.own, both.end)
            confidence: float = self.model.confidence(likely)
            reply = self.task.text(self.assets, found.symbols)
            if min_confidence is not None and confidence < min_confidence:
                reply = UNSURE
            state, _ = self._read(state, Turn(True, reply))
        self._state, self.confidence = state, confidence
        return reply

    def reset(self) -> None:
        """Go back to before the first turn."""
        self._state, self.confidence = ChatState(), float("nan")

    def snapshot(self) -> ChatState:
        """A copy of the state, for `restore`, any number of times."""
        return _copy(self._state)

    def restore(self, state: ChatState) -> None:
        """Go back to a state that `snapshot` copied."""
        self._state, self.confidence = _copy(state), float("nan")

    def save(self, path: str | Path) -> None:
        """Write the state to a safetensors file: tensors, and as JSON what was said and the checksum of the model's weights.

        Raises: RunError where it cannot be written; the file is written whole or not at all.
        """
        state = self._state
        leaves, _ = tree_flatten(state.layers)
        content = {
            "form": _FORM,
            "weights": fingerprint(self.model),
            "turns": [[each.own, each.text] for each in state.turns],
            "outputs": state.outputs,
            "layers": [each for each in leaves if isinstance(each, Tensor)],
        }
        save_tree(Path(path), content)

    def load(self, path: str | Path) -> None:
        """Go on from a state that `save` wrote. Nothing in the file can run code.

        Raises: RunError for a damaged file; InputError for one that is not there, of something else, or of other weights.
        """
        try:
            content = load_tree(Path(path))
        except FileNotFoundError:
            raise InputError(f"no such file: {path}; a state is written with save, or /save FILE") from None
        if not isinstance(content, dict) or content.get("form") != _FORM:
            raise InputError(f"expected the state of a dialogue, got something else: {path}")
        if content["weights"] != fingerprint(self.model):
            raise InputError(f"{path} is the state of another model: its weights are not those of this run")
        device = next(self.model.parameters()).device
        form = tree_flatten(example_state(self.model.encoder.layers))[1]
        tensors = [each.to(device) for each in content["layers"]]
        layers = None if content["outputs"] is None else tree_unflatten(tensors, form)
        outputs = content["outputs"]
        turns = tuple(Turn(bool(own), str(text)) for own, text in content["turns"])
        self._state = ChatState(layers, None if outputs is None else outputs.to(device), turns)
        self.confidence = float("nan")

    def _read(self, state: ChatState, turn: Turn) -> tuple[ChatState, Encoded]:
        """The state after one more turn, and what the decoder starts from."""
        turns = (*state.turns, turn)
        read = [turn]
        if self.task.history is not None:  # what came before the last turns is not read at all
            state, read = ChatState(), list(turns[-self.task.history :])
        ids = self.task.source(self.assets, read).to(next(self.model.parameters()).device)
        encoded: Encoded = self.model.encoder(Source(ids[None], torch.tensor([len(ids)])), state.layers)
        assert encoded.outputs is not None
        parts = [encoded.outputs] if state.outputs is None else [state.outputs, encoded.outputs]
        outputs = torch.cat(parts)
        outputs, lengths = last_steps(outputs, torch.tensor([len(outputs)]), self.model.encoder.memory)
        return ChatState(encoded.state, outputs, turns), encoded._replace(outputs=outputs, lengths=lengths)

    def _reply(
        self,
        start: Any,
        temperature: float | None,
        top_p: float | None,
        width: int | None,
        seed: int | None,
        place: int,
    ) -> Hypothesis:
        """A reply that is drawn or searched for. Args: start, the decoder's state; place, of the reply in the dialogue."""
        limits = self.task.limits(self.assets)
        first = torch.tensor([marks(self.assets).own], device=next(self.model.parameters()).device)
        step, enter = decoding_step(self.model)
        start = enter(start)
        if temperature is not None or top_p is not None:
            number = secrets.randbits(32) if seed is None else seed + place
            chance = 1.0 if temperature is None else temperature
            return sample(step, start, first, limits, seeds=[number], temperature=chance, top_p=top_p)[0]
        width = self.task.beam if width is None else width
        if width == 1:
            return greedy(step, start, first, limits)[0]
        penalties = {name: getattr(self.task, name) for name in ("length_penalty", "coverage_penalty")}
        return beam(step, start, first, limits, width=width, **penalties)[0][0]

    def __repr__(self) -> str:
        return f"<Chat of {len(self.turns)} turns>"


def _copy(state: ChatState) -> ChatState:
    copied: ChatState = tree_map_only(Tensor, lambda leaf: leaf.detach().clone(), state)
    return copied
