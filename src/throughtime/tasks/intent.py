"""Customer service: the intent of a message, and its answer or a handing over to a person."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.classify_texts import Texts
from throughtime.tasks.files import full_path
from throughtime.tasks.labelled import LabelledTask
from throughtime.tasks.task import Record, data_option, run_one, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.readers.tables import Table
    from throughtime.metrics import Metric
    from throughtime.sessions.processor import Processor


class Messages(Texts):
    """Texts whose words have vectors for their character n-grams too, unless `subwords` is 0."""

    unit: ClassVar[str] = "message"
    inside: ClassVar[str] = "questions about throughtime"
    title: ClassVar[str] = "questions"
    task: IntentTask

    @property
    def has_subwords(self) -> bool:
        """Whether words are read with their n-grams."""
        return self.task.tokens == "word" and self.task.subwords > 0

    def read_inside(self) -> Table:
        from throughtime.data.inside.questions import question_table

        return question_table()

    def normalized(self, text: str) -> str:
        """A word is one symbol wherever it stands: words and byte pairs carry the space before them."""
        text = super().normalized(text)
        return text if self.task.tokens == "char" or not text.strip() else f" {text.strip()}"

    def learned(self, config: ModelConfig, symbols: int) -> nn.Module:
        from throughtime.models.embeddings import Subwords

        if not self.has_subwords:
            return super().learned(config, symbols)
        if not isinstance(config.embedding, int):
            raise InputError(
                "embedding = onehot has no vectors for n-grams: give it a size, or set subwords = 0"
            )
        task = self.task
        return Subwords(symbols, task.subwords, config.embedding, dropout=task.word_dropout)

    def encode(self, assets: Assets, text: str) -> Tensor:
        """Ids [t]; with n-grams [t, 1 + M]: see `Subwords`."""
        return self._steps(assets, self.normalized(text))[: self.task.length]

    def _steps(self, assets: Assets, text: str) -> Tensor:
        """As `encode`, of a normalized text."""
        vocabulary: Any = assets.vocabulary
        ids: Tensor = vocabulary.encode(text)
        if not self.has_subwords:
            return ids
        import torch

        from throughtime.data.ngrams import ngram_ids

        return torch.cat([ids[:, None], ngram_ids(vocabulary.pieces(text), self.task.subwords)], dim=1)

    def processor(self, model: Any, assets: Assets) -> Processor:
        from functools import partial

        from throughtime.tasks.label_processor import TextLabels
        from throughtime.tasks.text_processor import TextReader

        task = self.task
        reader = TextReader(assets.vocabulary, "lower" if task.lower else "none", strip=task.tokens != "char")
        encode, decide = partial(self._steps, assets), partial(task.decision, model, assets)
        return TextLabels(reader, encode, task.length, assets.labels["label"], decide)


@dataclass(frozen=True)
class IntentTask(LabelledTask):
    """Train a model that answers messages by their intent, or hands them over to a person.

    Reads what classify reads: a text and a label, its intent. A column answer, or a file with the columns label and answer, gives
    each intent its answer; messages of an intent with an empty answer are always handed over. After training the probabilities
    are calibrated on the validation part, and the threshold is chosen from which on a message is answered. Without --data it
    learns questions about throughtime itself.
    """

    name = "intent"
    reads = "CSV, TSV, JSON lines, with an answer per label"
    examples = (
        "throughtime train intent",
        "throughtime train intent --data questions.csv --answers answers.csv",
        "throughtime train intent --data train.csv --test test.csv --target-precision 0.98",
        "throughtime train intent --data questions.csv --fold 1/5",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 128, "embedding": 128, "bidirectional": True, "pooling": "max", "dropout": 0.5, "bptt": "full",
        "batch": 32, "epochs": 30.0, "lr": 3e-3,
    }  # fmt: skip

    tokens: str = data_option("word", "char, word or bpe.", metavar="KIND", choices=("char", "word", "bpe"))
    answers: str | None = data_option(
        None, "Table with the columns label and answer. Default: a column answer of the data, if there is one.", metavar="FILE"
    )  # fmt: skip
    answer: str | None = data_option(
        None, "Column of the answer. Default: answer, reply or response.", metavar="NAME"
    )
    target_precision: float = data_option(
        0.95, "Answer where so large a fraction of the answers is right, on the validation part.", metavar="P", above=0, below=1
    )  # fmt: skip
    certainty: float | None = data_option(
        None, "With this probability the precision holds for other messages too: a higher threshold. Needs hundreds of examples.",
        metavar="P", above=0, below=1,
    )  # fmt: skip
    subwords: int = data_option(
        5000, "Of words: buckets for character n-grams, so that words that are misspelt or new have vectors; 0: none.",
        metavar="N", low=0, high=2**24,
    )  # fmt: skip
    word_dropout: float = data_option(
        0.1, "Of words with n-grams: fraction that is read as unknown in training.", metavar="P", low=0, below=1
    )  # fmt: skip
    label_smoothing: float = data_option(
        0.1, "Fraction of each training target that is spread over all labels.", metavar="P", low=0, below=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answers == "":
            raise InputError("answers must be a file, got an empty name")

    def with_full_paths(self) -> Self:
        return replace(
            super().with_full_paths(), answers=None if self.answers is None else full_path(self.answers)
        )

    def prepare(self, like: Assets | None = None) -> Assets:
        assets = super().prepare(like)
        if not assets.splits["validation"]:
            raise InputError(
                "intent chooses its threshold on the validation part, and there is none: give validation a fraction or a file"
            )
        labels, answers = assets.labels["label"], self._answers()
        if not answers and like is not None:
            answers = like.values.get("answers", {})
        if answers and (missing := [label for label in labels if label not in answers]):
            raise InputError(
                f"each label needs an answer, and {', '.join(map(repr, missing[:5]))}{' ...' if len(missing) > 5 else ''} "
                f"{'has' if len(missing) == 1 else 'have'} none: add it, or an empty one where a person must answer"
            )
        assets.values["answers"] = {label: answers[label] for label in labels} if answers else {}
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.calibrated import CalibratedLinear

        model: Any = super().build(config, assets)
        model.head = CalibratedLinear(model.head.in_features, model.head.out_features)
        built: nn.Module = model
        return built

    def training_loss(self, assets: Assets) -> Callable[[Any, Batch], Tensor]:
        """That of the labels, with `label_smoothing` mixed with that of all labels alike."""
        of_labels = super().training_loss(assets)
        if not self.label_smoothing:
            return of_labels
        from throughtime.data.batch import unmasked

        def smoothed(outputs: Any, batch: Batch) -> Tensor:
            spread: Tensor = -outputs[unmasked(batch.targets)].float().log_softmax(-1).mean(-1).sum()
            return (1 - self.label_smoothing) * of_labels(outputs, batch) + self.label_smoothing * spread

        return smoothed

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.calibration import CalibrationError, Coverage, Precision

        can = self._answerable(assets)
        return [*super().metrics(assets), Coverage(can), Precision(can), CalibrationError()]

    def after_training(self, model: nn.Module, assets: Assets) -> bool:
        """Fit the temperature, then choose the threshold, on the validation part."""
        import torch

        from throughtime.layers.eval_mode import evaluating
        from throughtime.metrics.calibration import choose_threshold, fit_temperature

        head: Any = model.head
        head.calibrate(1.0, -1.0)
        device = head.weight.device
        with evaluating(model), torch.no_grad():
            found = [
                (batch.to(device).run(model)[0].cpu(), batch.targets)
                for batch in self.evaluation_batches(assets, "validation", steps=1, batch=64) or ()
            ]
        logits, targets = (torch.cat(each) for each in zip(*found, strict=True))
        temperature = fit_temperature(logits, targets)
        confidence, predicted = (logits.double() / temperature).softmax(-1).max(-1)
        can = torch.tensor(self._answerable(assets))[predicted]
        threshold = choose_threshold(
            confidence[can], (predicted == targets)[can], self.target_precision, self.certainty
        )
        head.calibrate(temperature, threshold)
        return True

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines.texts import majority, tfidf_selective

        parts = [self._columns(assets, part) for part in ("train", "validation", split)]
        found: dict[str, dict[str, float] | str] = {
            "majority class": dict(majority(parts[0][1], parts[2][1]))
        }
        can = dict(zip(assets.labels["label"], self._answerable(assets), strict=True))
        try:
            found["TF-IDF, linear SVM"] = dict(
                tfidf_selective(
                    *parts, precision=self.target_precision, certainty=self.certainty, answerable=can
                )
            )
        except InputError as error:  # scikit-learn is not installed
            found["TF-IDF, linear SVM"] = str(error)
        return found

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The likeliest label of each text, its calibrated probability, and its answer, or that it is handed over.

        An empty text is handed over.
        """
        for record in records:
            text = text_of(record, self.columns[0])
            probabilities = run_one(model, self._encode(assets, text)).double().softmax(-1)
            best = int(probabilities.argmax())
            label, probability = assets.labels["label"][best], float(probabilities[best])
            decision = self.decision(model, assets, label, probability if text.strip() else -1.0)
            yield {"label": label, "probability": round(probability, 6), **decision}

    def decision(self, model: Any, assets: Assets, label: str, probability: float) -> Record:
        """The answer for a label with this probability, where the run has answers, and whether a person must give one.

        Raises: RunError for a run without a threshold.
        """
        if not model.head.calibrated:
            raise RunError(
                "the run has no threshold yet, which is chosen when its training ends: continue it with --resume"
            )
        answers, sure = assets.values.get("answers", {}), probability >= float(model.head.threshold)
        answer = answers.get(label, "")
        found = {"answer": answer if sure else ""} if answers else {}
        return {**found, "handed_over": not sure or (bool(answers) and not answer)}

    def describe(self, assets: Assets) -> str:
        answers = assets.values.get("answers", {})
        if not answers:
            return f"{super().describe(assets)}; no answers: labels alone are predicted"
        empty = sum(not answer for answer in answers.values())
        handed = f", {empty} of them always handed over" if empty else ""
        return f"{super().describe(assets)}; answers for {len(answers)} labels{handed}"

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        return super().step_names(assets, inputs[:, 0] if inputs.dim() > 1 else inputs)

    @property
    def _inputs(self) -> Messages:
        return Messages(self)

    def _answers(self) -> dict[str, str]:
        """The answer of each label; none where no file has them."""
        from throughtime.data.inside.questions import intents, read_answers

        if self.answers is not None:
            found, _ = read_answers([self.answers], answer=self.answer or "answer", skip_bad=self.skip_bad)
            if not any(found.values()):
                raise InputError(
                    f"expected answers in {self.answers}, found none: each row has a label and its answer"
                )
            return found
        if not self.data:
            return {name: each.answer for name, each in intents().items()}
        columns = (self.text or "text", self.label or "label")
        found, _ = read_answers(self.data, columns, self.answer, skip_bad=self.skip_bad)
        return found if any(found.values()) else {}

    def _answerable(self, assets: Assets) -> list[bool]:
        """Whether each label has an answer; all of them where there are none at all."""
        answers = assets.values.get("answers", {})
        return [not answers or bool(answers.get(label)) for label in assets.labels["label"]]
