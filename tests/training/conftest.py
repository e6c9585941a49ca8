"""A small text, trainings on it, and what they leave behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import AddingTask, ClassifyTask, Task, TextTask
from throughtime.training import TrainingConfig
from throughtime.training.evaluation import Evaluation
from throughtime.training.loop import start_run
from throughtime.training.reporting import Silent, TrainingResult, TrainingStart, TrainingStep

Maker = Callable[..., tuple[Any, TrainingConfig, Run]]
BUDGETS = {"steps", "epochs", "minutes"}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """3,000 characters of words in random order."""
    words = random.Random(1).choices(
        ["the", "time", "traveller", "said", "nothing", "for", "a", "moment\n"], k=600
    )
    path = tmp_path / "text.txt"
    path.write_text(" ".join(words)[:3000])
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """90 texts of 2 to 12 letters in three classes, as CSV: the class is the first letter."""
    draws = random.Random(2)
    rows = [
        f"{first}{''.join(draws.choices('abcdef ', k=draws.randint(1, 11)))}x,{first}" for first in "abc" * 30
    ]
    path = tmp_path / "table.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def start(
    kind: type[Task], path: Path, defaults: dict[str, Any], settings: dict[str, Any], **more: Any
) -> tuple[Any, TrainingConfig, Run]:
    """A task, its training's settings and a new run; settings are sorted into the three classes."""
    if not BUDGETS & set(settings):
        defaults = {**defaults, "steps": 20}
    settings = {"no_baselines": True, "log_every": 5, **defaults, **settings}
    kinds = (kind, ModelConfig, TrainingConfig)
    task, model, training = (
        each(**{name: value for name, value in settings.items() if name in each.__dataclass_fields__})
        for each in kinds
    )
    task, run = start_run(task, model, training, path, **more)
    return task, training, run


@pytest.fixture
def make(text: Path, tmp_path: Path) -> Maker:
    """A training on the text."""

    def made(name: str = "run", **settings: Any) -> tuple[TextTask, TrainingConfig, Run]:
        defaults = {
            "data": (str(text),),
            "hidden": 13,
            "embedding": 5,
            "cell": "gru",
            "batch": 4,
            "window": 7,
        }
        return start(TextTask, tmp_path / name, defaults, settings)

    return made


@pytest.fixture
def make_classify(table: Path, tmp_path: Path) -> Maker:
    """A training on the table: ragged batches with one target for each sequence."""

    def made(name: str = "run", **settings: Any) -> tuple[ClassifyTask, TrainingConfig, Run]:
        defaults = {
            "data": (str(table),),
            "hidden": 13,
            "embedding": 5,
            "cell": "gru",
            "batch": 7,
            "bptt": "full",
        }
        return start(ClassifyTask, tmp_path / name, defaults, settings)

    return made


@pytest.fixture
def make_adding(tmp_path: Path) -> Maker:
    """A training on the adding problem: whole sequences, real targets."""

    def made(name: str = "run", **settings: Any) -> tuple[AddingTask, TrainingConfig, Run]:
        defaults = {
            "length": 11,
            "validation": 30,
            "test": 30,
            "hidden": 5,
            "cell": "gru",
            "batch": 3,
            "bptt": "full",
        }
        return start(AddingTask, tmp_path / name, defaults, settings)

    return made


@pytest.fixture
def make_any(make: Maker, make_classify: Maker, make_adding: Maker) -> dict[str, Maker]:
    """The three, by the name of the task."""
    return {"text": make, "classify": make_classify, "adding": make_adding}


TIMES = ("seconds", "targets_per_second", "watch_seconds")


@pytest.fixture
def weights() -> Callable[[Run], bytes]:
    """The bytes of model.safetensors after its header, whose two remarks may stand in either order."""

    def read(run: Run) -> bytes:
        data = (run.path / "model.safetensors").read_bytes()
        return data[8 + int.from_bytes(data[:8], "little") :]

    return read


@pytest.fixture
def without_times() -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Records of the history without what depends on the machine's speed."""

    def records_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in record.items() if name not in TIMES} for record in records]

    return records_of


class Recorder(Silent):
    """Keeps all that is reported."""

    def __init__(self, act: Callable[[TrainingStep], object] = lambda step: None) -> None:
        self.samples: list[str] = []
        self.evaluations: list[tuple[int, Evaluation, bool]] = []
        self.messages: list[str] = []
        self.act = act
        self.started: TrainingStart | None = None
        self.result: TrainingResult | str | None = "not finished"

    def start(self, start: TrainingStart) -> None:
        self.started = start

    def step(self, step: TrainingStep) -> None:
        self.act(step)

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        self.evaluations.append((step, evaluation, best))

    def sample(self, text: str) -> None:
        self.samples.append(text)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def finish(self, result: TrainingResult | None) -> None:
        self.result = result


@pytest.fixture
def Recording() -> type[Recorder]:
    """A reporter that keeps all that is reported; `Recording(act)` also acts at each report of progress."""
    return Recorder
