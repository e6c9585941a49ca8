"""Speech and Morse recognition: from a recording to a text, with CTC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.options import option
from throughtime.tasks.files import (
    ExamplesTask,
    check_part,
    check_sources,
    condition,
    full_path,
    reading_again,
)
from throughtime.tasks.task import Record, data_option

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.inside.morse import Message
    from throughtime.data.text import Source
    from throughtime.metrics import Metric
    from throughtime.metrics.transcription import Breakdown
    from throughtime.models.log_mel import LogMel
    from throughtime.models.transcriber import Transcriber
    from throughtime.tasks.transcribe_processor import TranscribeProcessor

PARTS = ("train", "validation", "test")
MESSAGES = 5000  # of Morse code, where no data is given
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_sound_option = partial(option, panel="Sound")
_decoding_option = partial(option, panel="Decoding")


class Clip(NamedTuple):
    """A recording as the model reads it, and its text."""

    frames: Tensor  # [t, F]
    text: str
    place: str  # file and row, for messages


@dataclass(frozen=True)
class TranscribeTask(ExamplesTask):
    """Train a model that writes down what is said, or keyed, in a recording (CTC).

    Reads a table (CSV, TSV, JSON lines) with the columns path and text, a folder with one, or the folders of LibriSpeech;
    recordings are WAV, FLAC or OGG. The texts are learned as characters. Recordings of one speaker stay on one side of a split.
    A model that reads forward (--no-bidirectional) also transcribes sound as it arrives. Without --data it learns Morse code,
    keyed by a program at 16 to 24 words per minute, drifting, fading, in noise.
    """

    name = "transcribe"
    shape = "many to many, unaligned"
    reads = "WAV, FLAC, OGG with a table (path, text); LibriSpeech"
    examples = (
        "throughtime train transcribe",
        "throughtime train transcribe --data clips/clips.csv --test-where speaker=anna",
        "throughtime train transcribe --data LibriSpeech/train-clean-5 --validation LibriSpeech/dev-clean-2 --stack 4",
        "throughtime train transcribe --no-bidirectional",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 128, "bidirectional": True, "bptt": "full", "batch": 8, "epochs": 12.0, "lr": 3e-3,
    }  # fmt: skip
    without = ("tied", "pooling", "window", "embedding")
    columns = ("path",)
    predict_options: ClassVar[tuple[str, ...]] = ("beam", "prune", "lm", "lm_weight", "length_bonus")
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "audio": (".wav", ".flac", ".ogg"),
        "folder": ("/",),
        "table": (".csv", ".tsv", ".tab", ".jsonl", ".ndjson"),
        "pcm": (".pcm", ".raw"),
    }

    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the data, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    text: str = data_option("text", "Column of the text.", metavar="NAME")
    speaker: str | None = data_option(
        None, "Column of who speaks: recordings with the same value stay in one part. Default: speaker or group.",
        metavar="NAME",
    )  # fmt: skip
    validation_where: str | None = data_option(
        None, "Validate on the recordings with this value in a column, and on no others.", metavar="COLUMN=VALUE[,VALUE]",
        check=condition,
    )  # fmt: skip
    test_where: str | None = data_option(
        None, "Test on the recordings with this value in a column, and on no others.", metavar="COLUMN=VALUE[,VALUE]",
        check=condition,
    )  # fmt: skip
    symbols: str = data_option(
        "plain", "plain: lower case; letters, digits, apostrophes and single spaces. all: every character as it is.",
        metavar="WHICH", choices=("plain", "all"),
    )  # fmt: skip
    skip_bad: bool = data_option(False, "Leave out recordings that cannot be used, and count them.")
    split_seed: int = data_option(
        0, "Another seed divides the data into other parts.", metavar="N", low=0, high=2**63 - 1
    )
    rate: int | None = _sound_option(
        None, "Samples in a second that the model reads; recordings are resampled. Default: that of the first recording.",
        metavar="HZ", low=1000, high=192_000,
    )  # fmt: skip
    frame: float = _sound_option(0.025, "Seconds of sound in a frame.", metavar="S", above=0, high=10)
    hop: float = _sound_option(0.010, "Seconds from a frame to the next.", metavar="S", above=0, high=10)
    mels: int | None = _sound_option(
        None, "Frequency bands of a frame. Default: 40; of Morse code 4.", metavar="N", low=1, high=1000
    )
    low: float | None = _sound_option(
        None, "Lowest frequency in Hz. Default: 20; of Morse code 400.", metavar="HZ", low=0, high=96_000
    )
    high: float | None = _sound_option(
        None,
        "Highest frequency in Hz. Default: half the rate; of Morse code 800.",
        metavar="HZ",
        above=0,
        high=96_000,
    )
    stack: int = _sound_option(
        3, "Frames that the model reads at once: it takes one step for them.", metavar="N", low=1, high=100
    )
    time_masks: int = _sound_option(
        0, "Spans of time that are masked in training (SpecAugment).", metavar="N", low=0, high=100
    )
    frequency_masks: int = _sound_option(
        0, "Spans of frequency that are masked in training (SpecAugment).", metavar="N", low=0, high=100
    )
    beam: int = _decoding_option(
        1,
        "Texts that a prediction keeps at each moment; 1: greedy decoding.",
        metavar="N",
        low=1,
        high=10_000,
    )
    prune: float = _decoding_option(
        1e-3,
        "Of a beam: symbols that are less likely start nothing new in a frame.",
        metavar="P",
        low=0,
        below=1,
    )
    lm: str | None = _decoding_option(
        None,
        "Of a beam: a run of `throughtime train text --tokens char`, which says what texts are likely.",
        metavar="RUN",
    )
    lm_weight: float = _decoding_option(
        0.5, "Weight of the language model's log-probabilities.", metavar="X", low=0, high=100
    )
    length_bonus: float = _decoding_option(
        0.0,
        "Added for each character: a language model prefers short texts.",
        metavar="X",
        low=-100,
        high=100,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lm is not None and self.beam == 1:
            raise InputError("a language model needs a beam, got beam = 1: give beam a width, such as 16")
        for part in PARTS[1:]:
            where = getattr(self, f"{part}_where")
            if where and isinstance(value := getattr(self, part), str):
                raise InputError(
                    f"{part} = {value} and {part}_where = {where} both say what is in that part: keep one"
                )
            if where and not self.data:
                raise InputError(
                    f"{part}_where names a column of a file: give one with --data, or leave it out"
                )

    @property
    def unit(self) -> str:
        return "character"

    @property
    def title(self) -> str:
        return super().title if self.data else "morse"

    def with_full_paths(self) -> Self:
        """Also with the frequency bands, so that the run's config.toml says what its model reads."""
        mels, low, high = (40, 20.0, self.high) if self.data else (4, 400.0, self.high or 800.0)
        return replace(
            super().with_full_paths(),
            mels=self.mels or mels,
            low=low if self.low is None else self.low,
            high=high,
            lm=None if self.lm is None else full_path(self.lm),
        )

    def on(self, files: tuple[str, ...]) -> Self:
        return replace(super().on(files), validation_where=None, test_where=None)

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.models.log_mel import frame_statistics

        assets = Assets()
        sound = None if like is None else sound_of(like)
        clips, assets.sources, assets.splits, remarks, rate = self._read(sound["rate"] if sound else None)
        assets.cache["clips"], assets.values["remarks"] = clips, remarks
        train = [clips[number] for number in assets.splits["train"]]
        symbols = tuple(sorted({character for clip in train for character in clip.text}))
        assets.labels = {"symbol": like.labels["symbol"] if like else symbols}
        if sound is None:
            mean, deviation = frame_statistics([clip.frames for clip in train])
            sound = {"rate": rate, "mean": mean.tolist(), "deviation": deviation.tolist()}
        assets.values["sound"] = sound
        for part in PARTS:
            self._encoded(assets, part)
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> Transcriber:
        from throughtime.models.build import layers
        from throughtime.models.log_mel import NormalisedFrames
        from throughtime.models.transcriber import Transcriber

        sound = sound_of(assets)
        frames = NormalisedFrames(
            sound["mean"], sound["deviation"], self.front(assets).mels, time_masks=self.time_masks,
            frequency_masks=self.frequency_masks,
        )  # fmt: skip
        recurrent = layers(config, frames.embedding_dim)
        outputs = 2 + len(assets.labels["symbol"])  # the blank, the symbols, and what is none of them
        return Transcriber(frames, recurrent, config.outputs, outputs, dropout=config.dropout)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """-log P(text) of the rows that end in the batch, in nats."""
        found: Tensor = outputs.losses(batch.targets).sum()
        return found

    def flow_loss(self) -> Any:
        return lambda outputs, targets: outputs.losses(targets)

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.decoding.ctc import greedy
        from throughtime.metrics.transcription import CharacterErrorRate, WordErrorRate

        def decode(outputs: Any) -> list[list[int]]:
            return [list(each.symbols) for each in greedy(outputs.log_probabilities(), outputs.lengths)]

        text = partial(text_of, assets)
        return [
            CharacterErrorRate(decode, text, self._breakdowns(), lambda: assets.cache.get("beside", {})),
            WordErrorRate(decode, text),
        ]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.metrics.transcription import CharacterErrorRate

        clips = self._clips(assets, split)
        train = Counter(clip.text for clip in self._clips(assets, "train"))
        most = min(train, key=lambda text: (-train[text], text))
        found: dict[str, list[str]] = {"nothing": [""] * len(clips)}
        if self.data:
            found["the most frequent text"] = [most] * len(clips)
        else:
            from throughtime.data.inside.morse import sound
            from throughtime.tasks.baselines.transcribe import decode_morse

            found["envelope, threshold, table"] = [
                decode_morse(sound(message)) for message in self._messages()[split]
            ]
        values: dict[str, dict[str, float] | str] = {}
        for name, texts in found.items():
            metrics: list[Any] = self.metrics(assets)
            for clip, text in zip(clips, texts, strict=True):
                for metric in metrics:
                    metric.add(clip.text, text)
            values[name] = {metric.name: metric.value() for metric in metrics}
            if not self.data and isinstance(metrics[0], CharacterErrorRate) and any(texts):
                assets.cache["beside"] = {name: metrics[0].totals}
        return values

    def predict(self, model: Any, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The transcript of each recording, and its score: log P of the path that was taken, or of the best text of a beam.

        Each record has "path", a file; or "samples", numbers of full scale 1 at the run's rate.
        """
        from throughtime.tasks.transcribe_predict import transcripts

        return transcripts(self, model, assets, records)

    def predict_file(
        self, model: Any, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        """A recording; the recordings of a folder; or samples of 16 bits as they arrive, written as they are understood."""
        from throughtime.tasks.transcribe_predict import write_transcripts

        return write_transcripts(self, model, assets, file, out, form=form, skip_bad=skip_bad)

    def processor(self, model: Any, assets: Assets) -> TranscribeProcessor:
        """A transcription of sound that arrives piece by piece."""
        from throughtime.tasks.transcribe_predict import decoder_of
        from throughtime.tasks.transcribe_processor import TranscribeProcessor

        return TranscribeProcessor(self, assets, decoder_of(self, assets))

    def show(self, model: Any, assets: Assets, record: Record, picture: str | None = None) -> str:
        """The spectrogram, and under it the symbols where the model wrote them."""
        from throughtime.tasks.transcribe_predict import show

        return show(self, model, assets, record, picture)

    def describe(self, assets: Assets) -> str:
        source = (
            ", ".join(path.rstrip("/").rpartition("/")[2] for path in self.data)
            or "Morse code, keyed from a seed"
        )
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        front = self.front(assets)
        return (
            f"{source}: {sizes['train']:,} recordings to train on, {sizes['validation']:,} for validation, {sizes['test']:,} for "
            f"test; {len(assets.labels['symbol'])} characters; {front.mels} bands, a step each {1000 * front.seconds:g} ms"
            f"{remarks}"
        )

    def describe_loss(self, loss: float) -> str:
        return f"loss {loss:.3f} per character"

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        rate = sound_of(assets)["rate"]
        stream = [f"arecord -f S16_LE -r {rate} | throughtime predict {path} --format pcm"]
        return [
            f"throughtime predict {path} FILE.wav --show",
            *(stream if not config.bidirectional else []),
            f"throughtime evaluate {path} --split test",
        ]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        """The time of each step in hundredths of a second."""
        seconds = self.front(assets).seconds
        return [f"{100 * number * seconds:.0f}" for number in range(len(inputs))]

    def front(self, assets: Assets) -> LogMel:
        """From samples to what the model reads."""
        return self._front(sound_of(assets)["rate"])

    def _front(self, rate: int) -> LogMel:
        from throughtime.models.log_mel import LogMel

        settings = self.with_full_paths() if self.mels is None or self.low is None else self
        return LogMel(
            rate, window=self.frame, hop=self.hop, mels=settings.mels or 40, low=settings.low or 0.0,
            high=settings.high, stack=self.stack,
        )  # fmt: skip

    def _messages(self) -> dict[str, list[Message]]:
        """Messages in Morse code, by part: no word of one part is in another."""
        from throughtime.data.inside.morse import messages

        count = self.limit or MESSAGES
        held = {
            part: 0.0 if isinstance(value := getattr(self, part), str) else round(count * value)
            for part in PARTS[1:]
        }
        sizes = {"train": count - int(sum(held.values())), **held}
        return {part: messages(part, int(size), self.split_seed) for part, size in sizes.items()}

    def _breakdowns(self) -> list[Breakdown]:
        """The classes of noise and of speed, of Morse code."""
        from throughtime.data.inside.morse import SNR, SPEEDS
        from throughtime.metrics.transcription import Breakdown

        if self.data:
            return []
        held = [message for part, found in self._messages().items() if part != "train" for message in found]
        kinds = (("signal to noise", SNR, "dB", "snr", 5), ("speed", SPEEDS, "words/min", "speed", 2))
        return [
            Breakdown(
                f"{title} in {what}",
                tuple(f"{low:g} to {low + width:g}" for low in range(int(limits[0]), int(limits[1]), width)),
                {message.text: int((getattr(message, name) - limits[0]) // width) for message in held},
            )
            for title, limits, what, name, width in kinds
        ]

    def _clips(self, assets: Assets, split: str) -> list[Clip]:
        if "clips" not in assets.cache or split == "all":
            with nullcontext() if split == "all" else reading_again():
                clips, sources, _, _, _ = self._read(sound_of(assets)["rate"])
            if split == "all":
                return clips
            check_sources(assets, sources)
            assets.cache["clips"] = clips
        found, numbers = assets.cache["clips"], assets.splits.get(split, ())
        if max(numbers, default=0) >= len(found):
            raise RunError(
                f"the split in assets.json is damaged: it has recording {max(numbers)} of {len(found)}"
            )
        return [found[number] for number in numbers]

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], Tensor]:
        """Frames [t, F] of each recording, and the symbols of the texts [N, U], -100 behind them.

        Raises: InputError for a text that has no room in its frames.
        """
        import torch
        from torch.nn.utils.rnn import pad_sequence

        from throughtime.data.batch import IGNORE

        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            clips = self._clips(assets, split)
            numbers = {symbol: number for number, symbol in enumerate(assets.labels["symbol"], 1)}
            texts = [[numbers.get(each, len(numbers) + 1) for each in clip.text] for clip in clips]
            for clip, symbols in zip(clips, texts, strict=True):
                if problem := too_short(symbols, len(clip.frames), clip.text):
                    raise InputError(f"{clip.place}: {problem}")
            targets = torch.zeros(0, 1, dtype=torch.int64)
            if texts:
                rows = [torch.tensor(each) for each in texts]
                targets = pad_sequence(rows, batch_first=True, padding_value=IGNORE)
            assets.cache[key] = [clip.frames for clip in clips], targets
        found: tuple[list[Tensor], Tensor] = assets.cache[key]
        return found

    def _read(
        self, rate: int | None = None
    ) -> tuple[list[Clip], tuple[Source, ...], dict[str, list[int]], list[str], int]:
        """All recordings, the files they are from, the numbers of each part, what the user should know, and the rate.

        Those of `data` come first, then those of validation and test files.
        """
        from throughtime.tasks.transcribe_read import Reading

        if not self.data:
            return (*self._keyed(), [], 8000)
        return Reading(self, rate or self.rate).read()

    def _keyed(self) -> tuple[list[Clip], tuple[Source, ...], dict[str, list[int]]]:
        import torch

        from throughtime.data.inside.morse import RATE, sound

        for part in PARTS[1:]:
            if isinstance(getattr(self, part), str):
                raise InputError(
                    f"{part} is a file, and the training data is Morse code that is keyed here: give --data too"
                )
        front, clips, parts = self._front(RATE), list[Clip](), dict[str, list[int]]()
        for part, found in self._messages().items():
            parts[part] = list(range(len(clips), len(clips) + len(found)))
            clips += [
                Clip(front.of(torch.from_numpy(sound(message))), message.text, f"message {number} of {part}")
                for number, message in enumerate(found)
            ]
        return clips, (), parts


def too_short(symbols: Sequence[Any], frames: int, text: str) -> str:
    """What is wrong where a text does not fit into its frames; "" where it does."""
    from throughtime.decoding.ctc import least_frames

    if (needed := least_frames(symbols)) <= frames:
        return ""
    return (
        f"a target of {len(symbols)} symbols needs at least {needed} frames, the audio has {frames}: {text[:40]!r}; is it the "
        "text of another recording? A smaller stack or hop makes more frames"
    )


def text_of(assets: Assets, symbols: Iterable[int]) -> str:
    """The text of some symbols, numbered from 1."""
    known = assets.labels["symbol"]
    return "".join(known[number - 1] if number <= len(known) else UNKNOWN for number in symbols)


def sound_of(assets: Assets) -> dict[str, Any]:
    """Rate, mean and deviation of the frames.

    Raises: RunError where they are not there.
    """
    found = assets.values.get("sound")
    if (
        not isinstance(found, dict)
        or not {"rate", "mean", "deviation"} <= set(found)
        or "symbol" not in assets.labels
    ):
        raise RunError("the run's assets.json is damaged: it does not say what its sound is")
    return found
