"""What a task on sessions of items reads: logs of events, how they are divided, and the items as numbers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from throughtime.errors import InputError, RunError
from throughtime.tasks.files import FileTask, check_part, check_sources, reading_again
from throughtime.tasks.task import data_option

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.epochs import Epochs
    from throughtime.data.readers.sessions import Sessions

PARTS = ("train", "validation", "test")
SPLITS = ("sessions", "time", "last")


@dataclass(frozen=True)
class SessionTask(FileTask):
    """A task on sessions of items; inputs are a session's items but the last, targets its items but the first.

    The assets of a run hold the names of the items that the model knows, the most frequent first (labels "item"), how often
    each is in the training data, and how often unknown ones are (values "frequencies", one more). An unknown item is number V.
    """

    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the data, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    session: str | None = data_option(
        None, "Column of the session. Default: session, session_id, user, user_id, visitor.", metavar="NAME"
    )
    item: str | None = data_option(
        None, "Column of the item. Default: item, item_id, product, article, sku.", metavar="NAME"
    )
    time: str | None = data_option(
        None, "Column of the time. Default: time, timestamp, ts, date, datetime; else the order in the file.",
        metavar="NAME",
    )  # fmt: skip
    split: str = data_option(
        "sessions",
        "What is held out: random sessions; the latest ones (time); of each its last item, and the one before it (last).",
        metavar="HOW", choices=SPLITS,
    )  # fmt: skip
    min_count: int = data_option(
        1, "Items with fewer training events are unknown to the model.", metavar="N", low=1
    )
    length: int = data_option(
        200, "Items read of a training session, its last; evaluation reads all.", metavar="N", low=2, high=10**6
    )  # fmt: skip
    parallel: int | None = data_option(
        None, "Session-parallel batches, N steps of each session at a time, the state carried. Default: whole sessions.",
        metavar="N", low=1, high=10**6,
    )  # fmt: skip
    skip_bad: bool = data_option(False, "Leave out rows that cannot be read, and count them.")
    split_seed: int = data_option(
        0, "Another seed divides the data into other parts.", metavar="N", low=0, high=2**63 - 1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split == "last" and any(isinstance(getattr(self, part), str) for part in PARTS[1:]):
            raise InputError(
                "split last holds out the last items of the training sessions: leave the files of validation and test out, or "
                "use split sessions"
            )

    @property
    def unit(self) -> str:
        return "item"

    def prepare(self, like: Assets | None = None) -> Assets:
        from collections import Counter

        from throughtime.data.assets import Assets

        assets = Assets()
        sessions, assets.splits = self._read()
        assets.sources, assets.values["remarks"] = sessions.sources, list(sessions.remarks)
        assets.cache["sessions"] = sessions.items
        counts = Counter(
            item for number in assets.splits["train"] for item in self._training(sessions.items[number])
        )
        found = sorted(counts, key=lambda item: (-counts[item], item))
        known = tuple(item for item in found if counts[item] >= self.min_count)
        names = like.labels["item"] if like else known
        if len(names) < 2:
            raise InputError(
                f"expected at least two items with {self.min_count:,} training events or more, got {len(names)}: use more data, "
                "or a smaller min_count"
            )
        assets.labels = {"item": names}
        frequencies = [counts[name] for name in names]
        assets.values["frequencies"] = [*frequencies, counts.total() - sum(frequencies)]
        return assets

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Epochs:
        from throughtime.data.examples import Examples
        from throughtime.data.session_parallel import SessionParallel

        inputs, targets = self._encoded(assets, "train")
        if self.parallel is not None:
            return SessionParallel(inputs, targets, batch, self.parallel, seed=seed, rank=rank, world=world)
        return Examples(inputs, targets, batch, seed=seed, rank=rank, world=world)

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        from throughtime.data.examples import evaluation_batches

        inputs, targets = self._encoded(assets, split)
        return (each for each, _ in evaluation_batches(inputs, targets, batch)) if inputs else None

    def describe(self, assets: Assets) -> str:
        names = ", ".join(path.rpartition("/")[2] for path in self.data)
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        held_out = {"sessions": "", "time": " (the latest)", "last": " (the last items of each)"}[self.split]
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{names or 'calls in the functions of the standard library of Python'}: {sizes['train']:,} sessions to train on, "
            f"{sizes['validation']:,} for validation, {sizes['test']:,} for test{held_out}; {len(assets.labels['item']):,} "
            f"items{remarks}"
        )

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        names = (*assets.labels["item"], "<unknown>")
        return [names[int(number)] for number in inputs]

    def ids(self, assets: Assets, items: Iterable[str]) -> Tensor:
        """The numbers of some items, int64 [t]; V for an unknown one."""
        import torch

        if "numbers" not in assets.cache:
            assets.cache["numbers"] = {name: number for number, name in enumerate(assets.labels["item"])}
        numbers = assets.cache["numbers"]
        return torch.tensor([numbers.get(item, len(numbers)) for item in items], dtype=torch.int64)

    def training_ids(self, assets: Assets) -> list[Tensor]:
        """All training sessions as ids, also those of one item and what `length` leaves out: for counting."""
        sessions = self._sessions(assets)
        return [self.ids(assets, self._training(sessions[number])) for number in assets.splits["train"]]

    def _held_out(self) -> int:
        """Items that `split last` takes from the end of a session."""
        return sum(bool(getattr(self, part)) for part in PARTS[1:]) if self.split == "last" else 0

    def _training(self, items: tuple[str, ...]) -> tuple[str, ...]:
        """What of a training session is trained on: all of it, or what `split last` leaves."""
        held = self._held_out()
        return items[: len(items) - held] if len(items) > held else items

    def _sessions(self, assets: Assets) -> tuple[tuple[str, ...], ...]:
        """All sessions, read again where this process has not."""
        if "sessions" not in assets.cache:
            with reading_again():
                sessions, _ = self._read()
            check_sources(assets, sessions.sources)
            assets.cache["sessions"] = sessions.items
        found: tuple[tuple[str, ...], ...] = assets.cache["sessions"]
        last = max((max(numbers, default=0) for numbers in assets.splits.values()), default=0)
        if last >= len(found):
            raise RunError(f"the split in assets.json is damaged: it has example {last} of {len(found)}")
        return found

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs and the targets of a split, ids [t] each; a session with nothing to predict is left out."""
        from throughtime.data.batch import IGNORE

        key = f"encoded/{self.data}/{split}"
        if key in assets.cache:
            found: tuple[list[Tensor], list[Tensor]] = assets.cache[key]
            return found
        if split == "all":
            sessions = self._read()[0].items
            numbers: Iterable[int] = range(len(sessions))
        else:
            sessions, numbers = self._sessions(assets), assets.splits.get(split, ())
        inputs, targets = [], []
        for number in numbers:
            items = sessions[number]
            if split == "train":
                items = self._training(items)[-self.length :]
            elif split == "validation" and self.split == "last" and self.test:
                items = items[:-1]
            if len(items) < 2:
                continue
            ids = self.ids(assets, items)
            target = ids[1:].clone()
            if self.split == "last" and split != "train":
                target[:-1] = IGNORE
            inputs.append(ids[:-1])
            targets.append(target)
        if split == "train" and not inputs:
            raise InputError("no session of two items is left to train on: hold out less")
        assets.cache[key] = inputs, targets
        return inputs, targets

    def _read(self) -> tuple[Sessions, dict[str, list[int]]]:
        """All sessions, those of validation and test files last, and the numbers of each part."""
        from throughtime.data.inside.calls import called_names
        from throughtime.data.readers.sessions import read_sessions, split_by_time
        from throughtime.data.split import check_disjoint, split_examples

        read = {"session": self.session, "item": self.item, "time": self.time}
        sessions = read_sessions(self.data, **read, skip_bad=self.skip_bad) if self.data else called_names()
        if self.limit is not None and self.limit < len(sessions.items):
            chosen = random.Random(f"limit/{self.split_seed}").sample(range(len(sessions.items)), self.limit)
            sessions = sessions.only(sorted(chosen))
        count = len(sessions.items)
        if self.split == "last":
            long = [number for number, items in enumerate(sessions.items) if len(items) > self._held_out()]
            return sessions, {
                "train": list(range(count)),
                **{part: long if getattr(self, part) else [] for part in PARTS[1:]},
            }
        own = {part: 0.0 if isinstance(value := getattr(self, part), str) else value for part in PARTS[1:]}
        if self.split == "time" and any(own.values()):
            split = split_by_time(sessions.ends, validation=own["validation"], test=own["test"])
        else:
            split = split_examples(
                count,
                validation=own["validation"],
                test=own["test"],
                seed=self.split_seed,
                groups=sessions.items,
            )
        parts = {part: list(getattr(split, part)) for part in PARTS}
        files = [part for part in PARTS[1:] if isinstance(getattr(self, part), str)]
        for part in files:
            more = read_sessions(getattr(self, part), **read, skip_bad=self.skip_bad)
            parts[part] = list(range(len(sessions.items), len(sessions.items) + len(more.items)))
            sessions = replace(
                sessions,
                items=sessions.items + more.items,
                ends=None,
                sources=sessions.sources + more.sources,
                remarks=sessions.remarks + more.remarks,
            )
        if files:
            texts = {part: [" ".join(sessions.items[number]) for number in parts[part]] for part in PARTS}
            sessions = replace(sessions, remarks=(*sessions.remarks, *check_disjoint(**texts)))
        return sessions, parts
