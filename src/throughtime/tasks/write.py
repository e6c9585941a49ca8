"""Text in a style, one to many: a text is written from a style alone, from a style and a beginning, or from nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from throughtime.errors import InputError, RunError, nearest
from throughtime.models.config import ModelConfig
from throughtime.tasks.classify_texts import Texts
from throughtime.tasks.labelled import LabelledData
from throughtime.tasks.task import Record, data_option, text_of

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.data.assets import Assets
    from throughtime.data.examples import Examples
    from throughtime.data.readers.tables import Table
    from throughtime.data.vocabulary import Vocabulary
    from throughtime.metrics import Metric
    from throughtime.models.styled import Styled

TOGETHER = 256  # texts written in one batch
MOST_NAMED = 40  # styles in a message
_NGRAM = {"char": 6, "word": 3, "bpe": 4}  # orders of the strong baseline


class StyledTexts(Texts):
    """Texts that end: each is followed by the symbol END, which the model reads before the first symbol too."""

    inside: ClassVar[str] = "lines of Python's standard library"
    task: WriteTask

    def read(self, files: Sequence[str], others: Sequence[str]) -> Table:
        from throughtime.data.readers.styles import read_styles

        if not files:
            return self.read_inside()
        columns = (self.column, self.task.label or "label", *others)
        return read_styles(files, columns, by=self.task.by, skip_bad=self.task.skip_bad)

    def read_inside(self) -> Table:
        from throughtime.data.inside.lines import python_lines

        return python_lines()

    def fit(self, assets: Assets, train: Sequence[str], like: Assets | None) -> None:
        from throughtime.data.text import END

        if like:
            assets.vocabularies = {"symbols": like.vocabulary}
        else:
            assets.vocabularies = {"symbols": self._vocabulary("\n".join(map(self.normalized, train)))}
        if assets.vocabulary.unknown_symbols(END):
            raise InputError("the vocabulary has no symbol for the end of a text: start from a run of write")

    def _vocabulary(self, text: str) -> Vocabulary:
        """Of a text, and of END."""
        from throughtime.data.text import END
        from throughtime.data.vocabulary import Vocabulary

        if self.task.tokens != "bpe":  # which has all bytes
            text += END * (
                1 + max(Counter(text).values(), default=0)
            )  # the most frequent symbol is always kept
        return Vocabulary.build(self.task.tokens, text, self.task.vocab_size)

    def normalized(self, text: str) -> str:
        from throughtime.data.text import END

        return super().normalized(text.replace(END, ""))


@dataclass(frozen=True)
class WriteTask(LabelledData):
    """Train a language model that writes in styles: a genre, an author, a kind of text.

    The style is where the model's state begins, and an input of each step. Some training texts go without their style, so that
    the model also writes from nothing, in the average style. Reads tables (CSV, TSV, JSON lines, lists in JSON) with a text and
    a label, a folder with one folder of text files for each style, and plain text files that are a style each.
    Texts that are equal but for case and spaces stay on one side of a split. Without --data it learns how comments, docstrings,
    error messages, functions, conditions and imports are written in Python's standard library.
    """

    name = "write"
    shape = "one to many"
    reads = "text files per style, CSV, TSV, JSON lines"
    examples = (
        "throughtime train write",
        "throughtime train write --data poems.csv --label form",
        "throughtime train write tang.txt song.txt --by paragraph",
        "throughtime train write --data poems.json --text paragraphs --label author --styles 10",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 256, "embedding": 64, "bptt": "full", "batch": 32, "epochs": 7.0, "dropout": 0.1, "lr": 6e-3,
    }  # fmt: skip
    without = ("pooling", "window", "bidirectional")
    least_labels: ClassVar[int] = 1

    by: str | None = data_option(
        None, "Of plain text: a text is a line, a paragraph or a file. Default: a file in the folder of its style, else a line.",
        metavar="line|paragraph|file", choices=("line", "paragraph", "file"),
    )  # fmt: skip
    styles: int | None = data_option(
        None, "Only the texts of the N most frequent styles.", metavar="N", low=1, high=65_536
    )
    style_size: int = data_option(32, "Numbers in the vector of a style.", metavar="N", low=1, high=65_536)
    every_step: bool = data_option(True, "The style is an input of every step, beside the initial state.")
    style_dropout: float = data_option(
        0.1, "Fraction of the training texts that are read without their style; 0: no text is written without a style.",
        metavar="P", low=0, high=1,
    )  # fmt: skip
    judged: int = data_option(
        50, "Texts of each style that are written after training, for style_accuracy; 0: none.", metavar="N", low=0, high=10_000
    )  # fmt: skip

    @property
    def _inputs(self) -> StyledTexts:
        return StyledTexts(self)

    @property
    def unit(self) -> str:
        return {"char": "character", "bpe": "token"}.get(self.tokens, "word")

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.label or "label",)

    def on(self, files: tuple[str, ...]) -> Self:
        return replace(super().on(files), styles=None)

    def build(self, config: ModelConfig, assets: Assets) -> Styled:
        from throughtime.models.build import many_to_many, symbol_embedding
        from throughtime.models.styled import Styled

        if not assets.labels.get("label"):
            raise RunError("the run's assets.json is damaged: it has no styles")
        if config.cell in ("none", "cnn") and not self.every_step:
            raise InputError(
                f"{config.cell} carries no recurrent state that a style could begin: leave every_step on"
            )
        size = len(assets.vocabulary)
        model = many_to_many(config, symbol_embedding(config, size), size)
        return Styled(model, len(assets.labels["label"]), self.style_size, every_step=self.every_step)

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Examples:
        from throughtime.data.examples import PartlyWithout
        from throughtime.models.styled import NO_STYLE

        inputs, targets = self._encoded(assets, "train")
        return PartlyWithout(
            inputs, targets, batch, context=self._context(assets, "train"), missing=NO_STYLE,
            fraction=self.style_dropout, seed=seed, rank=rank, world=world,
        )  # fmt: skip

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.loss import BitsPerCharacter, Perplexity
        from throughtime.metrics.style import StyleNats

        found: list[Metric] = [BitsPerCharacter(assets.vocabulary.characters()), Perplexity()]
        found = found if self.tokens == "char" else found[::-1]
        return [*found, StyleNats()] if 0 < self.style_dropout < 1 else found

    def final_metrics(self, model: Any, assets: Assets, split: str) -> dict[str, float]:
        """style_accuracy: the fraction of the texts written, `judged` of each style, that a classifier finds in the style asked
        for; copied: the fraction that stands in the training part.
        """
        styles = assets.labels["label"]
        if not self.judged or len(styles) < 2 or self.style_dropout == 1:
            return {}
        from throughtime.data.split import group_keys

        asked = [style for style in styles for _ in range(self.judged)]
        written = self.write(model, assets, asked)
        known = set(group_keys(self._columns(assets, "train")[0]))
        found = {"copied": sum(key in known for key in group_keys(written)) / len(written)}
        try:
            return {"style_accuracy": self._judge(assets)(written, asked)} | found
        except InputError:  # scikit-learn is not installed, as the baselines say
            return found

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        """Of the texts of the split also how often the classifier finds their style: what style_accuracy can reach."""
        from throughtime.tasks.baselines import write

        train, validation, test = (
            write.Texts(
                [ids.numpy() for ids in self._encoded(assets, part)[1]], self._context(assets, part).tolist()
            )
            for part in ("train", "validation", split)
        )
        end = int(assets.vocabulary.encode(_end())[0])
        losses = write.style_baselines(
            train, validation, test, len(assets.vocabulary), end, _NGRAM[self.tokens]
        )
        counted = assets.vocabulary.characters().numpy()
        symbols = sum(map(len, test.ids))
        characters = max(1, sum(int(counted[ids].sum()) for ids in test.ids))
        found: dict[str, dict[str, float] | str] = {
            name: {
                "bits_per_character": nats / math.log(2) / characters,
                "perplexity": math.exp(min(nats / symbols, 700)),
                "loss": nats / symbols,
            }
            for name, nats in losses.items()
        }
        *_, alone, mixed = losses
        found[mixed]["style_nats"] = (losses[alone] - losses[mixed]) / len(test.ids)  # type: ignore[index]
        if self.judged and len(assets.labels["label"]) > 1:
            texts, styles = self._columns(assets, split)
            try:
                found["texts of this part"] = {
                    "style_accuracy": self._judge(assets)(
                        [self._inputs.normalized(text) for text in texts], styles
                    )
                }
            except InputError as error:
                found["style_accuracy"] = str(error)
        return found

    def write(
        self,
        model: Any,
        assets: Assets,
        styles: Sequence[str | None],
        beginnings: Sequence[str] = (),
        *,
        seed: int = 0,
        **options: Any,
    ) -> list[str]:
        """A text for each style, None for none, each drawn with a seed of its own: `seed`, `seed` + 1, ...

        Args: beginnings, of the texts, one for each, which are part of what is returned; options, of
        `throughtime.decoding.sample`: temperature, top_k, top_p.
        Raises: InputError for a style that the model does not know.
        """
        import torch

        from throughtime.decoding import Limits, sample
        from throughtime.layers.eval_mode import evaluating

        vocabulary = assets.vocabulary
        device = next(model.parameters()).device
        end = int(vocabulary.encode(_end())[0])
        banned = () if vocabulary.unknown is None else (vocabulary.unknown,)
        longest = assets.values["longest"]
        found = []
        with evaluating(model), torch.inference_mode():
            for first in range(0, len(styles), TOGETHER):
                numbers = range(first, min(first + TOGETHER, len(styles)))
                starts = [
                    [end, *vocabulary.encode(self._inputs.normalized(beginnings[n])).tolist()]
                    if beginnings
                    else [end]
                    for n in numbers
                ]
                context = torch.tensor([style_number(assets, styles[n]) for n in numbers], device=device)
                state = model.begin(context)
                read = torch.nn.utils.rnn.pad_sequence([torch.tensor(start[:-1]) for start in starts]).to(
                    device
                )
                if len(read):
                    state = model.read(state, read, torch.tensor([len(start) - 1 for start in starts]))
                last = torch.tensor([start[-1] for start in starts], device=device)
                limits = Limits(end, [max(1, longest - len(start) + 1) for start in starts], banned=banned)
                drawn = sample(model.step, state, last, limits, seeds=[seed + n for n in numbers], **options)
                found += [
                    vocabulary.decode([*start[1:], *each.symbols])
                    for start, each in zip(starts, drawn, strict=True)
                ]
        return found

    def predict(self, model: Any, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """A text in the style that each record names; where it has a text too, that is its beginning. Record n has the seed n."""
        label, text = self.columns[0], self._inputs.column
        for number, record in enumerate(records):
            beginning = text_of(record, text) if text in record else ""
            style = text_of(record, label).strip() or None
            yield {"written": self.write(model, assets, [style], [beginning], seed=number)[0]}

    def describe_loss(self, loss: float) -> str:
        if self.tokens == "char":
            return f"loss {loss:.3f}, {loss / math.log(2):.3f} bits per character"
        return f"loss {loss:.3f}, perplexity {math.exp(min(loss, 700)):.2f}"

    def conclude(self, metrics: Mapping[str, float]) -> str:
        if not (told := metrics.get("style_nats")):
            return ""
        times = math.exp(min(told, 700))
        return f"To this model the style makes a text {times:.3g} times as likely (style_nats {told:.3g}, mean over texts)."

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        import shlex

        style = shlex.quote(assets.labels["label"][0])
        return [f"throughtime generate {path} --style {style}", f"throughtime evaluate {path}"]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        return ["<end>" if name == _end() else name for name in super().step_names(assets, inputs)]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        """The text behind the symbol END, as a text begins."""
        import torch

        ids, unknown = super().text_input(assets, text)
        return torch.cat([assets.vocabulary.encode(_end())[:, None], ids]), unknown

    def prepare(self, like: Assets | None = None) -> Assets:
        assets = super().prepare(like)
        assets.values["longest"] = max(map(len, self._encoded(assets, "train")[1]))
        return assets

    def _read(self) -> Any:
        rows, sources, parts, remarks = super()._read()
        if self.styles is not None:
            counts = Counter(rows[number][1] for number in parts["train"])
            kept = set(sorted(counts, key=lambda style: (-counts[style], style))[: self.styles])
            parts = {part: [n for n in numbers if rows[n][1] in kept] for part, numbers in parts.items()}
        return rows, sources, parts, remarks

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor]]:
        """What is read, END and the ids of each text, and the targets, the ids and END; the first `length` of each."""
        import torch

        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            end = assets.vocabulary.encode(_end())
            whole = [
                torch.cat([end, assets.vocabulary.encode(self._inputs.normalized(text)), end])
                for text in self._columns(assets, split)[0]
            ]
            inputs, targets = ([each[a : a + self.length] for each in whole] for a in (0, 1))
            inputs = [each[: len(target)] for each, target in zip(inputs, targets, strict=True)]
            assets.cache[key] = inputs, targets
        found: tuple[list[Tensor], list[Tensor]] = assets.cache[key]
        return found

    def _context(self, assets: Assets, split: str) -> Tensor:
        """The number of each text's style, [N]."""
        import torch

        return torch.tensor([style_number(assets, style) for style in self._columns(assets, split)[1]])

    def _judge(self, assets: Assets) -> Any:
        """The classifier of styles, trained once on the training part: see `style_judge`."""
        from throughtime.tasks.baselines.write import style_judge

        if "judge" not in assets.cache:
            texts, styles = self._columns(assets, "train")
            assets.cache["judge"] = style_judge([self._inputs.normalized(text) for text in texts], styles)
        return assets.cache["judge"]


def style_number(assets: Assets, style: str | None) -> int:
    """The number of a style, NO_STYLE for None.

    Raises: InputError, which lists the styles, for one that the model does not know.
    """
    from throughtime.models.styled import NO_STYLE

    if style is None:
        return NO_STYLE
    styles = assets.labels["label"]
    if style not in styles:
        more = f" ... ({len(styles)} in all)" if len(styles) > MOST_NAMED else ""
        raise InputError(
            f"the model has no style {style!r}: it writes {', '.join(styles[:MOST_NAMED])}{more}.{nearest(style, styles)}"
        )
    return styles.index(style)


def _end() -> str:
    from throughtime.data.text import END

    return END
