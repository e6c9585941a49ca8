"""A small text, and trainings on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from throughtime.models import ModelConfig, settings_to_dict
from throughtime.runs import Run
from throughtime.tasks import TextConfig, TextTask
from throughtime.training import TrainingConfig

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
