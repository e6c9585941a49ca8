"""What tasks that write a sequence from a source share: their options, loss and decoding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError
from throughtime.models.config import ModelConfig
from throughtime.options import option
from throughtime.tasks.files import ExamplesTask
from throughtime.tasks.task import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.examples import Context
    from throughtime.decoding import Hypothesis, Limits
    from throughtime.models.encoder_decoder import EncoderDecoder

TOGETHER = 64  # sources decoded in one batch


@dataclass(frozen=True)
class WritingTask(ExamplesTask):
    """A task whose model, an `EncoderDecoder`, writes a sequence of symbols from a source.

    `_encoded` gives, for each example, what the decoder reads, [start, y_1, ..., y_n], and its targets [y_1, ..., y_n, end];
    `_context` gives the sources in the same order.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"bptt": "full"}
    without: ClassVar[tuple[str, ...]] = ("pooling", "window")
    predict_options: ClassVar[tuple[str, ...]] = ("beam", "length_penalty", "coverage_penalty", "max_length")

    attention: str = option(
        "general",
        "none, dot, general (multiplicative) or additive.",
        metavar="KIND",
        choices=("none", "dot", "general", "additive"),
        panel="Model",
    )
    input_feeding: bool = option(
        False,
        "The decoder reads the attention of the step before; slower: it runs step by step.",
        panel="Model",
    )
    scheduled_sampling: float = option(
        0.0, "Probability that the decoder reads a symbol of its own in training, not the true one.",
        metavar="P", low=0, high=1, panel="Training",
    )  # fmt: skip
    label_smoothing: float = option(
        0.0, "Probability that is spread over all symbols in the loss of training.",
        metavar="P", low=0, below=1, panel="Training",
    )  # fmt: skip
    beam: int = option(
        5, "Hypotheses of beam search; 1 is greedy.", metavar="N", low=1, high=1000, panel="Decoding"
    )
    length_penalty: float = option(
        1.0, "Exponent of the length that a score is divided by; larger prefers longer.",
        metavar="X", low=0, high=10, panel="Decoding",
    )  # fmt: skip
    coverage_penalty: float = option(
        0.0, "Lowers the score where parts of the source were not attended to.",
        metavar="X", low=0, high=100, panel="Decoding",
    )  # fmt: skip
    max_length: int = option(
        100, "Most symbols that are written.", metavar="N", low=1, high=100_000, panel="Decoding"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention == "none" and (self.input_feeding or self.coverage_penalty):
            what = "input_feeding" if self.input_feeding else "coverage_penalty"
            raise InputError(f"{what} needs attention, got attention none: choose general or additive")

    @abstractmethod
    def _context(self, assets: Assets, split: str) -> Context:
        """The source of each sequence of a split, as `Examples` takes them."""

    def decoder_options(self) -> dict[str, Any]:
        """The options of `throughtime.models.build.encoder_decoder` that are this task's."""
        names = ("attention", "input_feeding", "scheduled_sampling")
        return {name: getattr(self, name) for name in names}

    def training_loss(self, assets: Assets) -> Callable[[Any, Batch], Tensor]:
        """With label smoothing, its cross-entropy: the targets' (1 - p) and p spread over all symbols (Szegedy et al. 2016)."""
        if not self.label_smoothing:
            return self.loss

        def smoothed(logits: Tensor, batch: Batch) -> Tensor:
            import torch.nn.functional as F

            return F.cross_entropy(
                logits.flatten(0, -2).float(), batch.targets.flatten(), ignore_index=-100, reduction="sum",
                label_smoothing=self.label_smoothing,
            )  # fmt: skip

        return smoothed

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return cross_entropy(outputs, batch.targets)

    def decode(
        self,
        model: EncoderDecoder,
        context: Context,
        limits: Limits,
        start: int,
        *,
        beam: int | None = None,
        n_best: int = 1,
        together: int = TOGETHER,
    ) -> list[list[Hypothesis]]:
        """What the model writes from each source, the best first; sources of similar length are decoded together.

        Args: context: as of `Examples`; limits: what may be written, its `max_length` one number or one for each source; start:
        the symbol that is read first; beam: instead of the task's own, 1 is greedy; n_best: hypotheses of each, at most beam.
        """
        import torch

        from throughtime.data.examples import context_of
        from throughtime.decoding import beam as beam_search
        from throughtime.decoding import greedy
        from throughtime.layers.eval_mode import evaluating
        from throughtime.models.native_decoder import decoding_step

        width = max(self.beam if beam is None else beam, n_best)
        lengths = [1 if isinstance(context, torch.Tensor) else len(each) for each in context]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        device = next(model.parameters()).device
        found: list[list[Hypothesis]] = [[] for _ in order]
        with evaluating(model), torch.inference_mode():
            step, enter = decoding_step(model)
            for first in range(0, len(order), together):
                numbers = order[first : first + together]
                sources: Any = context_of(context, torch.tensor(numbers))
                if isinstance(sources, tuple):
                    sources = type(sources)(*(part.to(device) for part in sources))
                else:
                    sources = sources.to(device)
                of_rows = limits
                if not isinstance(limits.max_length, int):
                    of_rows = limits._replace(max_length=[limits.max_length[number] for number in numbers])
                begin = torch.full((len(numbers),), start, device=device)
                state = enter(model.begin(sources))
                if width == 1:
                    results = [[each] for each in greedy(step, state, begin, of_rows)]
                else:
                    results = beam_search(
                        step, state, begin, of_rows, width=width, n_best=n_best,
                        length_penalty=self.length_penalty, coverage_penalty=self.coverage_penalty,
                    )  # fmt: skip
                for number, each in zip(numbers, results, strict=True):
                    found[number] = each
        return found

    def remarks(self, config: ModelConfig) -> list[str]:
        if self.input_feeding:
            return ["with input feeding the decoder runs step by step: training takes up to twice as long"]
        return []


def reads(symbols: Sequence[int], start: int, end: int) -> tuple[Tensor, Tensor]:
    """What a decoder reads for a sequence, [start, y_1, ..., y_n], and its targets, [y_1, ..., y_n, end]."""
    import torch

    return torch.tensor([start, *symbols]), torch.tensor([*symbols, end])
