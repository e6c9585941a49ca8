"""The same figures for TensorBoard."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from throughtime.errors import InputError
from throughtime.training.evaluation import Evaluation
from throughtime.training.reporter import Plan, Progress, Summary


def require_tensorboard() -> None:
    """Raise InputError unless the package tensorboard is there; cheap, so that it can be asked first."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "tensorboard is not installed: pip install 'throughtime[tensorboard]', or leave the option out"
        )


class TensorBoard:
    """Writes event files into a folder, of the run or another; `tensorboard --logdir FOLDER` shows them.

    Raises: InputError when the package tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        require_tensorboard()
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))
        self._step = 0

    def start(self, plan: Plan) -> None: ...

    def step(self, progress: Progress) -> None:
        self._step = progress.step
        for name in ("loss", "lr", "gradient_norm", "tokens_per_second", "epoch"):
            self._writer.add_scalar(f"training/{name}", getattr(progress, name), progress.step)

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        self._writer.add_scalar("validation/loss", evaluation.loss, step)
        self._writer.add_scalar("validation/bits", evaluation.bits, step)

    def sample(self, text: str) -> None:
        self._writer.add_text("sample", text, self._step)

    def message(self, text: str) -> None: ...

    def finish(self, summary: Summary | None) -> None:
        self._writer.close()
