"""Translation: a sentence in one language, written in another."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.files import check_part, check_sources, full_path, reading_again
from throughtime.tasks.task import Record, data_option, text_of
from throughtime.tasks.writing import WritingTask, reads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.readers.pairs import Pairs
    from throughtime.data.text import Source
    from throughtime.data.tokens import Tokens
    from throughtime.metrics import Metric
    from throughtime.models.encoder_decoder import EncoderDecoder

PARTS = ("train", "validation", "test")
PAIRS = 12_000  # drawn of the locale data
_NO_SPACES = ("zh", "ja", "th", "lo", "km", "my", "bo")  # languages whose words no spaces separate


@dataclass(frozen=True)
class TranslateTask(WritingTask):
    """Train a translator: it reads a sentence and writes it in another language.

    Reads lines SOURCE TAB TARGET, CSV or JSON lines with the columns source and target, or two files aligned by line. Pairs whose
    sources differ only in case, spaces or punctuation stay on one side of a split; all translations of a source are references.
    Without --data it learns to translate dates, durations, quantities, money and lists between two languages of the Unicode
    locale data.
    """

    name = "translate"
    shape = "many to many, unaligned"
    reads = "SOURCE TAB TARGET, CSV, JSON lines, two files aligned by line"
    examples = (
        "throughtime train translate",
        "throughtime train translate --from en --to de",
        "throughtime train translate --data fra.txt --tokens word --hidden 256 --epochs 6",
        "throughtime train translate --data train.en train.fr --validation dev.en,dev.fr --test test.en,test.fr",
        "throughtime train translate --data fra.txt --source 2 --target 1 --attention additive --input-feeding",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 128, "embedding": 64, "bidirectional": True, "dropout": 0.1, "bptt": "full", "batch": 64,
        "epochs": 8.0, "lr": 3e-3,
    }  # fmt: skip
    predict_options = (*WritingTask.predict_options, "n_best")

    data: tuple[str, ...] = data_option(
        (), "Files of pairs, or two files aligned by line; repeat for more. Default: what the locale data gives.",
        metavar="FILE...",
    )  # fmt: skip
    validation: float | str = data_option(
        0.1, "Validation data, not trained on: a fraction of the data, a file, or two aligned files with a comma; 0 for none.",
        metavar="FRACTION|FILE[,FILE]", low=0, below=1, check=check_part,
    )  # fmt: skip
    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the data, a file, or two aligned files with a comma.",
        metavar="FRACTION|FILE[,FILE]", low=0, below=1, check=check_part,
    )  # fmt: skip
    from_: str = data_option(
        "en", "Locale to translate from, without --data: en, de, pt_BR ...", metavar="LOCALE"
    )
    to: str = data_option("fr", "Locale to translate to, without --data.", metavar="LOCALE")
    pairs: int = data_option(
        PAIRS, "Pairs that are drawn, without --data.", metavar="N", low=10, high=10_000_000
    )
    source: str | None = data_option(
        None, "Column of the source, by name or by number from 1. Default: source, or the first of lines with tabs.",
        metavar="NAME",
    )  # fmt: skip
    target: str | None = data_option(
        None, "Column of the target. Default: target, or the second of lines with tabs.", metavar="NAME"
    )
    most_words: int | None = data_option(
        None, "Use only pairs with at most N words, divided by spaces, on both sides.", metavar="N", low=1
    )
    tokens: str | None = data_option(
        None, "Symbols of both sides: word, bpe, char, or space (what spaces separate). Default: bpe for files, char without.",
        metavar="KIND", choices=("word", "bpe", "char", "space"),
    )  # fmt: skip
    vocab_size: int | None = data_option(
        None, "Most symbols of a side. Default: 10,000 words, 2,000 byte pairs, all others.", metavar="N", low=2, high=2**24
    )  # fmt: skip
    min_count: int = data_option(
        2, "Words and characters that occur less often in training are unknown.", metavar="N", low=1
    )
    lower: bool = data_option(False, "Lower case, on both sides.")
    length: int = data_option(
        200, "Symbols of a sentence that are read, its first.", metavar="N", low=1, high=10**6
    )
    skip_bad: bool = data_option(False, "Leave out pairs that cannot be read, and count them.")
    split_seed: int = data_option(
        0, "Another seed divides the data into other parts.", metavar="N", low=0, high=2**63 - 1
    )
    bleu_tokens: str | None = data_option(
        None, "How BLEU divides texts into words: 13a, intl, zh, char or none. Default: 13a; char for languages without spaces.",
        metavar="NAME", choices=("13a", "intl", "zh", "char", "none"),
    )  # fmt: skip
    translated: int = data_option(
        500, "Validation sentences that are translated, greedily, at each evaluation while training; afterwards all are.",
        metavar="N", low=1,
    )  # fmt: skip
    n_best: int = data_option(
        1, "Translations that predict gives for each sentence, at most those of the beam.", metavar="N", low=1, high=1000
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        own = {"from_": "en", "to": "fr", "pairs": PAIRS}
        changed = [name.rstrip("_") for name, default in own.items() if getattr(self, name) != default]
        if self.data and changed:
            raise InputError(f"{changed[0]} is of the data without files, and data names some: leave one out")
        if not self.data and (self.source is not None or self.target is not None):
            raise InputError(
                "source and target name columns of a file: give one with data, or leave them out"
            )
        if self.n_best > self.beam:
            raise InputError(
                f"n_best must be at most beam, got n_best {self.n_best} and beam {self.beam}: raise beam"
            )

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.source if self.source is not None and not self.source.isdigit() else "source",)

    @property
    def unit(self) -> str:
        return "symbol"

    @property
    def title(self) -> str:
        return super().title if self.data else f"{self.from_}-{self.to}"

    def with_full_paths(self) -> Self:
        parts: dict[str, Any] = {
            name: ",".join(map(full_path, _files(value)))
            for name in PARTS[1:]
            if isinstance(value := getattr(self, name), str)
        }
        return replace(self, data=tuple(map(full_path, self.data)), **parts)

    def on(self, files: tuple[str, ...]) -> Self:
        return replace(self.moved(files), validation=0.0, test=0.0, limit=None, most_words=None)

    def moved(self, files: tuple[str, ...]) -> Self:
        # In one step: what says how the locale data is drawn is refused beside files.
        return replace(
            self, data=tuple(map(full_path, files)), bleu_tokens=self._bleu_tokens, from_="en", to="fr", pairs=PAIRS
        )  # fmt: skip

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.data.tokens import Tokens

        assets = Assets()
        rows, assets.sources, parts, remarks = self._read()
        assets.splits, assets.cache["rows"], assets.values["remarks"] = parts, rows, remarks
        assets.values |= {"ratio": 1.0, "several": False}
        train = [rows[number] for number in parts["train"]]
        kind = self.tokens or ("bpe" if self.data else "char")
        for place, side in enumerate(("source", "target")):
            built = like and like.vocabularies[side]
            assets.vocabularies[side] = built or Tokens.build(
                kind, (row[place] for row in train), size=self.vocab_size, min_count=self.min_count, lower=self.lower
            ).vocabulary  # fmt: skip
        longest, ratio = 0, 1.0
        for context, outputs in zip(
            self._context(assets, "train"), self._encoded(assets, "train")[1], strict=True
        ):
            longest += self.length in (len(context) - 1, len(outputs) - 1)  # without the end
            ratio = max(ratio, (len(outputs) - 11) / len(context))
        assets.values["several"] = any(
            len(each) > 1 for part in PARTS[1:] for each in self._references(assets, part).values()
        )
        # A translation is at most so many times as long as its source, and ten symbols: so are all of the training part.
        assets.values["ratio"] = round(ratio + 0.0005, 3)
        if longest:
            remarks.append(
                f"{longest:,} training pairs have {self.length} symbols or more on a side and are cut there"
            )
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> EncoderDecoder:
        from throughtime.models.build import encoder_decoder, sequence_encoder, symbol_embedding

        source, target = self.tokens_of(assets)
        encoder = sequence_encoder(config, symbol_embedding(config, len(source)))
        embedding = symbol_embedding(config, len(target))
        return encoder_decoder(config, encoder, embedding, len(target), **self.decoder_options())

    def batches(self, assets: Assets, **settings: Any) -> Any:
        assets.cache["training"] = True  # until the end of it a sample of the validation part is translated
        return super().batches(assets, **settings)

    def after_training(self, model: nn.Module, assets: Assets) -> bool:
        """Measure with the task's own beam search over all sentences from now on; nothing in the model changes."""
        assets.cache.pop("training", None)
        return True

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        """Teacher-forced pairs; the first of each source also carries the source and all its references as `Texts`."""
        from throughtime.data.examples import evaluation_batches
        from throughtime.data.tokens import Texts, pack

        inputs, targets = self._encoded(assets, split)
        if not inputs:
            return None
        references = self._references(assets, split)
        first: dict[str, int] = {}
        for number, (source, _) in enumerate(self._rows(assets, split)):
            first.setdefault(source, number)
        chosen = list(first)
        if assets.cache.get("training") and split == "validation" and self.translated < len(chosen):
            chosen = random.Random("translated").sample(chosen, self.translated)
        texts = {first[source]: [source, *references[source]] for source in chosen}

        def with_texts(each: Batch, numbers: Tensor) -> Batch:
            packed = pack([texts.get(number, ()) for number in numbers.tolist()])
            return each._replace(context=Texts(each.context.values, each.context.lengths, packed))

        found = evaluation_batches(inputs, targets, batch, self._context(assets, split))
        return (with_texts(each, numbers) for each, numbers in found)

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.translation import Translations, translation_metrics
        from throughtime.tasks.translating import Translator

        beam = 1 if assets.cache.get("training") else self.beam

        def write(model: Any, batch: Batch) -> Iterator[tuple[str, list[str]]]:
            rows = [(source, others) for source, *others in filter(None, batch.context.unpack())]
            found = Translator(self, model, assets)([source for source, _ in rows], beam=beam)
            return ((best[0].text, others) for best, (_, others) in zip(found, rows, strict=True))

        how = f"by beam search, {beam} hypotheses" if beam > 1 else "greedily"
        translations = Translations(write, f"translated {how}")
        return [*translation_metrics(translations, **self._scoring(assets))]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.metrics.translation import translation_metrics
        from throughtime.tasks.baselines.translate import nearest_translations, scores

        references = self._references(assets, split)

        def measured(texts: list[str]) -> dict[str, float]:
            return scores(translation_metrics(**self._scoring(assets)), texts, list(references.values()))

        found: dict[str, dict[str, float] | str] = {"source, copied": measured(list(references))}
        sources, targets = zip(*self._rows(assets, "train"), strict=True)
        try:
            found["nearest training sentence"] = measured(
                nearest_translations(sources, targets, list(references))
            )
        except InputError as error:
            found["nearest training sentence"] = str(error)
        return found

    def predict(self, model: Any, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The best translation of each sentence and its score; with n_best above 1 also the others."""
        from throughtime.tasks.translating import Translator

        translator = Translator(self, model, assets)
        return (translator.record(text_of(record, self.columns[0])) for record in records)

    def show(self, model: Any, assets: Assets, record: Record, picture: str | None = None) -> str:
        from throughtime.tasks.translating import Translator

        return Translator(self, model, assets).show(text_of(record, self.columns[0]), picture)

    def describe(self, assets: Assets) -> str:
        source, target = self.tokens_of(assets)
        name = ", ".join(path.rpartition("/")[2] for path in self.data) or (
            f"Unicode locale data, {self.from_} to {self.to}"
        )
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{name}: {sizes['train']:,} pairs to train on, {sizes['validation']:,} for validation, {sizes['test']:,} for test; "
            f"vocabularies ({source.vocabulary.kind}) of {len(source):,} and {len(target):,}{remarks}"
        )

    def remarks(self, config: ModelConfig) -> list[str]:
        from throughtime.metrics.translation import bleu_missing

        return [*super().remarks(config), *filter(None, [bleu_missing()])]

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        rows = self._rows(assets, "validation") or self._rows(assets, "train")
        example = shlex.quote(min(rows[:200], key=lambda row: abs(len(row[0]) - 20))[0])
        found = [f"echo {example} | throughtime predict {path}"]
        if self.attention != "none":
            found.append(f"echo {example} | throughtime predict {path} --show")
        return found

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        _, target = self.tokens_of(assets)
        return [target.name(int(number)) for number in inputs]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        raise InputError(
            "--prompt is what a model reads and goes on from, and a translator writes from a source: leave it out"
        )

    def tokens_of(self, assets: Assets) -> tuple[Tokens, Tokens]:
        """The symbols of source and target."""
        from throughtime.data.tokens import Tokens

        if set(assets.vocabularies) != {"source", "target"} or "ratio" not in assets.values:
            raise RunError("the run's assets.json is damaged: it lacks a vocabulary or the ratio of lengths")
        source, target = (Tokens(assets.vocabularies[side], self.lower) for side in ("source", "target"))
        return source, target

    def encode_source(self, tokens: Tokens, sentence: str) -> Tensor:
        """What the encoder reads: the symbols of a sentence and their end, [s]."""
        import torch

        return torch.tensor([*tokens.encode(sentence)[: self.length], tokens.end])

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor]]:
        return self._all(assets, split)[:2]

    def _context(self, assets: Assets, split: str) -> list[Tensor]:
        return self._all(assets, split)[2]

    def _all(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """What the decoder reads, its targets, and the sources of a split, in the order of its pairs."""
        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            source, target = self.tokens_of(assets)
            rows = self._rows(assets, split)
            both = [reads(target.encode(text)[: self.length], target.start, target.end) for _, text in rows]
            known: dict[str, Tensor] = {}  # a source that has several translations is encoded once
            for text, _ in rows:
                if text not in known:
                    known[text] = self.encode_source(source, text)
            assets.cache[key] = (
                [inputs for inputs, _ in both], [targets for _, targets in both], [known[text] for text, _ in rows],
            )  # fmt: skip
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = assets.cache[key]
        return found

    def _rows(self, assets: Assets, split: str) -> list[tuple[str, str]]:
        """The pairs of a split."""
        if "rows" not in assets.cache or split == "all":
            with nullcontext() if split == "all" else reading_again():
                rows, sources, _, _ = self._read()
            if split == "all":
                return rows
            check_sources(assets, sources)
            assets.cache["rows"] = rows
        found, numbers = assets.cache["rows"], assets.splits.get(split, ())
        if max(numbers, default=0) >= len(found):
            raise RunError(f"the split in assets.json is damaged: it has pair {max(numbers)} of {len(found)}")
        return [found[number] for number in numbers]

    def _references(self, assets: Assets, split: str) -> dict[str, list[str]]:
        """The different sources of a split, in order, each with all its translations."""
        found: dict[str, list[str]] = {}
        for source, target in self._rows(assets, split):
            found.setdefault(source, []).append(target)
        return found

    def _scoring(self, assets: Assets) -> dict[str, Any]:
        """How the metrics count."""
        return {"lower": self.lower, "tokens": self._bleu_tokens, "several": assets.values["several"]}

    @property
    def _bleu_tokens(self) -> str:
        language = "" if self.data else re.split("[_-]", self.to)[0]
        return self.bleu_tokens or ("char" if language in _NO_SPACES else "13a")

    def _read(self) -> tuple[list[tuple[str, str]], tuple[Source, ...], dict[str, list[int]], list[str]]:
        """All pairs, the files they are from, the numbers of each part, and what the user should know.

        Those of `data` come first, then those of validation and test files.
        """
        from throughtime.data.inside.locales import locale_pairs
        from throughtime.data.readers.pairs import read_pairs
        from throughtime.data.split import check_disjoint, split_examples

        def read(files: Sequence[str]) -> Pairs:
            return read_pairs(files, self.source, self.target, skip_bad=self.skip_bad)

        if self.data:
            found = read(self.data)
            rows, sources, remarks = self._usable(found), found.files, found.remarks
            if not rows:
                raise InputError(
                    f"no pair has at most {self.most_words} words on both sides: raise most_words"
                )
            groups = _groups([source for source, _ in rows])
        else:
            drawn = locale_pairs(self.from_, self.to, self.pairs)
            rows, groups = list(zip(drawn.sources, drawn.targets, strict=True)), drawn.values
            sources, remarks = (drawn.source,), []
        if self.limit is not None and self.limit < len(rows):
            chosen = sorted(random.Random(f"limit/{self.split_seed}").sample(range(len(rows)), self.limit))
            rows, groups = [rows[number] for number in chosen], [groups[number] for number in chosen]
        validation, test = (0.0 if isinstance(each, str) else each for each in (self.validation, self.test))
        split = split_examples(
            len(rows), validation=validation, test=test, seed=self.split_seed, groups=groups
        )
        parts = {part: list(getattr(split, part)) for part in PARTS}
        for part in PARTS[1:]:
            if isinstance(value := getattr(self, part), str):
                more = read(_files(value))
                own = self._usable(more)
                parts[part] = list(range(len(rows), len(rows) + len(own)))
                rows, sources = rows + own, sources + more.files
                remarks = remarks + more.remarks
        if self.data:
            texts = {part: [rows[number][0] for number in parts[part]] for part in PARTS}
            remarks = remarks + check_disjoint(**texts)
        return rows, sources, parts, remarks

    def _usable(self, found: Pairs) -> list[tuple[str, str]]:
        """The pairs, normalized, without those that have too many words."""
        from throughtime.data.tokens import normalized

        both = zip(found.sources, found.targets, strict=True)
        rows = [(normalized(a, self.lower), normalized(b, self.lower)) for a, b in both]
        most = self.most_words
        return (
            rows if most is None else [row for row in rows if max(len(side.split()) for side in row) <= most]
        )


def _files(value: str) -> tuple[str, ...]:
    """The files of a part: one, or two aligned ones with a comma between."""
    return (value,) if "," not in value or Path(value).exists() else tuple(value.split(","))


def _groups(sources: Sequence[str]) -> list[str]:
    """A key for each source; those that differ only in case, spaces or punctuation have the same one."""
    from throughtime.data.split import group_keys

    return [" ".join(re.findall(r"\w+", key)) or key for key in group_keys(sources)]
