"""What a task derives from its data and a run must keep: vocabularies, labels, splits, and what the data was."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from throughtime.data.text import Source
from throughtime.data.vocabulary import Vocabulary
from throughtime.errors import InputError


@dataclass(repr=False)
class Assets:
    """Saved with a run as assets.json. `cache` is not saved: what a task has read or encoded in this process."""

    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    splits: dict[str, list[int]] = field(
        default_factory=dict
    )  # "train", "validation", "test": numbers of examples
    sources: tuple[Source, ...] = ()  # the files that were read: path, checksum, size
    values: dict[str, Any] = field(
        default_factory=dict
    )  # anything else, as JSON values: scalers, sizes, languages
    cache: dict[str, Any] = field(default_factory=dict, compare=False)
    folder: Path | None = field(default=None, compare=False)  # of the run, where there is one; not saved

    @property
    def vocabulary(self) -> Vocabulary:
        """The only vocabulary.

        Raises: InputError where there is none, or more than one.
        """
        if len(self.vocabularies) != 1:
            names = ", ".join(self.vocabularies) or "none"
            raise InputError(
                f"expected assets with one vocabulary, got {names}: name it, as in assets.vocabularies[NAME]"
            )
        return next(iter(self.vocabularies.values()))

    def to_json(self) -> str:
        """As JSON text, the same for equal assets."""
        return json.dumps(
            {
                "vocabularies": {
                    name: json.loads(each.to_json()) for name, each in self.vocabularies.items()
                },
                "labels": {name: list(each) for name, each in self.labels.items()},
                "splits": self.splits,
                "sources": [source._asdict() for source in self.sources],
                "values": self.values,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Assets:
        """Read what `to_json` wrote. Everything is checked; nothing in it can execute.

        Raises: InputError saying what is wrong with it.
        """
        try:
            data = json.loads(text)
            parts = {
                name: data.pop(name) for name in ("vocabularies", "labels", "splits", "sources", "values")
            }
            assets = cls(
                vocabularies={
                    name: Vocabulary.from_json(json.dumps(each))
                    for name, each in parts["vocabularies"].items()
                },
                labels={name: tuple(map(_text, each)) for name, each in parts["labels"].items()},
                splits={name: [_whole(number) for number in each] for name, each in parts["splits"].items()},
                sources=tuple(Source(**each) for each in parts["sources"]),
                values=dict(parts["values"]),
            )
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"expected the JSON of a run's assets, got something else: {error!r}") from None
        if data:
            raise InputError(f"unknown assets: {', '.join(map(str, data))}")
        return assets

    def __repr__(self) -> str:
        parts = [f"{name}: {each!r}" for name, each in self.vocabularies.items()]
        parts += [f"{name}: {len(each)} labels" for name, each in self.labels.items()]
        parts += [f"{name}: {len(each):,} examples" for name, each in self.splits.items()]
        parts += [source.path for source in self.sources]
        return f"<assets {', '.join(parts)}>"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a label must be text, got {value!r}")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"the number of an example must be 0 or more, got {value!r}")
    return value
