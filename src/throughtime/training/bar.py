"""A progress bar on a terminal."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Rich
from rich.text import Text

from throughtime.training.evaluation import Evaluation
from throughtime.training.reporter import Plan, Progress, Summary, duration, figures


class Bar:
    """Epoch, loss, perplexity or bits per character, speed, gradient norm and time left, on one line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream)
        self._rich = Rich(
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            expand=True,
        )
        self._unit = "token"
        self._task: TaskID | None = None

    def start(self, plan: Plan) -> None:
        self._unit = plan.unit
        if plan.resumed_at:
            self.message(f"going on from step {plan.resumed_at}")
        self._task = self._rich.add_task("starting", total=1.0)
        self._rich.start()

    def step(self, progress: Progress) -> None:
        if self._task is None:
            return
        left = "" if progress.seconds_left is None else f"  {duration(progress.seconds_left)} left"
        watched = f"  {progress.watched}" if progress.watched else ""
        text = (
            f"epoch {progress.epoch:.1f}  {figures(progress.loss, self._unit)}  |g| {progress.gradient_norm:.2g}{watched}"
            f"  {progress.tokens_per_second:,.0f} {self._unit}s/s{left}"
        )
        self._rich.update(self._task, completed=progress.spent, description=text)

    def evaluation(self, step: int, evaluation: Evaluation, best: bool) -> None:
        star = ", the best so far" if best else ""
        self.message(f"step {step}, validation: {figures(evaluation.loss, self._unit)}{star}")

    def sample(self, text: str) -> None:
        self.message(text)

    def message(self, text: str) -> None:
        # Text, not str: what a model writes may look like markup.
        self._console.print(Text(text), soft_wrap=True)

    def finish(self, summary: Summary | None) -> None:
        self._rich.stop()
