"""A language model of characters, words or byte pairs: each symbol of a text is predicted from those before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from throughtime.errors import InputError
from throughtime.models.config import ModelConfig
from throughtime.tasks.files import FileTask, check_sources, reading_again
from throughtime.tasks.task import Record, cross_entropy, data_option, run_one, text_of

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.streams import Streams
    from throughtime.metrics import Metric
    from throughtime.models.many_to_many import ManyToMany
    from throughtime.sessions.processor import Processor

TOKENS = ("char", "word", "bpe", "space")
NORMALIZE = ("none", "lower", "letters")
SAMPLINGS = ("sequential", "random")
_NGRAM = {"char": 6, "word": 3, "space": 3, "bpe": 4}  # orders of the strong baseline


@dataclass(frozen=True)
class TextTask(FileTask):
    """Train a language model on text: it learns to predict the next character, word or byte pair.

    Any UTF-8 text will do. The vocabulary is built from all of `data`, its validation part too: a loss is then over the same
    symbols in both parts, and no character is unknown. Splits are by position: neighbouring windows of a text share words.
    """

    name = "text"
    shape = "many to many"
    reads = "plain text"
    examples = (
        "throughtime train text --data book.txt",
        "throughtime train text --data book.txt --cell gru --hidden 256 --minutes 3",
        "throughtime train text a.txt b.txt --tokens bpe --layers 2 --dropout 0.2",
        "throughtime train text --data book.txt --bptt randomized:35 --clip value:0.1",
        "throughtime train text --resume --out runs/book",
    )
    without = ("pooling",)
    stream = True

    tokens: str = data_option(
        "char", "char, word, bpe, or space: words between spaces, <eos> at line ends (PTB, WikiText).", metavar="KIND",
        choices=TOKENS,
    )  # fmt: skip
    vocab_size: int | None = data_option(
        None, "Most symbols, also of characters; the rest is unknown. Default: all characters, 10,000 words, 2,000 byte pairs.",
        metavar="N", low=1, high=2**24,
    )  # fmt: skip
    normalize: str = data_option(
        "none", "none, lower, or letters (and single spaces).", metavar="HOW", choices=NORMALIZE
    )
    sampling: str = data_option(
        "sequential",
        "sequential: the state is carried on; random: windows are shuffled.",
        metavar="HOW",
        choices=SAMPLINGS,
    )

    @property
    def unit(self) -> str:
        return {"char": "character", "bpe": "token"}.get(self.tokens, "word")

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data import Assets, Vocabulary

        assets = Assets()
        parts, sources = self._read()
        assets.sources = sources
        vocabulary = like.vocabulary if like else Vocabulary.build(self.tokens, parts["all"], self.vocab_size)
        assets.vocabularies = {"symbols": vocabulary}
        assets.cache["parts"] = parts
        for split in ("validation", "test"):
            fraction = getattr(self, split)
            if fraction and len(self.ids(assets, split)) < 2:
                part = (
                    fraction
                    if isinstance(fraction, str)
                    else f"{fraction} of {len(parts['all']):,} characters"
                )
                raise InputError(
                    f"the text is too short: its {split} part, {part}, must be at "
                    f"least 2 {self.unit}s, got {len(self.ids(assets, split))}: give more text, or {split} = 0"
                )
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> ManyToMany:
        from throughtime.models.build import many_to_many, symbol_embedding

        size = len(assets.vocabulary)
        return many_to_many(config, symbol_embedding(config, size), size)

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Streams:
        from throughtime.data import Streams

        ids = self.ids(assets, "train")
        return Streams(ids, steps, batch, sampling=self.sampling, seed=seed, rank=rank, world=world)

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        """Each symbol of the split but the first is a target once."""
        from throughtime.data import evaluation_windows

        if split != "all" and not getattr(self, split, True):
            return None
        return evaluation_windows(self.ids(assets, split), steps, batch)

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.loss import BitsPerCharacter, Perplexity

        found: list[Metric] = [BitsPerCharacter(assets.vocabulary.characters()), Perplexity()]
        return found if self.tokens == "char" else found[::-1]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines.texts import ngram_loss, unigram_loss

        train, test, size = self.ids(assets, "train"), self.ids(assets, split), len(assets.vocabulary)
        order = _NGRAM[self.tokens]
        return {
            "symbol frequencies": self._numbers(assets, unigram_loss(train, test, size), test),
            f"{order}-gram, Kneser-Ney": self._numbers(assets, ngram_loss(train, test, size, order), test),
        }

    def predict(self, model: Any, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """How well each text is predicted: loss in nats per symbol, perplexity, and the likeliest next symbol."""
        from throughtime.data.text import normalized

        for record in records:
            ids = assets.vocabulary.encode(normalized(text_of(record, "text"), self.normalize))
            found: Record = {"symbols": len(ids), "loss": None, "perplexity": None, "next": None}
            if len(ids) > 0:
                logits = run_one(model, ids)
                found["next"] = assets.vocabulary.decode([int(logits[-1].argmax())])
            if len(ids) > 1:
                found["loss"] = float(cross_entropy(logits[:-1], ids[1:])) / (len(ids) - 1)
                found["perplexity"] = math.exp(min(found["loss"], 700))
            yield found

    def processor(self, model: Any, assets: Assets) -> Processor:
        from throughtime.tasks.text_processor import TextProcessor

        return TextProcessor(assets.vocabulary, self.normalize)

    def describe(self, assets: Assets) -> str:
        source = ", ".join(path.rpartition("/")[2] for path in self.data) or "the Python language reference"
        held_out = [
            f"{len(self.ids(assets, split)):,} for {split}"
            for split in ("validation", "test")
            if getattr(self, split)
        ]
        return (
            f"{source}: {len(self.ids(assets, 'train')):,} {self.unit}s to train on, {', '.join(held_out) or 'none held out'}; "
            f"vocabulary of {len(assets.vocabulary):,}"
        )

    def describe_loss(self, loss: float) -> str:
        if self.tokens == "char":
            return f"loss {loss:.3f}, {loss / math.log(2):.3f} bits per character"
        return f"loss {loss:.3f}, perplexity {math.exp(min(loss, 700)):.2f}"

    def remarks(self, config: ModelConfig) -> list[str]:
        if not config.bidirectional:
            return []
        return [
            "a bidirectional model reads the symbol that it is to predict, at the next step of its backward direction: its "
            "loss says nothing of how well it predicts, and it cannot generate; leave bidirectional out for that"
        ]

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        evaluate = f"throughtime evaluate {path} --data FILE"
        return (
            [evaluate]
            if config.bidirectional
            else [f"throughtime generate {path}{self._prompt(assets)}", evaluate]
        )

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        return [assets.vocabulary.decode([int(number)]) for number in inputs]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        from throughtime.data.text import normalized

        text = normalized(text, self.normalize)
        return assets.vocabulary.encode(text)[:, None], list(assets.vocabulary.unknown_symbols(text))

    def ids(self, assets: Assets, split: str) -> Tensor:
        """The symbols of a split, [N] int64, encoded when first asked for: evaluating a part encodes that part alone."""
        key = f"ids/{self.data}/{split}"
        if key not in assets.cache:
            if "parts" not in assets.cache or split == "all":
                with nullcontext() if split == "all" else reading_again():
                    parts, sources = self._read()
                if split != "all":
                    check_sources(assets, sources)
                    assets.cache["parts"] = parts
            text = parts["all"] if split == "all" else assets.cache["parts"].get(split, "")
            assets.cache[key] = assets.vocabulary.encode(text)
        ids: Tensor = assets.cache[key]
        return ids

    def _read(self) -> tuple[dict[str, str], Any]:
        """The texts by split ("all" is all of `data`), and the files that they are from."""
        from throughtime.data.text import embedded_text, normalized, read_sources

        text, sources = read_sources(self.data) if self.data else (embedded_text(), ())
        text = normalized(text, self.normalize)[: self.limit]
        if not text:
            raise InputError(
                f"nothing is left of the text with normalize = {self.normalize}: give another text"
            )
        parts: dict[str, str] = {}
        end = len(text)
        for split in ("test", "validation"):
            part = getattr(self, split)
            if isinstance(part, str):
                other, more = read_sources([part])
                sources = (*sources, *more)
                parts[split] = normalized(other, self.normalize)
            elif part:
                start = self._cut(text, end - math.ceil(len(text) * part - 1e-9), end)
                parts[split] = text[start:end]
                end = start
        return {"all": text, "train": text[:end], **parts}, sources

    def _cut(self, text: str, place: int, end: int) -> int:
        """A place near `place` at which text can be cut: for characters any, else the next line or word."""
        if self.tokens == "char":
            return max(place, 0)
        line = text.find("\n", max(place, 0), end) + 1
        if line and line - place < 10_000:
            return line
        space = text.find(" ", max(place, 0), end)
        return space if space >= 0 and self.tokens != "space" else max(place, 0)

    def _numbers(self, assets: Assets, loss: float, ids: Tensor) -> dict[str, float]:
        """A baseline's loss as the task's metrics."""
        bits = loss * (len(ids) - 1) / math.log(2)
        characters = max(1.0, float(assets.vocabulary.characters()[ids[1:]].sum()))
        return {"bits_per_character": bits / characters, "perplexity": math.exp(min(loss, 700)), "loss": loss}

    def _prompt(self, assets: Assets) -> str:
        """An option with a prompt that the vocabulary can spell, or nothing."""
        import shlex

        vocabulary = assets.vocabulary
        known = [prompt for prompt in ("The ", "the ") if not vocabulary.unknown_symbols(prompt)]
        if known:
            return f' --prompt "{known[0]}"'
        line = max(
            vocabulary.decode(self.ids(assets, "train")[:200]).splitlines(), key=len, default=""
        ).strip()
        start = " ".join(line.split()[:2])[:16]
        usable = start and start.isprintable() and not vocabulary.unknown_symbols(start)
        return f" --prompt {shlex.quote(start)}" if usable else ""
