"""What a trained translator writes: translations with unknown words copied, and what it attended to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from throughtime.data.examples import context_of
from throughtime.decoding import Hypothesis, Limits
from throughtime.errors import InputError
from throughtime.layers.eval_mode import evaluating

if TYPE_CHECKING:
    from throughtime.data.assets import Assets
    from throughtime.models.encoder_decoder import EncoderDecoder
    from throughtime.tasks.translate import TranslateTask


class Translation(NamedTuple):
    """One translation of a sentence."""

    text: str
    score: float  # of the search: larger is better, 0 the most
    symbols: list[int]


class Translator:
    """A model that translates sentences, with the settings of its task."""

    def __init__(self, task: TranslateTask, model: EncoderDecoder, assets: Assets) -> None:
        self.task, self.model, self.assets = task, model, assets
        self.source, self.target = task.tokens_of(assets)

    def __call__(
        self, sentences: Sequence[str], *, beam: int | None = None, n_best: int = 1
    ) -> list[list[Translation]]:
        """The best translations of each sentence, by the task's own beam or another one.

        An unknown word in a translation is replaced by the word of the source that the decoder attends to most (Luong et al.
        2015, ACL, "Addressing the rare word problem"); without attention no unknown word is written.
        """
        if not sentences:
            return []
        task, context = self.task, [self.task.encode_source(self.source, each) for each in sentences]
        ratio = self.assets.values["ratio"]
        longest = [min(task.max_length, int(ratio * len(each)) + 10) for each in context]
        unknown, banned = self.target.vocabulary.unknown, [self.target.start]
        if unknown is not None and task.attention == "none":
            banned.append(unknown)
        limits = Limits(self.target.end, longest, banned=banned)
        found = task.decode(self.model, context, limits, self.target.start, beam=beam, n_best=n_best)
        return [
            [self._translation(sentence, source, hypothesis) for hypothesis in hypotheses]
            for sentence, source, hypotheses in zip(sentences, context, found, strict=True)
        ]

    def record(self, sentence: str) -> dict[str, Any]:
        """The columns that `predict` adds."""
        best, *others = self([_checked(sentence)], n_best=self.task.n_best)[0]
        found: dict[str, Any] = {"translation": best.text, "score": round(best.score, 4)}
        if self.task.n_best > 1:
            found["others"] = [{"translation": each.text, "score": round(each.score, 4)} for each in others]
        return found

    def show(self, sentence: str, picture: str | None = None) -> str:
        """The best translation, and what the decoder attended to, as characters and, where a path is given, as a figure.

        Raises: InputError for a model without attention.
        """
        from throughtime.flow.drawing.alignment import Alignment

        best = self([_checked(sentence)])[0][0]
        context = self.task.encode_source(self.source, sentence)
        weights = self._weights(context, best.symbols)
        columns = [*self.source.pieces(sentence)[: len(context) - 1], "<end>"]
        rows = [self.target.name(symbol).strip() or " " for symbol in [*best.symbols, self.target.end]]
        found = Alignment(weights, tuple(rows), tuple(columns), "source", "translation")
        if picture is not None:
            found.plot(picture)
        return f"{best.text}\n\n{found.text()}"

    def _translation(self, sentence: str, context: Tensor, found: Hypothesis) -> Translation:
        unknown, copied = self.target.vocabulary.unknown, {}
        if unknown in found.symbols:
            weights = self._weights(context, found.symbols)
            pieces = self.source.pieces(sentence)[: len(context) - 1] or [""]
            for place, symbol in enumerate(found.symbols):
                if symbol == unknown:
                    copied[place] = pieces[int(weights[place, : len(pieces)].argmax())]
        return Translation(self.target.decode(found.symbols, copied), found.score, found.symbols)

    def _weights(self, context: Tensor, symbols: Sequence[int]) -> Tensor:
        """The attention weights [t + 1, s] with which each symbol of a translation, and its end, is written."""
        device = next(self.model.parameters()).device
        source: Any = context_of([context], torch.zeros(1, dtype=torch.long))
        source = type(source)(*(each.to(device) for each in source))
        with evaluating(self.model), torch.inference_mode():
            inputs = torch.tensor([[self.target.start, *symbols]], device=device).t()
            return self.model.alignment(inputs, source)[:, 0].float().cpu()


def _checked(sentence: str) -> str:
    if not sentence.strip():
        raise InputError("expected a sentence, got an empty text")
    return sentence
