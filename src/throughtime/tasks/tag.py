"""Tagging: a label for each token of a sentence, named entities or parts of speech."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError, RunError
from throughtime.models.config import LARGEST, ModelConfig
from throughtime.options import option
from throughtime.tasks.files import ExamplesTask, check_part, check_sources, reading_again
from throughtime.tasks.task import Record, cross_entropy, data_option
from throughtime.tasks.word_vectors import WordVectors

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.readers.tagged import Sentence
    from throughtime.data.words import WordTable
    from throughtime.metrics import Metric
    from throughtime.models.tagger import Tagger
    from throughtime.sessions.processor import Processor

PARTS = ("train", "validation", "test")
_model_option = partial(option, panel="Model")


@dataclass(frozen=True)
class TagTask(WordVectors, ExamplesTask):
    """Train a tagger: a label for each token.

    Reads CoNLL columns, CoNLL-U, or JSON lines with spans or tags. Tags such as B-PER and I-PER are spans, whatever scheme they
    are in, and are scored as exact spans; others (parts of speech) as tokens. Equal sentences stay on one side of a split.
    Without --data it learns the role of each name (parameter, local, attribute, call ...) in functions of Python's own standard
    library, those of one module on one side.
    """

    name = "tag"
    shape = "many to many"
    reads = "CoNLL columns, CoNLL-U, JSON lines with spans"
    examples = (
        "throughtime train tag",
        "throughtime train tag --data train.conll --validation dev.conll --test test.conll",
        "throughtime train tag --data train.conllu --label xpos --characters lstm",
        "throughtime train tag --data train.conll --vectors glove.6B.100d.txt",
        "throughtime train tag --data train.conll --no-bidirectional --no-crf --bptt truncated:20",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden": 128, "embedding": 64, "bidirectional": True, "dropout": 0.4, "bptt": "full", "batch": 16, "epochs": 12.0,
        "lr": 3e-3,
    }  # fmt: skip
    without = ("tied", "pooling", "window")
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "conll": (".conll", ".conll2003", ".bio", ".iob", ".iob2", ".bioes", ".annotated"),
        "conllu": (".conllu",),
        "jsonl": (".jsonl", ".ndjson"),
    }

    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the data, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    label: str | None = data_option(
        None, "Column of the tag: in CoNLL its number from 1 (default: the last), in CoNLL-U upos (default), xpos or feats.",
        metavar="N|NAME",
    )  # fmt: skip
    token: int = data_option(1, "Column of the token in CoNLL files.", metavar="N", low=1, high=1000)
    lower: bool = data_option(True, "Look words up in lower case; characters and shapes keep the capitals.")
    min_count: int = data_option(
        2, "Words that occur less often in training are unknown.", metavar="N", low=1
    )
    word_length: int = data_option(
        24, "Characters of a word, its first and last.", metavar="N", low=1, high=1000
    )
    skip_bad: bool = data_option(False, "Leave out sentences that cannot be read, and count them.")
    split_seed: int = data_option(
        0, "Another seed divides the data into other parts.", metavar="N", low=0, high=2**63 - 1
    )
    crf: bool | None = _model_option(
        None, "A CRF scores whole sequences of tags. Default: for spans, not for other tags."
    )
    scheme: str = _model_option(
        "bioes", "How spans are tagged inside: bio or bioes.", metavar="NAME", choices=("bio", "bioes")
    )
    characters: str = _model_option(
        "cnn", "Also read each word's characters: cnn, lstm or none.", metavar="KIND", choices=("cnn", "lstm", "none")
    )  # fmt: skip
    character_size: int = _model_option(32, "Features of a character.", metavar="N", low=1, high=LARGEST)
    character_features: int = _model_option(
        128, "Features of a word that come from its characters.", metavar="N", low=2, high=LARGEST
    )
    word_dropout: float = _model_option(
        0.4, "Probability of reading a word as unknown in training; its characters stay.", metavar="P", low=0, below=1
    )  # fmt: skip

    @property
    def unit(self) -> str:
        return "token"

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.data.readers.spans import broken_tags, scheme_of, span_labels, spans_of
        from throughtime.data.words import WordTable

        assets = Assets()
        rows, assets.sources, parts, remarks = self._read()
        assets.splits, assets.cache["rows"] = parts, rows
        train = [rows[number] for number in parts["train"]]
        found = scheme_of(row.tags for row in train)
        assets.values["spans"] = spans = like.values["spans"] if like else found != "plain"
        if spans and found != "plain":
            if broken := sum(
                broken_tags(row.tags, found) for row in rows if scheme_of([row.tags]) != "plain"
            ):
                remarks.append(
                    f"{broken:,} tags do not follow {found.upper()} and are read as conlleval reads them"
                )
            labels = span_labels({span.label for row in train for span in spans_of(row.tags)}, self.scheme)
        else:
            labels = tuple(sorted({tag for row in train for tag in row.tags if tag}))
        assets.labels = {"tag": like.labels["tag"] if like else labels}
        if len(labels) < 2:
            raise InputError(
                f"expected at least two tags to tell apart, got {len(labels)}: {', '.join(labels)}"
            )
        for part in PARTS:
            self._targets(assets, [rows[number] for number in parts[part]], f"the {part} part")
        if like:
            assets.values |= {name: like.values[name] for name in ("words", "vector_size")}
        else:
            words = {token for row in rows for token in row.tokens}
            kept, size = self.read_vectors(assets, words, remarks)
            table = WordTable.build(
                (row.tokens for row in train), vectors=kept, lower=self.lower, min_count=self.min_count,
                length=self.word_length,
            )  # fmt: skip
            assets.values |= {"words": table.to_values(), "vector_size": size}
        assets.values["remarks"] = remarks
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> Tagger:
        from throughtime.models.build import layers, symbol_embedding
        from throughtime.models.crf import CRF
        from throughtime.models.tagger import Tagger, transitions_allowed
        from throughtime.models.words import CharacterEncoder, WordEncoder

        table, tags, size = self._table(assets), self._tags(assets), assets.values["vector_size"]
        pretrained = characters = crf = None
        if size:
            pretrained = self.pretrained(assets, len(table.vectors), size)
        if self.characters != "none":
            known = len(table.characters) + 2
            characters = CharacterEncoder(
                self.characters, known, self.character_size, self.character_features
            )
        encoder = WordEncoder(
            symbol_embedding(config, len(table.words) + 1), pretrained, characters, word_dropout=self.word_dropout,
            dropout=config.dropout,
        )  # fmt: skip
        recurrent = layers(config, encoder.embedding_dim)
        if self.crf if self.crf is not None else assets.values["spans"]:
            allowed = transitions_allowed(tags, self.scheme) if assets.values["spans"] else None
            crf = CRF(len(tags), allowed)
        return Tagger(encoder, recurrent, config.outputs, len(tags), crf=crf, dropout=config.dropout)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The negative log-likelihood of the tags: of the CRF's whole sequences, else of each token."""
        from throughtime.models.crf import Scored

        if isinstance(outputs, Scored):
            return outputs.loss(batch.targets, batch.lengths)
        return cross_entropy(outputs, batch.targets)

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.tagging import SpanF1, SpanPrecision, SpanRecall, TagAccuracy
        from throughtime.models.crf import best_labels

        tags = self._tags(assets)
        if assets.values["spans"]:
            return [kind(tags, best_labels) for kind in (SpanF1, SpanPrecision, SpanRecall)]
        return [TagAccuracy(tags, best_labels)]

    def flow_loss(self) -> Callable[[Any, Any], Tensor]:
        """The cross-entropy of each token's own logits; of a model with a CRF, of the emissions."""

        def losses(outputs: Any, targets: Tensor) -> Tensor:
            import torch.nn.functional as F

            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            return F.cross_entropy(logits.movedim(-1, 1), targets, ignore_index=-100, reduction="none")

        return losses

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines.tag import span_scores, tag_scores, tagging_baselines

        score = span_scores if assets.values["spans"] else tag_scores
        return tagging_baselines(self._sentences(assets, "train"), self._sentences(assets, split), score)

    def predict(self, model: Any, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The tag of each token; of a text also its tokens, of tags of spans also the spans.

        Each record has "tokens", a list, or "text", which is divided at spaces and punctuation. Spans are in BIO; start and
        end count characters of the text, or tokens where these were given.
        """
        from throughtime.tasks.tag_predict import Predictor

        predictor = Predictor(self, model, assets)
        return (predictor.record(record) for record in records)

    def predict_file(
        self, model: Any, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        from throughtime.tasks.tag_predict import Predictor

        return Predictor(self, model, assets).file(file, out, form, skip_bad)

    def processor(self, model: Any, assets: Assets) -> Processor:
        from throughtime.tasks.tag_predict import TagProcessor

        return TagProcessor(self, assets)

    def describe(self, assets: Assets) -> str:
        source = (
            ", ".join(path.rpartition("/")[2] for path in self.data)
            or "names in functions of Python's standard library"
        )
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        table, tags = self._table(assets), self._tags(assets)
        kind = f"{len(tags)} tags"
        if assets.values["spans"]:
            kind = f"{len({tag[2:] for tag in tags[1:]})} types of spans"
        vectors = f" and {len(table.vectors):,} vectors" if table.vectors else ""
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{source}: {sizes['train']:,} sentences to train on, {sizes['validation']:,} for validation, {sizes['test']:,} for "
            f"test; {kind}; {len(table.words):,} words{vectors}{remarks}"
        )

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        example = "Anna lives in Paris ." if self.data else "return self.limit + len(name)"
        return [
            f'echo "{example}" | throughtime predict {path}',
            f'throughtime influence {path} --prompt "{example}"',
        ]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        table = self._table(assets)
        return [table.decode(row) for row in inputs]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        table = self._table(assets)
        tokens = self.tokens_of(text)
        unknown = dict.fromkeys(token for token in tokens if not table.knows(token))
        return table.encode(tokens)[:, None], list(unknown)

    def tokens_of(self, text: str) -> list[str]:
        """The tokens of a typed text, as the data has them."""
        if not self.data:
            from throughtime.data.inside.roles import python_tokens

            return python_tokens(text)
        from throughtime.data.words import tokenized

        return [token.text for token in tokenized(text)]

    def _table(self, assets: Assets) -> WordTable:
        from throughtime.data.words import WordTable

        if "table" not in assets.cache:
            assets.cache["table"] = WordTable.from_values(assets.values.get("words", {}))
        table: WordTable = assets.cache["table"]
        return table

    def _tags(self, assets: Assets) -> tuple[str, ...]:
        if not assets.labels.get("tag") or not {"spans", "words", "vector_size"} <= set(assets.values):
            raise RunError("the run's assets.json is damaged: it has no tags or no words")
        return assets.labels["tag"]

    def _sentences(self, assets: Assets, split: str) -> list[Sentence]:
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
                f"the split in assets.json is damaged: it has example {max(numbers)} of {len(found)}"
            )
        return [found[number] for number in numbers]

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor]]:
        """Words [t, F] and numbers of the tags [t] of each sentence."""
        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            sentences, table = self._sentences(assets, split), self._table(assets)
            targets = self._targets(assets, sentences, "the data")
            assets.cache[key] = [table.encode(each.tokens) for each in sentences], targets
        found: tuple[list[Tensor], list[Tensor]] = assets.cache[key]
        return found

    def _targets(self, assets: Assets, sentences: Iterable[Sentence], where: str) -> list[Tensor]:
        """The numbers of the tags; -100 for a token that has none.

        Raises: InputError for a tag that the model cannot give.
        """
        import torch

        from throughtime.data.batch import IGNORE
        from throughtime.data.readers.spans import as_scheme

        tags = self._tags(assets) if "words" in assets.values else assets.labels["tag"]
        numbers = {tag: number for number, tag in enumerate(tags)} | {"": IGNORE}
        found = []
        for sentence in sentences:
            own = as_scheme(sentence.tags, self.scheme) if assets.values["spans"] else sentence.tags
            if unknown := next((tag for tag in own if tag not in numbers), None):
                raise InputError(
                    f"{where} has the tag {unknown!r}, which the model cannot give (in: {' '.join(sentence.tokens)[:60]}): give "
                    "training examples of it, or leave such sentences out"
                )
            found.append(torch.tensor([numbers[tag] for tag in own], dtype=torch.int64))
        return found

    def _read(self) -> tuple[list[Sentence], Any, dict[str, list[int]], list[str]]:
        """All sentences, the files they are from, the numbers of each part, and what the user should know.

        Those of `data` come first, then those of validation and test files.
        """
        from throughtime.data.inside.roles import name_roles
        from throughtime.data.readers.tagged import read_tagged
        from throughtime.data.split import check_disjoint, group_keys, split_examples

        read = partial(read_tagged, label=self.label, token=self.token, skip_bad=self.skip_bad)
        if self.data:
            tagged = read(self.data)
            rows, sources, remarks = tagged.sentences, tagged.sources, tagged.remarks
            groups = group_keys([" ".join(row.tokens) for row in rows])
        else:
            roles = name_roles()
            rows, groups, sources, remarks = roles.functions, roles.modules, [roles.source], []
        if self.limit is not None and self.limit < len(rows):
            chosen = sorted(random.Random(f"limit/{self.split_seed}").sample(range(len(rows)), self.limit))
            rows, groups = [rows[number] for number in chosen], [groups[number] for number in chosen]
        validation, test = (0.0 if isinstance(each, str) else each for each in (self.validation, self.test))
        split = split_examples(
            len(rows), validation=validation, test=test, seed=self.split_seed, groups=groups
        )
        parts = {part: list(getattr(split, part)) for part in PARTS}
        for part in PARTS[1:]:
            if isinstance(file := getattr(self, part), str):
                more = read([file])
                parts[part] = list(range(len(rows), len(rows) + len(more.sentences)))
                rows, sources = rows + more.sentences, sources + more.sources
                remarks = remarks + more.remarks
        if self.data:
            texts = {part: [" ".join(rows[number].tokens) for number in parts[part]] for part in PARTS}
            remarks = remarks + check_disjoint(**texts)
        return rows, tuple(sources), parts, remarks
