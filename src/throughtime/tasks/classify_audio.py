"""What `classify` does with recordings: log-mel frames, computed once, are the steps that a model reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.task import Record, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.readers.labelled_audio import Sound
    from throughtime.data.readers.tables import Table
    from throughtime.models.log_mel import LogMel
    from throughtime.sessions.processor import Processor
    from throughtime.tasks.classify import ClassifyTask


def label_pattern(value: str | None, name: str = "label_from") -> re.Pattern[str] | None:
    """A regular expression with a group called label; None of None.

    Raises: InputError naming the option, for an expression that is none, or has no such group.
    """
    if value is None:
        return None
    try:
        found = re.compile(value)
    except re.error as error:
        raise InputError(f"{name} must be a regular expression, got {value!r}: {error}") from None
    if "label" not in found.groupindex:
        raise InputError(f"{name} must have a group called label, as in (?P<label>[a-z]+)_.*, got {value!r}")
    return found


class Sounds:
    """Recordings and their labels, for a task with the options rate, mels, frame, hop, stack, normalize, masks and tilt.

    An example is a `Sound`; `encode` resamples it and computes its frames with `throughtime.models.log_mel.LogMel`. Frames are
    computed once for a data set, and by the same module when a file is predicted.
    """

    unit: ClassVar[str] = "recording"
    inside: ClassVar[str] = ""
    title: ClassVar[str] = "recordings"
    column: ClassVar[str] = "path"
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "audio": (".wav", ".flac", ".ogg"),
        "paths": (".csv", ".tsv", ".tab", ".jsonl", ".ndjson"),
    }

    def __init__(self, task: ClassifyTask) -> None:
        self.task = task

    def read(self, files: Sequence[str], others: Sequence[str]) -> Table:
        """Columns: the recordings, the label, and `others`.

        Raises: InputError of no files: no recordings ship inside.
        """
        from throughtime.data.readers.labelled_audio import read_labelled

        if not files:
            raise InputError(
                "no recordings ship inside: name a folder with --data, or leave --kind audio out"
            )
        return read_labelled(
            files,
            label=self.task.label or "label",
            others=others,
            pattern=label_pattern(self.task.label_from),
            skip_bad=self.task.skip_bad,
        )

    def keys(self, sounds: Sequence[Sound]) -> list[Hashable]:
        """Equal for recordings of the same samples."""
        from throughtime.data.readers.series import sequence_keys

        return sequence_keys([each.samples for each in sounds])

    def shared(self, parts: Mapping[str, Sequence[Sound]]) -> list[str]:
        """What to say of recordings that are in two parts."""
        from throughtime.data.readers.series import check_disjoint_series

        return check_disjoint_series(
            {part: [each.samples for each in sounds] for part, sounds in parts.items()}
        )

    def fit(self, assets: Assets, train: Sequence[Sound], like: Assets | None) -> None:
        """Put the front end's settings, and what normalizes its frames, into the assets; say what is resampled."""
        from throughtime.models.log_mel import frame_statistics

        task = self.task
        rates = Counter(each.rate for each in train)
        rate = task.rate or min(rates, key=lambda each: (-rates[each], each))
        sounds = [example for example, _ in assets.cache["rows"]]
        assets.values["remarks"] = [*assets.values.get("remarks", ()), *_remarks(sounds, rate)]
        if like:
            assets.values["audio"] = _kept(like)
            return
        front = {"rate": rate, "window": task.frame, "hop": task.hop, "mels": task.mels}
        assets.values["audio"] = {"front": front, "stack": task.stack, "normalize": task.normalize}
        mean, deviation = frame_statistics([self.encode(assets, each) for each in train])
        assets.values["audio"] |= {"mean": mean.tolist(), "deviation": deviation.tolist()}

    def describe(self, assets: Assets) -> str:
        kept = _kept(assets)
        front, stack = kept["front"], kept["stack"]
        steps = f"a step each {1000 * front['hop'] * stack:g} ms"
        return f"{front['mels']} log-mel bands at {front['rate']} Hz, {steps}"

    def embedding(self, config: ModelConfig, assets: Assets) -> nn.Module:
        """Frames normalized, and in training masked and tilted."""
        from throughtime.models.log_mel import NormalisedFrames

        kept = _kept(assets)
        return NormalisedFrames(
            kept["mean"], kept["deviation"], kept["front"]["mels"], time_masks=self.task.time_masks,
            frequency_masks=self.task.frequency_masks, tilt=self.task.tilt,
        )  # fmt: skip

    def encode(self, assets: Assets, sound: Sound) -> Tensor:
        """The steps of a recording, [t, stack * mels]."""
        import torch

        from throughtime.data.readers.audio import resampled
        from throughtime.models.log_mel import normalise_recording

        kept, front = _kept(assets), self._front(assets)
        frames = front.of(torch.from_numpy(resampled(sound.samples.numpy(), sound.rate, front.rate)))
        if kept["normalize"] == "recording":
            frames = normalise_recording(frames)
        frames = frames[: self.task.length * kept["stack"]]
        missing = -len(frames) % kept["stack"]
        # A last step that is not whole repeats the last frame.
        return torch.cat([frames, frames[-1:].expand(missing, -1)]).reshape(-1, kept["stack"] * front.mels)

    def of_record(self, assets: Assets, record: Record) -> Sound:
        """The recording whose path is in a record."""
        from throughtime.data.readers.labelled_audio import read_sound

        return read_sound(text_of(record, self.column).strip())

    def processor(self, model: Any, assets: Assets) -> Processor:
        """Raises: InputError: the frames of a recording are normalized by all of it, or joined in groups of whole recordings."""
        raise InputError("classifiers of recordings cannot be streamed: they read whole ones; use predict")

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        """When each step begins, in seconds."""
        kept = _kept(assets)
        seconds = self._front(assets).seconds * kept["stack"]
        return [f"{number * seconds:.2f}s" for number in range(len(inputs))]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        """The steps of the recording whose path was typed, [t, 1, F]; nothing in it is unknown."""
        return self.encode(assets, self.of_record(assets, {self.column: text}))[:, None], []

    def baselines(
        self,
        assets: Assets,
        train: tuple[Sequence[Sound], Sequence[str]],
        test: tuple[Sequence[Sound], Sequence[str]],
    ) -> dict[str, dict[str, float] | str]:
        """The strong baseline, trained on the frames that the model reads."""
        from throughtime.tasks.baselines.numbers import mfcc_svm

        mels = _kept(assets)["front"]["mels"]
        frames = [[self.encode(assets, each).view(-1, mels) for each in part[0]] for part in (train, test)]
        name = "MFCC of thirds and their deviation, RBF SVM"
        try:
            return {name: mfcc_svm(frames[0], train[1], frames[1], test[1])}
        except InputError as error:  # scikit-learn is not installed
            return {name: str(error)}

    def predict_file(
        self, model: nn.Module, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        """Of a recording: its path, the label and the probability, with tabs between. Of a table: its rows with both added."""
        from throughtime.data.readers.audio import UnreadableError
        from throughtime.data.readers.labelled_audio import path_in
        from throughtime.data.readers.records import Records, open_source, write_records

        write: Any = None
        bad: list[str] = []

        def answer(record: Record, path: str, kind: str, names: Sequence[str], place: str) -> None:
            nonlocal write
            try:
                (found,) = self.task.predict(model, assets, [{self.column: path}])
            except UnreadableError as error:
                if not skip_bad:
                    raise InputError(f"{place}{error}") from None
                bad.append(f"{place}{error}")
                return
            added = {f"predicted_{name}" if name in record else name: value for name, value in found.items()}
            write = write or write_records(out, kind, [*names, *added])
            write(record | added)

        if form == "audio":
            answer({"path": file}, file, "lines", ["path"], "")
        else:
            with open_source(file) as stream:
                records = Records(
                    stream, ("path",), name="standard input" if file == "-" else file, skip_bad=skip_bad
                )
                for record in records:
                    path = records.texts(record)[0]
                    path = path if file == "-" else str(path_in(file, path))
                    names = records.fieldnames or list(record)
                    answer(record, path, records.format, names, f"{records.name}:{records.line}: ")
        return f"bad recordings skipped: {len(bad)}; the first is {bad[0]}" if bad else ""

    def _front(self, assets: Assets) -> LogMel:
        """The front end that the run was trained with."""
        from throughtime.models.log_mel import LogMel

        if "front" not in assets.cache:
            assets.cache["front"] = LogMel(**_kept(assets)["front"])
        front: LogMel = assets.cache["front"]
        return front


def _kept(assets: Assets) -> dict[str, Any]:
    """What `fit` put into the assets.

    Raises: RunError where it is not there.
    """
    kept = assets.values.get("audio")
    if not isinstance(kept, dict) or not {"front", "stack", "normalize"} <= set(kept):
        raise RunError("the run's assets.json is damaged: it does not say how recordings become frames")
    return kept


def _remarks(sounds: Sequence[Sound], rate: int) -> list[str]:
    from throughtime.data.readers.audio import conversions

    return conversions([each.rate for each in sounds], [each.channels for each in sounds], rate)
