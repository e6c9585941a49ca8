"""A small text, trainings on it, and what they leave behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from throughtime.models import ModelConfig, settings_to_dict
from throughtime.runs import Run
from throughtime.tasks import TextConfig, TextTask
from throughtime.training import Evaluation, Plan, Progress, Silent, Summary, TrainingConfig

Maker = Callable[..., tuple[TextTask, TrainingConfig, Run]]


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
def make(text: Path, tmp_path: Path) -> Maker:
    """A task, its training's settings and a new run; settings are sorted into the three configurations."""

    def made(name: str = "run", **settings: Any) -> tuple[TextTask, TrainingConfig, Run]:
        kinds = (TextConfig, ModelConfig, TrainingConfig)
        defaults = {"hidden": 13, "embedding": 5, "cell": "gru", "batch": 4, "window": 7, "log_every": 5}
        if not {"steps", "epochs", "minutes"} & set(settings):
            defaults["steps"] = 20
        settings = {"data": (str(text),)} | defaults | settings
        config, model, training = (
            kind(**{key: value for key, value in settings.items() if key in kind.__dataclass_fields__})
            for kind in kinds
        )
        task = TextTask.create(config, model)
        run = Run.create(tmp_path / name, settings_to_dict(task.config, model, training), task.vocabulary)
        return task, training, run

    return made


TIMES = ("seconds", "tokens_per_second")


@pytest.fixture
def weights() -> Callable[[Run], bytes]:
    """The bytes of model.safetensors after its header, whose two remarks may stand in either order."""

    def read(run: Run) -> bytes:
        data = (run.path / "model.safetensors").read_bytes()
        return data[8 + int.from_bytes(data[:8], "little") :]

    return read


@pytest.fixture
def without_times() -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Records of the history, but for what another day changes."""

    def records_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in record.items() if name not in TIMES} for record in records]

    return records_of


class Teller(Silent):
    """Keeps all that it is told."""

    def __init__(self, act: Callable[[Progress], object] = lambda progress: None) -> None:
        self.samples: list[str] = []
        self.evaluations: list[tuple[int, Evaluation, bool]] = []
        self.messages: list[str] = []
        self.act = act
        self.plan: Plan | None = None
        self.summary: Summary | str | None = "not told"

    def start(self, plan: Plan) -> None:
        self.plan = plan

    def step(self, progress: Progress) -> None:
        self.act(progress)

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        self.evaluations.append((step, evaluation, best))

    def sample(self, text: str) -> None:
        self.samples.append(text)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def finish(self, summary: Summary | None) -> None:
        self.summary = summary


@pytest.fixture
def Told() -> type[Teller]:
    """A reporter that keeps all that it is told; `Told(act)` also acts at each report."""
    return Teller
