"""Recommendation: the next item of a session, predicted after each of its items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.sessions import SessionTask
from throughtime.tasks.task import Record, data_option, field_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.metrics import Metric
    from throughtime.sessions.processor import Processor

OBJECTIVES = ("softmax", "sampled", "bpr-max", "top1-max")
PROBABILITIES = OBJECTIVES[:2]  # the others learn an order of the items, and no probabilities
K = 20  # of recall and MRR over all items
FEW = 10  # of the hit rate and NDCG among candidates


@dataclass(frozen=True)
class RecommendTask(SessionTask):
    """Train a model of the next item of a session.

    Reads logs of events: CSV, TSV or JSON lines with columns session, item and perhaps time, or lines `user item`. The model
    predicts the next item after each item of a session, and is measured over all items. Without --data the sessions are the
    functions of Python's own standard library, and the items the names that they call.
    """

    name = "recommend"
    shape = "many to many"
    reads = "CSV, TSV, JSON lines: session, item, time; lines `user item`"
    examples = (
        "throughtime train recommend",
        "throughtime train recommend --data clicks.csv --split time",
        "throughtime train recommend --data Video.txt --split last --objective sampled --candidates 100",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 128, "embedding": 128, "dropout": 0.3, "bptt": "full", "batch": 32, "epochs": 8.0, "lr": 5e-3,
    }  # fmt: skip
    without = ("pooling", "bidirectional", "tied", "window")
    columns = ("items",)
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "events": (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")
    }

    objective: str = data_option(
        "softmax", f"Loss: {', '.join(OBJECTIVES)}; all but softmax compare with drawn items only.", metavar="NAME",
        choices=OBJECTIVES,
    )  # fmt: skip
    negatives: int = data_option(
        2048, "Items drawn for each batch, where the loss compares with drawn ones.", metavar="N", low=1, high=2**24
    )  # fmt: skip
    alpha: float = data_option(
        0.5, "They are drawn with probability proportional to frequency^alpha.", metavar="X", low=0, high=4
    )
    bpr_penalty: float = data_option(
        1.0, "BPR-max: weight of the squared scores of drawn items.", metavar="X", low=0, high=1e4
    )
    candidates: int = data_option(
        0, f"Also rank each target among N random items that its session does not hold: hit@{FEW}, ndcg@{FEW}.", metavar="N",
        low=0, high=10**5,
    )  # fmt: skip
    untied: bool = data_option(
        False,
        "The output has vectors of its own. Default: the embedding's, where that is as wide as the last layer.",
    )
    unseen: bool = data_option(
        False, "A session never holds an item twice: rank and predict only items that it does not hold yet."
    )
    top: int = data_option(10, "Items that predict gives.", metavar="N", low=1, high=10**5)

    def prepare(self, like: Assets | None = None) -> Assets:
        assets = super().prepare(like)
        if self.candidates > (most := len(assets.labels["item"]) // 2):
            raise InputError(
                f"candidates must be at most {most:,}, half of the items, got {self.candidates}: draw fewer"
            )
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        import torch

        from throughtime.models.build import layers, symbol_embedding
        from throughtime.models.next_item import NextItem

        frequencies = assets.values.get("frequencies")
        items = len(assets.labels.get("item", ()))
        if not items or not isinstance(frequencies, list) or len(frequencies) != items + 1:
            raise RunError("the run's assets.json is damaged: it has no items, or not a frequency for each")
        if config.bidirectional:
            raise InputError(
                "a bidirectional model reads the item that it is to predict: leave bidirectional out"
            )
        config = replace(config, tied=self._tied(config))
        embedding: Any = symbol_embedding(config, items + 1)
        return NextItem(
            embedding,
            layers(config, embedding.embedding_dim),
            config.outputs,
            torch.tensor(frequencies, dtype=torch.float32),
            dropout=config.dropout,
            tied=config.tied,
            negatives=0 if self.objective == "softmax" else self.negatives,
            alpha=self.alpha,
        )

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The task's objective in training; in evaluation the cross-entropy over all items, whatever the objective."""
        from throughtime.models.next_item import next_item_loss

        return next_item_loss(outputs, batch.targets, self.objective, self.bpr_penalty)

    def flow_loss(self) -> Any:
        from throughtime.models.next_item import cross_entropies

        return cross_entropies

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.next_item import NextItemMetric, ndcg_at
        from throughtime.metrics.ranking import recall_at, reciprocal_rank

        whole = (
            f"over all {len(assets.labels['item']):,} items; one with the target's score counts as before it, an unknown target "
            "as a miss"
        )
        if self.unseen:
            whole += "; items that the session holds are left out"
        found: list[Metric] = [
            NextItemMetric(f"recall@{K}", partial(recall_at, k=K), whole, unseen=self.unseen),
            NextItemMetric(
                f"mrr@{K}",
                partial(reciprocal_rank, k=K),
                f"{whole}; 0 beyond rank {K}",
                unseen=self.unseen,
            ),
        ]
        if self.candidates:
            few = f"among {self.candidates} random items that the session does not hold, the same for every model"
            for name, of in (("hit", recall_at), ("ndcg", ndcg_at)):
                metric = NextItemMetric(
                    f"{name}@{FEW}",
                    partial(of, k=FEW),
                    few,
                    candidates=self.candidates,
                    seed=self.split_seed,
                )
                found.append(metric)
        return found

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines.recommend import BASELINES, evaluate_baseline

        sessions = [each.numpy() for each in self.training_ids(assets)]
        found: dict[str, dict[str, float] | str] = {}
        for name, make in BASELINES.items():
            try:
                scored = make(sessions, len(assets.labels["item"]))
            except InputError as error:  # scipy is not installed
                found[name] = str(error)
                continue
            batches = self.evaluation_batches(assets, split, steps=0, batch=256)
            found[name] = evaluate_baseline(scored, batches or (), self.metrics(assets))
        return found

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The items most likely to come after the items of each record, their scores, and the items that are unknown.

        `items` is a list of names, or a text: names with white space between, or a JSON list of names.
        """
        from throughtime.data.readers.sessions import items_of

        for record in records:
            items = items_of(field_of(record, "items"))
            answer, _ = self._answer(model, assets, items, None)
            yield answer | {"unknown": self._unknown(assets, items)}

    def processor(self, model: nn.Module, assets: Assets) -> Processor:
        from throughtime.tasks.recommend_processor import RecommendProcessor

        return RecommendProcessor(self, assets)

    def follow(self, model: nn.Module, assets: Assets, events: Iterable[tuple[str, str]]) -> Iterator[Record]:
        """What `predict` gives after each event (session, item), before the next one is taken; sessions may be interleaved.

        Cost: a step of the model for each event. The state of every session is kept, 4 bytes for each of its numbers.
        """
        states: dict[str, Any] = {}
        for session, item in events:
            answer, states[session] = self._answer(model, assets, [item], states.get(session))
            yield answer

    def predict_file(
        self, model: nn.Module, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        from throughtime.data.readers.records import open_source, write_records
        from throughtime.data.readers.sessions import Events

        with open_source(file) as stream:
            name = "standard input" if file == "-" else file
            events = Events(stream, session=self.session, item=self.item, name=name, skip_bad=skip_bad)
            waiting: list[Record] = []  # the event that is answered

            def pairs() -> Iterator[tuple[str, str]]:
                for event in events:
                    waiting.append(event.record)
                    yield event.session, event.item

            write = None
            for answer in self.follow(model, assets, pairs()):
                record = waiting.pop()
                added = {f"predicted_{key}" if key in record else key: each for key, each in answer.items()}
                if write is None:
                    write = write_records(out, events.records.format, [*record, *added])
                write(record | added)
        return events.records.remark

    def remarks(self, config: ModelConfig) -> list[str]:
        if self.untied or self._tied(config):
            return []
        return [
            f"the output has vectors of its own, as the embedding ({config.embedding}) is not as wide as the last layer "
            f"({config.outputs}): with both of one size they share them"
        ]

    def conclude(self, metrics: Mapping[str, float]) -> str:
        return f"The next item is among the first {K} in {metrics[f'recall@{K}']:.1%} of the predictions."

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        from throughtime.data.readers.sessions import items_of

        items = items_of(text)
        return self.ids(assets, items)[:, None], self._unknown(assets, items)

    def _tied(self, config: ModelConfig) -> bool:
        return config.tied or (not self.untied and config.embedding == config.outputs)

    def _unknown(self, assets: Assets, items: list[str]) -> list[str]:
        known = len(assets.labels["item"])
        return [item for item, number in zip(items, self.ids(assets, items), strict=True) if number == known]

    def _answer(
        self, model: nn.Module, assets: Assets, items: Iterable[str], state: Any
    ) -> tuple[Record, Any]:
        """The answer after some more items of a session, and what to carry: the model's state, and what the session holds."""
        import torch

        from throughtime.layers.eval_mode import evaluating

        ids = self.ids(assets, items)[:, None].to(next(model.parameters()).device)
        carried, held = state or (None, frozenset())
        held = held | set(ids[:, 0].tolist()) if self.unseen else held
        with evaluating(model), torch.inference_mode():
            outputs, carried = model(ids, carried)
            scores = outputs.of(outputs.hidden[-1, 0])
        return self.best(assets, scores, held), (carried, held)

    def best(self, assets: Assets, scores: Tensor, held: Iterable[int]) -> Record:
        """The best items and their scores, from the scores [V + 1] of all. Args: held, items that are left out."""
        import torch

        scores = scores.double()
        never = {*held, len(scores) - 1}  # of unknown items there is nothing to say
        scores[list(never)] = -torch.inf
        if self.objective in PROBABILITIES:
            scores = scores.softmax(0)
        best, numbers = scores.topk(min(self.top, len(scores) - len(never)))
        names = assets.labels["item"]
        return {
            "next": [names[number] for number in numbers.tolist()],
            "score": [round(value, 6) for value in best.tolist()],
        }
