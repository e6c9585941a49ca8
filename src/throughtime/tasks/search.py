"""Search: find the passage for a query, with two many-to-one encoders."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.files import FileTask, check_part, check_sources, reading_again
from throughtime.tasks.task import Record, cross_entropy, data_option, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.readers.passages import Passage
    from throughtime.data.readers.query_pairs import QueryPairs
    from throughtime.data.text import Source
    from throughtime.metrics import Metric
    from throughtime.tasks.search_index import Index

PARTS = ("train", "validation", "test")
FOUND = 5  # passages that `predict` gives
PAIRS = 6_000  # symbols of a vocabulary of byte pairs: most words whole, rare ones in a few parts


class Collection(NamedTuple):
    """All pairs that were read, and the different passages among them."""

    queries: tuple[str, ...]
    correct: tuple[int, ...]  # the number of each query's passage
    passages: tuple[Passage, ...]
    sources: tuple[Source, ...]
    sizes: tuple[int, ...]  # pairs of the data, of a validation file, of a test file
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class SearchTask(FileTask):
    """Train a search: for a query, find the passage that answers it.

    Reads CSV, TSV or JSON lines with a query and a passage. Each training batch is pairs, in which the passages of the others are
    wrong answers. Evaluation ranks all passages of the data for each query. Pairs with the same query, or nearly the same
    passage, stay on one side of a split. Without --data it learns to find functions of Python's standard library by what they do.
    """

    name = "search"
    shape = "two many to one"
    reads = "CSV, TSV, JSON lines of pairs; folders of text to search"
    examples = (
        "throughtime train search",
        "throughtime train search --data faq.csv --query question --passage answer",
        "throughtime train search --data pairs.jsonl --tokens word --cell gru --pooling mean",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden": 128, "embedding": 256, "pooling": "attention", "bptt": "full", "batch": 128, "epochs": 8.0,
        "dropout": 0.2, "lr": 3e-3,
    }  # fmt: skip
    without = ("tied", "window")

    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the data, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    query: str | None = data_option(None, "Column of the query. Default: query or question.", metavar="NAME")
    passage: str | None = data_option(
        None, "Column of the passage. Default: passage, document, answer or code.", metavar="NAME"
    )
    place: str | None = data_option(
        None, "Column that names a passage, such as an id. Default: the file and the row.", metavar="NAME"
    )
    tokens: str = data_option("bpe", "char, word or bpe.", metavar="KIND", choices=("char", "word", "bpe"))
    vocab_size: int | None = data_option(
        None, "Most symbols; the rest is unknown. Default: all characters, 10,000 words, 6,000 byte pairs.", metavar="N", low=2,
        high=2**24,
    )  # fmt: skip
    raw: bool = data_option(
        False, "Read texts as they are. Default: lower case, identifiers split into words, no punctuation."
    )
    length: int = data_option(200, "Symbols read of a text, its first.", metavar="N", low=1, high=10**6)
    vector: int = data_option(256, "Numbers in a text's vector.", metavar="N", low=1, high=65_536)
    separate: bool = data_option(
        False, "Queries and passages each have layers of their own; the embedding is shared."
    )
    states_only: bool = data_option(
        False, "A text's vector comes from the layers' states alone, not from its symbols beside them."
    )
    skip_bad: bool = data_option(False, "Leave out rows that cannot be read, and count them.")
    split_seed: int = data_option(
        0, "Another seed divides the data into other parts.", metavar="N", low=0, high=2**63 - 1
    )

    @property
    def unit(self) -> str:
        return "text"

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.query or "query",)

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.data.readers.query_pairs import group_pairs
        from throughtime.data.split import check_disjoint, split_examples
        from throughtime.data.vocabulary import Vocabulary

        found = self._read()
        own = found.sizes[0]
        groups = group_pairs(found.queries, [found.passages[number].text for number in found.correct])
        validation, test = (
            0.0 if isinstance(value, str) else value for value in (self.validation, self.test)
        )
        split = split_examples(
            own, validation=validation, test=test, seed=self.split_seed, groups=groups[:own]
        )
        parts = {part: list(getattr(split, part)) for part in PARTS}
        start = own
        for part, size in zip(PARTS[1:], found.sizes[1:], strict=True):
            if size:
                parts[part] = list(range(start, start + size))
                start += size
        assets = Assets(splits=parts, sources=found.sources)
        shared = check_disjoint(**{part: [found.queries[number] for number in parts[part]] for part in PARTS})
        assets.values = {"remarks": [*found.remarks, *shared], "passages": len(found.passages)}
        assets.cache |= {"collection": found, "groups": groups}
        # All passages are known before any query is asked: what is held out is the queries, and which passage answers them.
        texts = [found.queries[number] for number in parts["train"]] + [each.text for each in found.passages]
        text = "\n".join(map(self._normalized, texts))
        most = self.vocab_size or (PAIRS if self.tokens == "bpe" else None)
        vocabulary = like.vocabulary if like else Vocabulary.build(self.tokens, text, most)
        assets.vocabularies = {"symbols": vocabulary}
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.dual_encoder import dual_encoder

        return dual_encoder(
            config, len(assets.vocabulary), self.vector, separate=self.separate, states_only=self.states_only
        )

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> QueryPairs:
        import torch

        from throughtime.data.readers.query_pairs import QueryPairs, group_pairs

        found = self._collection(assets)
        queries, passages = self._encoded(assets)
        if "groups" not in assets.cache:
            texts = [found.passages[number].text for number in found.correct]
            assets.cache["groups"] = group_pairs(found.queries, texts)
        train = self._numbers(assets, "train", found)
        return QueryPairs(
            [queries[number] for number in train],
            [passages[found.correct[number]] for number in train],
            torch.tensor([assets.cache["groups"][number] for number in train]),
            batch,
            seed=seed,
            rank=rank,
            world=world,
        )

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        import torch

        from throughtime.data.readers.query_pairs import candidate_batches

        found = self._read() if split == "all" else self._collection(assets)
        numbers = range(len(found.queries)) if split == "all" else self._numbers(assets, split, found)
        if not numbers:
            return None
        if split == "all":
            queries = [self._encode(assets, text) for text in found.queries]
            passages = [self._encode(assets, each.text) for each in found.passages]
        else:
            queries, passages = self._encoded(assets)
        correct = torch.tensor([found.correct[number] for number in numbers])
        return candidate_batches(passages, [queries[number] for number in numbers], correct, batch)

    def flow_batches(self, assets: Assets, split: str, *, steps: int, batch: int) -> Iterator[Batch] | None:
        """Pairs, as in training, two rows each."""
        import torch

        from throughtime.data.readers.query_pairs import pair_batch

        found = self._read() if split == "all" else self._collection(assets)
        numbers = range(len(found.queries)) if split == "all" else self._numbers(assets, split, found)
        texts = [(found.queries[n], found.passages[found.correct[n]].text) for n in numbers]
        size = max(2, batch // 2)
        if len(texts) < size:
            return None
        ids = [[self._encode(assets, text) for text in each] for each in zip(*texts[:size], strict=True)]
        return iter([pair_batch(ids[0], ids[1], torch.arange(size))])

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Of pairs: for each query the cross-entropy of its passage among those of the batch, and the same for each passage.

        Pairs of one group are left out of each other's sums. Of queries alone: of the passage among all that were read before.
        Source: Oord, Li & Vinyals 2018, arXiv 1807.03748; both ways as in Radford et al. 2021, arXiv 2103.00020.
        """
        if batch.context is None or not bool(batch.context.any()):
            return cross_entropy(outputs, batch.targets)
        if not len(outputs):
            nothing: Tensor = outputs.sum()  # of passages alone
            return nothing
        losses: Tensor = pair_losses(outputs, batch.targets)
        return losses.sum()

    def flow_loss(self) -> Any:
        return pair_losses

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.ranking import MRR, Recall

        return [MRR(), Recall(1), Recall(10), Recall(100)]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines.search import bm25, random_order, tfidf_cosine

        found = self._collection(assets)
        numbers = self._numbers(assets, split, found)
        queries, correct = [found.queries[n] for n in numbers], [found.correct[n] for n in numbers]
        texts = [each.text for each in found.passages]
        results: dict[str, dict[str, float] | str] = {"random order": random_order(len(texts))}
        for name, baseline in (("TF-IDF cosine", tfidf_cosine), ("BM25", bm25)):
            try:
                results[name] = baseline(queries, texts, correct)
            except InputError as error:  # its library is not installed
                results[name] = str(error)
        return results

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The passages that fit a query best among those of the run's data: the best one, and the next four."""
        index = self.index(model, assets)
        for record in records:
            best, *others = [
                {"place": hit.passage.place, "score": round(hit.score, 4), "passage": hit.passage.title}
                for hit in index.search(text_of(record, self.columns[0]), FOUND)
            ]
            yield {**best, "next": others}

    def index(self, model: nn.Module, assets: Assets, where: str | Path | None = None) -> Index:
        """The passages of the run's data, or those of a folder or a file, ready to be searched.

        Vectors are kept in the run, in its folder `index`, so that they are computed once; of a folder that has changed, those of
        new passages are. An index of the run's data is complete in the run: the data may be moved afterwards.
        Args: where: see `throughtime.data.readers.passages.read_passages`.
        Raises: InputError for passages that cannot be read.
        """
        from throughtime.data.readers.passages import read_passages
        from throughtime.tasks.search_index import Index, Store, fingerprint, vectors_of

        path = None if where is None else Path(where).resolve()
        key = f"index/{path}"
        if path is None and key in assets.cache and assets.cache[key][0] is model:
            found: Index = assets.cache[key][1]
            return found
        store, before = None, None
        if assets.folder is not None:
            name = "run" if path is None else hashlib.sha256(str(path).encode()).hexdigest()[:16]
            store = Store(assets.folder / "index", name, fingerprint(model))
            before = store.load()
        if path is not None:
            passages, remarks = read_passages(path, self.passage or "passage")
        elif before is not None:
            passages, remarks = before[0], []
        else:
            passages, remarks = list(self._collection(assets).passages), []
        known = {each.text: vector for each, vector in zip(*before, strict=True)} if before else {}
        vectors = vectors_of(passages, lambda texts: self.encode(model, assets, texts, passages=True), known)
        if store is not None and (before is None or before[0] != passages):
            try:
                store.save(passages, vectors)
            except RunError as error:
                remarks.append(f"the index is not kept: {error}")
        found = Index(passages, vectors, lambda texts: self.encode(model, assets, texts), remarks)
        if path is None:
            assets.cache[key] = (model, found)
        return found

    def encode(
        self,
        model: nn.Module,
        assets: Assets,
        texts: Sequence[str],
        *,
        passages: bool = False,
        batch: int = 128,
    ) -> Tensor:
        """Unit vectors [N, D] of queries, or of passages, float32 on the CPU."""
        import torch

        from throughtime.data.examples import evaluation_batches
        from throughtime.layers.eval_mode import evaluating

        dual: Any = model
        device = next(model.parameters()).device
        vectors = torch.zeros(len(texts), self.vector)
        ids = [self._encode(assets, text) for text in texts]
        with evaluating(model), torch.inference_mode():
            for each, numbers in evaluation_batches(ids, None, batch) if ids else ():
                run = dual.encode_passages if passages else dual.encode
                vectors[numbers] = run(each.inputs.to(device), each.lengths).float().cpu()
        return vectors

    def describe(self, assets: Assets) -> str:
        source = (
            ", ".join(path.rpartition("/")[2] for path in self.data)
            or "functions of Python's standard library"
        )
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{source}: {sizes['train']:,} queries to train on, {sizes['validation']:,} for validation, {sizes['test']:,} for "
            f"test; {assets.values.get('passages', 0):,} passages to search; vocabulary of {len(assets.vocabulary):,}{remarks}"
        )

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        return [f"throughtime search {path} QUERY", f"throughtime search {path} QUERY --in FOLDER"]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        return [assets.vocabulary.decode([int(number)]).strip() for number in inputs]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        return self._encode(assets, text)[:, None], list(
            assets.vocabulary.unknown_symbols(self._normalized(text))
        )

    def _normalized(self, text: str) -> str:
        from throughtime.data.readers.passages import plain_words

        # Each word with a space before it: at the beginning of a text it is the same symbol as elsewhere.
        return text if self.raw else " " + (plain_words(text) or text)

    def _encode(self, assets: Assets, text: str) -> Tensor:
        ids = assets.vocabulary.encode(self._normalized(text))[: self.length]
        return ids if len(ids) else ids.new_zeros(1)

    def _encoded(self, assets: Assets) -> tuple[list[Tensor], list[Tensor]]:
        """Ids [t] of each query and of each passage of the run's data."""
        if "encoded" not in assets.cache:
            found = self._collection(assets)
            assets.cache["encoded"] = (
                [self._encode(assets, text) for text in found.queries],
                [self._encode(assets, each.text) for each in found.passages],
            )
        both: tuple[list[Tensor], list[Tensor]] = assets.cache["encoded"]
        return both

    def _numbers(self, assets: Assets, split: str, found: Collection) -> list[int]:
        numbers = assets.splits.get(split, [])
        if max(numbers, default=0) >= len(found.queries):
            raise RunError(
                f"the split in assets.json is damaged: it has example {max(numbers)} of {len(found.queries)}"
            )
        return numbers

    def _collection(self, assets: Assets) -> Collection:
        """The run's own data, read again where it was not read in this process."""
        if "collection" not in assets.cache:
            with reading_again():
                found = self._read()
            check_sources(assets, found.sources)
            assets.cache["collection"] = found
        collection: Collection = assets.cache["collection"]
        return collection

    def _read(self) -> Collection:
        """All pairs: those of `data` first, then those of validation and test files."""
        from throughtime.data.inside.functions import function_pairs
        from throughtime.data.readers.passages import Passage
        from throughtime.data.readers.tables import read_table

        columns = tuple(filter(None, (self.query or "query", self.passage or "passage", self.place)))
        rows: list[tuple[str, str, str]] = []  # query, passage, place
        sizes: list[int] = []
        sources: list[Source] = []
        remarks: list[str] = []
        for files in (self.data or (None,), *((getattr(self, part),) for part in PARTS[1:])):
            start = len(rows)
            for file in files:
                if isinstance(file, float):  # a fraction of the data
                    continue
                if file is not None and Path(file).is_dir():
                    raise InputError(
                        f"expected a file of queries and passages, got a folder: {file}; a folder can be searched, with "
                        "'throughtime search RUN QUERY --in FOLDER', by a model that was trained on pairs"
                    )
                table = (
                    function_pairs() if file is None else read_table(file, columns, skip_bad=self.skip_bad)
                )
                names = columns if file is not None else ("query", "passage", "place")
                for number, row in enumerate(zip(*(table[name] for name in names), strict=True), 1):
                    rows.append(
                        (row[0], row[1], row[2] if len(row) > 2 else f"{Path(file or '').name} #{number}")
                    )
                sources += table.sources
                remarks += table.remarks
            if not sizes and self.limit is not None and self.limit < len(rows):
                chosen = random.Random(f"limit/{self.split_seed}").sample(range(len(rows)), self.limit)
                rows = [rows[number] for number in sorted(chosen)]
            sizes.append(len(rows) - start)
        numbers: dict[str, int] = {}
        passages: list[Passage] = []
        for _, text, place in rows:
            if numbers.setdefault(text, len(passages)) == len(passages):
                passages.append(Passage(text, place))
        return Collection(
            tuple(query for query, _, _ in rows),
            tuple(numbers[text] for _, text, _ in rows),
            tuple(passages),
            tuple(sources),
            tuple(sizes),
            tuple(remarks),
        )


def pair_losses(scores: Tensor, groups: Tensor) -> Tensor:
    """The cross-entropy of each query's passage among N passages, and of each passage's query among N queries, [2N] in turn.

    Args: scores [N, N], row and column k of pair k; groups [2N], the pairs' groups, each twice: other pairs of a pair's own
    group are left out of its sum.
    """
    import torch
    import torch.nn.functional as F

    own = groups[::2]
    others = (own[:, None] == own).fill_diagonal_(False)
    scores = scores.masked_fill(others, -torch.inf)
    right = torch.arange(len(own), device=scores.device)
    both = [F.cross_entropy(each, right, reduction="none") for each in (scores, scores.t())]
    return torch.stack(both, dim=1).flatten()
