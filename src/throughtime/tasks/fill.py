"""Fill the blank: a missing word is predicted from the words on both sides of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.files import ExamplesTask, check_part, check_sources, reading_again
from throughtime.tasks.task import Record, data_option, run_one, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.metrics import Metric

PARTS = ("train", "validation", "test")
ANSWERS = 5  # that `predict` gives


@dataclass(frozen=True)
class FillTask(ExamplesTask):
    """Train a model that fills the blank in a sentence, such as "I am ___ hungry".

    Reads plain text, any that is UTF-8. It is cut into sentences or lines, and every word of a sentence is a blank once; a word
    is predicted from all the others, or with --no-bidirectional from those before it. Punctuation is read and never missing.
    Sentences that are equal but for case and spaces stay on one side of a split. Without --data it learns from the language
    reference in Python itself.
    """

    name = "fill"
    shape = "many to many"
    reads = "plain text"
    examples = (
        "throughtime train fill",
        "throughtime train fill --data book.txt",
        "throughtime train fill --data book.txt --no-bidirectional",
        "throughtime train fill --data poems.txt --tokens char --by line",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden": 128, "embedding": 512, "bidirectional": True, "bptt": "full", "batch": 32, "epochs": 8.0, "dropout": 0.4,
    }  # fmt: skip
    without = ("pooling", "window")

    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the data, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    tokens: str = data_option(
        "word", "word, or char for scripts without spaces.", metavar="KIND", choices=("word", "char")
    )
    by: str = data_option(
        "sentence",
        "Cut the text into sentences, or at line ends.",
        metavar="sentence|line",
        choices=("sentence", "line"),
    )
    vocab_size: int | None = data_option(
        None,
        "Most symbols; the rest is unknown. Default: all that occur twice in the training part.",
        metavar="N",
        low=3,
        high=2**24,
    )
    lower: bool = data_option(False, "Lower case.")
    length: int = data_option(
        100, "Most symbols of a sentence; a longer one is cut into several.", metavar="N", low=2, high=10**6
    )
    split_seed: int = data_option(
        0, "Another seed divides the data into other parts.", metavar="N", low=0, high=2**63 - 1
    )

    @property
    def unit(self) -> str:
        return "word" if self.tokens == "word" else "character"

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.data.vocabulary import Vocabulary

        assets = Assets()
        rows, assets.sources, assets.splits, assets.values["remarks"] = self._read()
        assets.cache["rows"] = rows
        train = [rows[number] for number in assets.splits["train"]]
        counts = Counter(symbol for row in train for symbol in self._symbols(row))
        kind, own = ("space", 2) if self.tokens == "word" else ("char", 1)  # symbols of the vocabulary's own
        most = own + sum(count > 1 for count in counts.values())
        text = ("\n" if self.tokens == "word" else "").join(train)
        vocabulary = (
            like.vocabulary if like else Vocabulary.build(kind, text, self.vocab_size or max(most, own + 1))
        )
        assets.vocabularies = {"symbols": vocabulary}
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.build import fill_blank, symbol_embedding

        size = len(assets.vocabulary)
        return fill_blank(config, symbol_embedding(config, size), size)

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.loss import Perplexity
        from throughtime.metrics.top_k import Top1, Top5

        return [Perplexity(), Top1([UNKNOWN]), Top5([UNKNOWN])]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines.fill import fill_baselines

        train, test = ([ids.numpy() for ids in self._encoded(assets, part)[0]] for part in ("train", split))
        return dict(fill_baselines(train, test, self._asked(assets).numpy(), UNKNOWN))

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The likeliest word for the blank of each text, its probability, and the five likeliest with theirs."""
        import torch

        answers = self._asked(assets) & (torch.arange(len(assets.vocabulary)) != UNKNOWN)
        for record in records:
            symbols, place = self._question(text_of(record, "text"))
            logits = run_one(model, self._encode(assets, symbols))[place]
            chances, numbers = (
                logits.double().softmax(-1).masked_fill(~answers, -1).topk(min(ANSWERS, int(answers.sum())))
            )
            found = {
                self._name(assets, number): round(chance, 6)
                for number, chance in zip(numbers.tolist(), chances.tolist(), strict=True)
            }
            answer, probability = next(iter(found.items()))
            yield {"answer": answer, "probability": probability, "answers": found}

    def describe(self, assets: Assets) -> str:
        source = ", ".join(path.rpartition("/")[2] for path in self.data) or "the Python language reference"
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{source}: {sizes['train']:,} {self.by}s to train on, {sizes['validation']:,} for validation, {sizes['test']:,} for "
            f"test; vocabulary of {len(assets.vocabulary):,} {self.unit}s{remarks}"
        )

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        blank = "I am ___ hungry." if self.tokens == "word" else "___"
        return [f"echo '{blank}' | throughtime predict {path}", f"throughtime evaluate {path}"]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        return [self._name(assets, int(number)) for number in inputs]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        symbols = self._symbols(self._normalized(text))
        unknown = assets.vocabulary.unknown_symbols
        return self._encode(assets, symbols)[:, None], [s for s in dict.fromkeys(symbols) if unknown(s)]

    def _name(self, assets: Assets, number: int) -> str:
        name = assets.vocabulary.decode([number])
        return name.strip() or name

    def _asked(self, assets: Assets) -> Tensor:
        """Which symbols can be missing, bool [V]: those with a letter or a digit."""
        import torch

        names = (self._name(assets, number) for number in range(len(assets.vocabulary)))
        return torch.tensor([any(map(str.isalnum, name)) for name in names])

    def _normalized(self, text: str) -> str:
        return text.lower() if self.lower else text

    def _symbols(self, row: str) -> list[str]:
        from throughtime.data.sentences import words

        return words(row) if self.tokens == "word" else list(row)

    def _question(self, text: str) -> tuple[list[str], int]:
        """The symbols of a text with one blank, and its place.

        Raises: InputError for another number of blanks.
        """
        from throughtime.data.sentences import BLANK

        parts = BLANK.split(self._normalized(text))
        if len(parts) != 2:
            raise InputError(
                f"expected a text with one blank, three underscores as in 'I am ___ hungry', got {len(parts) - 1} in {text!r:.60}"
            )
        left, right = (self._symbols(part) for part in parts)
        return [*left, "___", *right], len(left)

    def _encode(self, assets: Assets, symbols: list[str]) -> Tensor:
        """Ids [t], one for each symbol."""
        import torch

        if self.tokens == "word":
            return assets.vocabulary.encode(" ".join(symbols))
        parts = [assets.vocabulary.encode(symbol)[:1] for symbol in symbols]  # a blank is one symbol
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor]]:
        """Ids [t] of each sentence, and the targets [t]: the same, masked where a symbol is never missing."""
        from throughtime.data.batch import IGNORE

        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            inputs = [assets.vocabulary.encode(row) for row in self._rows(assets, split)]
            asked = self._asked(assets)
            assets.cache[key] = inputs, [ids.masked_fill(~asked[ids], IGNORE) for ids in inputs]
        found: tuple[list[Tensor], list[Tensor]] = assets.cache[key]
        return found

    def _rows(self, assets: Assets, split: str) -> list[str]:
        """The sentences of a split."""
        if "rows" not in assets.cache or split == "all":
            with nullcontext() if split == "all" else reading_again():
                rows, sources, _, _ = self._read()
            if split == "all":
                return rows
            check_sources(assets, sources)
            assets.cache["rows"] = rows
        found, numbers = assets.cache["rows"], assets.splits.get(split, ())
        if max(numbers, default=0) >= len(found):
            raise RunError(
                f"the split in assets.json is damaged: it has sentence {max(numbers)} of {len(found)}"
            )
        return [found[number] for number in numbers]

    def _read(self) -> tuple[list[str], Any, dict[str, list[int]], list[str]]:
        """All sentences, the files they are from, the numbers of each part, and what the user should know.

        Those of `data` come first, then those of validation and test files.
        """
        from throughtime.data.split import check_disjoint, group_keys, split_examples
        from throughtime.data.text import embedded_text, read_sources

        text, sources = read_sources(self.data) if self.data else (embedded_text(), ())
        rows = self._cut(text)
        if self.limit is not None and self.limit < len(rows):
            chosen = random.Random(f"limit/{self.split_seed}").sample(range(len(rows)), self.limit)
            rows = [rows[number] for number in sorted(chosen)]
        own = [0.0 if isinstance(value, str) else value for value in (self.validation, self.test)]
        split = split_examples(
            len(rows), validation=own[0], test=own[1], seed=self.split_seed, groups=group_keys(rows)
        )
        parts = {part: list(getattr(split, part)) for part in PARTS}
        for part in PARTS[1:]:
            if isinstance(file := getattr(self, part), str):
                other, more = read_sources([file])
                sources = (*sources, *more)
                found = self._cut(other)
                parts[part] = list(range(len(rows), len(rows) + len(found)))
                rows += found
        if not parts["train"]:
            raise InputError(f"expected at least one {self.by} to train on, got none: give more text")
        remarks = check_disjoint(**{part: [rows[number] for number in parts[part]] for part in PARTS})
        return rows, sources, parts, remarks

    def _cut(self, text: str) -> list[str]:
        """The sentences of a text that can be learned from: two symbols or more, one of them a word, none a blank.

        Raises: InputError where there is none.
        """
        from throughtime.data.sentences import BLANK, cut

        glue, rows = (" " if self.tokens == "word" else ""), []
        for sentence in cut(text, self.by):  # before lower case, by which an end is told
            if BLANK.search(sentence):
                continue
            symbols = self._symbols(self._normalized(sentence))
            for start in range(0, len(symbols), self.length):
                part = symbols[start : start + self.length]
                row = glue.join(part)
                if len(part) > 1 and any(map(str.isalnum, row)):
                    rows.append(row)
        if not rows:
            raise InputError(
                f"expected a text with {self.by}s of two {self.unit}s or more, found none: give another text, or another --by"
            )
        return rows


UNKNOWN = 0  # of both kinds of vocabulary
