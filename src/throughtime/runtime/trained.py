"""A trained run in Python: `trained = throughtime.load("runs/book")`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from throughtime.data.assets import Assets
from throughtime.data.music import Tune
from throughtime.data.text import END
from throughtime.errors import InputError, one_of
from throughtime.kernels.native.generation.generator import State
from throughtime.models.config import ModelConfig
from throughtime.models.encoder_decoder import EncoderDecoder
from throughtime.models.fill_blank import FillBlank
from throughtime.models.many_to_one import ManyToOne
from throughtime.models.styled import Styled
from throughtime.runs import Run
from throughtime.runs.history import best_evaluation
from throughtime.runtime.generate import Generation, generate
from throughtime.runtime.session import Session
from throughtime.sessions.pool import SessionPool
from throughtime.sessions.stream import Stream, stream
from throughtime.tasks import FileTask, Task
from throughtime.tasks.recorded import model_config_of, restore_model, settings_of, task_of
from throughtime.tasks.write import style_number
from throughtime.training.config import TrainingConfig
from throughtime.training.evaluation import Evaluation, evaluate
from throughtime.training.loop import window_of
from throughtime.training.processes import Processes

if TYPE_CHECKING:
    from throughtime.runtime.chat import Chat


def load(path: str | Path, *, task: str | None = None, device: str = "cpu") -> Trained:
    """Open a trained run.

    Args:
        path: the run's folder.
        task: "path/to/file.py:MyTask", for the run of a task that is not installed: a run never says what file to import.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises: RunError when there is no run, it is damaged, or its task is not known; InputError for a device that is not here.
    Cost: reads the settings and the assets; the weights are read when `model` is first used.
    """
    return Trained(Run.open(path), task, device)


class Trained:
    """A run with its task, assets and model; make one with `throughtime.load`."""

    def __init__(self, run: Run, task: str | None = None, device: str = "cpu") -> None:
        self.run, self.path = run, run.path
        self.task: Task = task_of(run, task)
        self.config: ModelConfig = model_config_of(run)
        self.assets: Assets = run.assets
        self.device = Processes(device).device

    @cached_property
    def training(self) -> TrainingConfig:
        """The settings it was trained with.

        Raises: RunError where config.toml was damaged.
        """
        return settings_of(self.run, TrainingConfig)

    @cached_property
    def model(self) -> nn.Module:
        """The model with the kept weights, in eval mode, on the device.

        Raises: RunError when the run has no weights yet, or weights of another model.
        """
        return restore_model(self.run, self.task).to(self.device)

    def predict(self, data: Any) -> Any:
        """Predictions: a dict of columns for one text or record, an iterator of them for several.

        Args: data, a text, a record (a dict of columns), or an iterable of these, which is read as predictions are taken.
        Raises: InputError for what the task cannot read.
        """
        single = isinstance(data, (str, dict))
        if not single and (isinstance(data, (bytes, bytearray)) or not isinstance(data, Iterable)):
            raise InputError(
                f"expected a text, a dict of columns, or several of these, got {type(data).__name__}"
            )
        column = self.task.columns[0]
        records = (
            {column: each} if not isinstance(each, dict) else each for each in ([data] if single else data)
        )
        found = self.task.predict(self.model, self.assets, records)
        return next(iter(found)) if single else found

    def evaluate(
        self,
        split: str | None = None,
        *,
        files: Iterable[str | Path] = (),
        model: nn.Module | None = None,
        batch: int | None = None,
        window: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Loss and metrics on a part of the run's own data, or on all of some files.

        Args:
            split: "validation" (the default) or "test" of the run's own data.
            files: other data, all of it; with a split, the run's own data where it lies now.
            model: another one than the run's, such as one with quantized weights.
            batch, window: as in training by default; of one long text, batch streams are read side by side.
            progress: called with (targets done, targets in all).

        Raises: InputError for another split, a batch or window below 1, a run without such a part, or data that has changed.
        """
        if isinstance(files, (str, Path)):
            raise InputError(f"files must be a list of files, got {files!r}")
        if split is not None:
            one_of("split", str(split), ("validation", "test"))
        for name, number in (("batch", batch), ("window", window)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise InputError(f"{name} must be a whole number of at least 1, got {number!r}")
        task, assets, names = self.task, self.assets, tuple(str(name) for name in files)
        if names and not isinstance(task, FileTask):
            raise InputError(
                f"--data is for runs that read files, and {task.name} draws its sequences: leave it out"
            )
        if isinstance(task, FileTask) and names:
            task, split = (task.on(names), "all") if split is None else (task.moved(names), split)
            assets = replace(assets, cache={})  # the files are read, whatever was read before
        split = split or "validation"
        found = task.evaluation_batches(
            assets, split, steps=window or window_of(self.training), batch=batch or self.training.batch
        )
        if found is None:
            raise InputError(
                f"{self.path} has no {split} part: name data to evaluate it on, with --data FILE"
            )
        batches = list(found)
        total = sum(each.num_targets for each in batches)

        def report(done: int) -> None:
            if progress is not None:
                progress(done, total)

        return evaluate(
            model or self.model,
            batches,
            task.loss,
            task.metrics(self.assets),
            device=self.device,
            progress=report,
        )

    def session(self, style: str | None = None) -> Session:
        """A session of a language model, in the middle of a text: feed, snapshot, restore.

        Args: style, which a run of `write` begins from; None: no style.
        Raises: InputError for a bidirectional model, one that does not predict the next symbol, or a style that it does not know.
        """
        if isinstance(self.model, Styled):
            ids = self.assets.vocabulary.encode(END)
            model, state = self.model.of_style(style_number(self.assets, style))
            first = Session(model, self.assets.vocabulary, State(state))
            first.feed(ids)
            return Session(model, self.assets.vocabulary, first.snapshot()._replace(position=0))
        if style is not None:
            raise InputError(
                f"only runs of write have styles, and {self.path} is a run of {self.task.name}: leave --style out"
            )
        if len(self.assets.vocabularies) != 1 or isinstance(
            self.model, ManyToOne | FillBlank | EncoderDecoder
        ):
            raise InputError(
                f"only models of the next symbol can generate, and {self.path} is a run of {self.task.name}: use predict"
            )
        return Session(self.model, self.assets.vocabulary)

    def chat(self) -> Chat:
        """A dialogue with a model of the task chat: say, snapshot, restore, reset, save, load.

        Raises: InputError for a run of another task.
        """
        from throughtime.runtime.chat import Chat
        from throughtime.tasks import ChatTask

        if not isinstance(self.task, ChatTask):
            raise InputError(
                f"chat is for runs of the task chat, and {self.path} is one of {self.task.name}: train one with "
                "'throughtime train chat'"
            )
        return Chat(self.model, self.task, self.assets)

    def generate(self, prompt: str = "", *, style: str | None = None, **options: Any) -> Generation:
        """Continue a text, chunk by chunk; see `throughtime.runtime.generate`.

        A run of `write` writes a whole text, in a style where one is named, and stops at its end.
        """
        if isinstance(self.model, Styled):
            options = {"end": END, **options}
        return generate(self.session(style), prompt, **options)

    def compose(self, **options: Any) -> Tune:
        """Write a piece of music; see `throughtime.tasks.compose_write.write`, and `throughtime.runtime.save_music` for files.

        Options: genre, start, key, metre, length, temperature, seed.
        Raises: InputError for a run of another task, or what the model does not know.
        """
        found: Tune = self.task.compose(self.model, self.assets, **options)
        return found

    def stream(self, *, native: bool | None = None, weights: str = "float32") -> Stream:
        """The model in the middle of one input that arrives in pieces: `feed(data)`, `flush()`, `snapshot`, `restore`, `fork`.

        `stream.processor.about()` says what it takes and gives. Args: native, weights: as of `throughtime.stream`.
        Raises: InputError for a run that cannot read from left to right.
        """
        processor = self.task.processor(self.model, self.assets)
        return stream(self.model, processor, native=native, weights=weights)

    def pool(self, **options: Any) -> SessionPool:
        """Many such streams at a time, in batches; options as of `throughtime.SessionPool`.

        Raises: as `stream`; InputError for an option out of range.
        """
        return SessionPool(self.model, self.task.processor(self.model, self.assets), **options)

    def __repr__(self) -> str:
        sizes = " + ".join(map(str, self.config.sizes))
        lines = [
            f"{type(self).__name__} {self.path}",
            f"  task    {self.task.name}: {self.task.title}",
            f"  model   {self.config.cell} of {sizes} units",
            f"  assets  {self.assets!r}",
        ]
        if best := self._best():
            lines.append(
                f"  best    {', '.join(f'{name} {value:.4g}' for name, value in best.items())} (validation)"
            )
        return "\n".join(lines)

    def _best(self) -> dict[str, float]:
        """The metrics of the best evaluation in the history."""
        metrics = best_evaluation(self.run.history()).get("metrics", {})
        return {name: value for name, value in metrics.items() if value is not None}
