"""What an application is: options, data and splits, model, loss, metrics, baselines, prediction. Imports no torch.

A task is a frozen dataclass. Its fields are the options of `throughtime train NAME`, the section [NAME] of a TOML file, and the
record in the run; `docs/tasks.md` shows a whole one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError
from throughtime.models.config import ModelConfig
from throughtime.options import Settings, option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.epochs import Epochs
    from throughtime.metrics import Metric
    from throughtime.sessions.processor import Processor

Record = dict[str, Any]
data_option = partial(option, panel="Data")


@dataclass(frozen=True)
class Task(Settings, ABC):
    """One application. `prepare`, `build`, `batches`, `evaluation_batches` and `metrics` are abstract; the rest has defaults."""

    name: ClassVar[str]
    """Of the command, `throughtime train NAME`, and of the section in config.toml."""
    examples: ClassVar[tuple[str, ...]] = ()
    """Command lines for the help text."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Values of ModelConfig and TrainingConfig that suit the task better than theirs."""
    without: ClassVar[tuple[str, ...]] = ()
    """Fields of ModelConfig and TrainingConfig that mean nothing here: no options are made of them."""
    stream: ClassVar[bool] = False
    """Whether the data is one long sequence, read in windows of `TrainingConfig.window` steps; else batches hold whole ones."""
    shape: ClassVar[str] = ""
    """"one to one", "many to one", "many to many"; for the list of `throughtime tasks`."""
    reads: ClassVar[str] = ""
    """The formats of the user's data in a few words, for the same list."""
    columns: ClassVar[tuple[str, ...]] = ("text",)
    """What `predict` reads of a record; the first is what a line of plain text is taken for."""
    predict_options: ClassVar[tuple[str, ...]] = ()
    """Fields that say how a trained model is used, not what it is: `predict --set NAME=VALUE` may give another value."""
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Formats of the task's own that `predict_file` reads, by name, with the suffixes of their files: {"conll": (".conll",)}."""

    writes_music: ClassVar[bool] = False
    """Whether `compose` writes music, which `throughtime generate` then asks for."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" in cls.__dict__:
            cls.section = cls.name

    @property
    def unit(self) -> str:
        """What one target is, in one word: "character", "sequence"."""
        return "target"

    @property
    def title(self) -> str:
        """A short name for the data, which names the run's folder."""
        return self.name

    @abstractmethod
    def prepare(self, like: Assets | None = None) -> Assets:
        """Read the data; build vocabularies, labels and splits. With `like`, its vocabularies and labels are taken.

        Raises: InputError for data that cannot be read or used.
        """

    @abstractmethod
    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        """A new model `(inputs, state, lengths=...) -> (outputs, state)`, its weights drawn from torch's generator."""

    @abstractmethod
    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Epochs:
        """The training split, epoch after epoch, for one of `world` processes.

        Args: steps, of a window; only a `stream` reads it.
        Raises: InputError for too little data.
        """

    @abstractmethod
    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        """A split ("validation", "test"; "all": all that `data` names) from its beginning; None if there is none."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The sum of the losses over the unmasked targets, one number; by default the cross-entropy of logits, in nats."""
        return cross_entropy(outputs, batch.targets)

    def training_loss(self, assets: Assets) -> Callable[[Any, Batch], Tensor]:
        """What training minimizes where it is another sum than `loss`, which evaluations report; by default `loss`."""
        return self.loss

    def after_training(self, model: nn.Module, assets: Assets) -> bool:
        """Set what follows from the trained model, such as a threshold chosen on the validation part; whether something was set.

        It is called once with the kept weights, and again where a complete training is resumed, so it starts from the weights
        alone. What it sets are buffers of the model: they are kept with the weights, and training never sees them.
        """
        return False

    @abstractmethod
    def metrics(self, assets: Assets) -> list[Metric]:
        """New metrics; the first decides which weights are the best."""

    def flow_loss(self) -> Callable[[Any, Any], Tensor] | None:
        """The losses one by one, [T, B] or [B], as `throughtime.flow.measure` takes them; None: cross-entropy."""
        return None

    def flow_batches(self, assets: Assets, split: str, *, steps: int, batch: int) -> Iterator[Batch] | None:
        """What gradient flow is measured on, where `evaluation_batches` would not do."""
        return self.evaluation_batches(assets, split, steps=steps, batch=batch)

    def flow_ends(self, bidirectional: bool) -> int | Sequence[int]:
        """The steps whose loss is sent back alone when gradient flow is measured, or how many of them."""
        return 8

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        """Metrics by baseline on a split, a trivial one first, then a strong one; text says why one could not be computed."""
        return {}

    def final_metrics(self, model: nn.Module, assets: Assets, split: str) -> dict[str, float]:
        """More metrics of the kept weights, for the final table alone: such as what the model writes is judged by.

        They are left out with the baselines, by no_baselines.
        """
        return {}

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The new columns for each record, in order, none read ahead that a batch does not need.

        Raises: InputError where the task predicts nothing for a record, or the record lacks a column.
        """
        raise InputError(f"runs of {self.name} have no predictions: use evaluate")

    def processor(self, model: nn.Module, assets: Assets) -> Processor:
        """What makes steps of data that arrives in pieces, and answers of the model's outputs, for streams and sessions.

        Raises: InputError where runs of the task, or this model, cannot be streamed.
        """
        raise InputError(f"runs of {self.name} cannot be streamed: use predict")

    def show(self, model: nn.Module, assets: Assets, record: Record, picture: str | None = None) -> str:
        """What led to the prediction for a record, to be printed: attention, or an alignment; also drawn into a picture.

        Args: picture, a path: PNG, SVG or PDF by its suffix.
        Raises: InputError where the task has nothing to show.
        """
        raise InputError(f"runs of {self.name} have no alignment to show: leave out --show and --picture")

    def predict_file(
        self, model: nn.Module, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        """Predict for a file of one of `formats`, written to `out` in the same format with the predictions in it.

        A model that reads from left to right answers each line as it arrives, before the next is read.
        Args: file, a path, or "-" for standard input (`throughtime.data.readers.records.open_source` opens both); form, of
        `formats`.
        Returns: what the user should know afterwards, as of rows that were left out; often nothing.
        Raises: InputError for what cannot be read, with its line.
        """
        raise NotImplementedError

    def compose(self, model: nn.Module, assets: Assets, **options: Any) -> Any:
        """A new piece of music, a `throughtime.data.music.Tune`, where the task writes some.

        Raises: InputError where it writes none.
        """
        raise InputError(f"runs of {self.name} write no music: that is for runs of compose")

    def describe(self, assets: Assets) -> str:
        """The data in a line, before training."""
        return self.title

    def describe_loss(self, loss: float) -> str:
        """A loss as one reads it while training."""
        return f"loss {loss:.4g}"

    def conclude(self, metrics: Mapping[str, float]) -> str:
        """What the metrics on held-out data mean, in a sentence, or nothing."""
        return ""

    def remarks(self, config: ModelConfig) -> list[str]:
        """What the user should know before training starts; often nothing."""
        return []

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        """Commands to try on a trained run."""
        return [f"throughtime evaluate {path}", f"throughtime predict {path} FILE"]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        """What a reader sees for each step of one sequence [T, ...]: the labels of an axis."""
        return [str(number) for number in range(len(inputs))]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        """Inputs [T, 1] of a typed text, and the symbols in it that the model does not know.

        Raises: InputError where the task does not read text.
        """
        raise InputError(f"--prompt is for runs that read symbols, and {self.name} does not: leave it out")


def cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """The sum of the cross-entropies in nats over unmasked targets: logits [..., V], targets [...] of whole numbers.

    With `weight` [V] each is multiplied by that of its target.
    """
    import torch
    import torch.nn.functional as F

    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()  # a sum over 16-bit numbers would lose the small ones
    if weight is not None:
        weight = weight.to(logits)
    return F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), weight, ignore_index=-100, reduction="sum"
    )


def run_one(model: nn.Module, inputs: Tensor) -> Tensor:
    """A model's outputs for one sequence [T, ...] in eval mode, on the CPU: [T, Q], or [Q] if it has one for a sequence."""
    import torch

    from throughtime.data.batch import Batch
    from throughtime.layers.eval_mode import evaluating

    steps = len(inputs)
    padded = inputs if steps else inputs.new_zeros(1, *inputs.shape[1:])
    batch = Batch.of(padded[:, None], lengths=[steps])
    with evaluating(model), torch.inference_mode():
        outputs, _ = batch.to(next(model.parameters()).device).run(model)
    found: Tensor = outputs.cpu()
    return found[:steps, 0] if found.dim() > 2 else found[0]


def field_of(record: Record, name: str) -> Any:
    """A record's value.

    Raises: InputError naming the columns that are there.
    """
    if name not in record:
        raise InputError(
            f"each record must have a column {name!r}, got {', '.join(map(repr, record)) or 'none'}"
        )
    return record[name]


def text_of(record: Record, name: str) -> str:
    """A record's value, which must be a text.

    Raises: InputError as `field_of`, and for another type.
    """
    value = field_of(record, name)
    if not isinstance(value, str):
        raise InputError(f"{name!r} must be a text, got {value!r:.60}")
    return value
