"""How many files of the package one training step on text passes through: a reader who follows it can read them all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import throughtime
from throughtime.models.config import ModelConfig
from throughtime.tasks import TextTask
from throughtime.training.config import TrainingConfig
from throughtime.training.interrupt import Interrupts
from throughtime.training.loop import start_run, window_of
from throughtime.training.processes import Processes
from throughtime.training.reporting import Silent
from throughtime.training.trainer import Trainer

MOST = 25
PACKAGE = Path(throughtime.__file__).parent


def test_a_training_step_on_text_passes_through_few_files(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("the quick brown fox jumps over the lazy dog.\n" * 60)
    training = TrainingConfig(steps=4, batch=3, bptt="truncated:7", device="cpu", watch=0, evaluate_every=100)
    model = ModelConfig(hidden=13, embedding=5)
    task, run = start_run(TextTask(data=(str(file),)), model, training, tmp_path / "run")
    trainer = Trainer(task, training, window_of(training), run, Processes("cpu"), Silent(), None)
    trainer.begin(resume=False)
    seen: set[str] = set()

    class OneStep(Interrupts):
        """Asked for once a step: the second time, the files of a whole step are counted."""

        asked = 0

        @property
        def received(self) -> int:
            return 0

        @received.setter
        def received(self, value: int) -> None: ...

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and trainer.steps == 2:
            seen.add(frame.f_code.co_filename)

    sys.setprofile(watch)
    try:
        trainer.go(OneStep())
    finally:
        sys.setprofile(None)
    files = sorted(
        str(Path(name).relative_to(PACKAGE)) for name in seen if Path(name).is_relative_to(PACKAGE)
    )
    assert len(files) <= MOST, f"{len(files)} files: {chr(10).join(files)}"
