"""Transcripts of recordings, of folders of them, and of sound as it arrives."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from throughtime.data.assets import Assets
from throughtime.data.batch import Batch
from throughtime.data.readers.audio import UnreadableError, mono, read_recording, resampled
from throughtime.data.readers.records import Records, open_source, write_records
from throughtime.data.readers.transcripts import plain_text, recordings_in, spaced_text
from throughtime.decoding.ctc import Beam, Decoder, Greedy, Symbol
from throughtime.decoding.state import Step
from throughtime.errors import InputError
from throughtime.layers.eval_mode import evaluating
from throughtime.models.log_mel import LogMelState
from throughtime.tasks.task import Record, field_of
from throughtime.tasks.transcribe import TranscribeTask, text_of

_READ = 4096  # bytes of a stream that are asked for at once; fewer are taken where fewer have come


class ListenerState(NamedTuple):
    """What a `Listener` carries from one piece of sound to the next."""

    front: LogMelState | None
    model: Any
    decoder: Decoder
    space: bool  # a space that is written once something follows it
    begun: bool  # whether something was written


class Listener:
    """A transcription of one sound that arrives in pieces of any size.

        listener = throughtime.load("runs/morse").listen()
        for piece in pieces:
            print(listener.feed(piece), end="")
        print(listener.flush())

    The pieces change nothing: down to single samples, the text together is that of the whole sound, and the emissions are the
    same bits, since frames have the same bits and the layers read one step at a time.

    Attributes: rate, samples in a second; seconds, of a step; delay, seconds of sound from the beginning of a step until the
    model has read it: the length of its frames. Greedy decoding writes a character in the step in which it is recognized; a beam
    writes what all its texts agree on.
    Raises: InputError for a bidirectional model, which reads from the end too.
    Cost: one call of the layers for each step, of one row.
    """

    def __init__(self, task: TranscribeTask, model: Any, assets: Assets) -> None:
        if getattr(model, "bidirectional", False):
            raise InputError(
                "a bidirectional model cannot transcribe sound as it arrives: its backward half starts at the end; train one "
                "without --bidirectional, or give it whole recordings"
            )
        self._model, self._assets, self._front = model, assets, task.front(assets)
        self._new = decoder_of(task, assets)
        self.rate, self.seconds, self.delay = self._front.rate, self._front.seconds, self._front.latency
        self.reset()

    def reset(self) -> None:
        """Go back to before the first sample."""
        self._state = ListenerState(None, None, self._new.copy(), False, False)

    def feed(self, samples: Any) -> str:
        """The text that is new with the next samples [n]: real numbers of full scale 1, or whole numbers of 16 bits."""
        frames, front = self._front.feed(_samples(samples), self._state.front)
        self._state = self._state._replace(front=front)
        return self._text(self._state.decoder.feed(self.emissions(frames)))

    def flush(self) -> str:
        """The rest of the text, at the end of the sound; the listener is at a new beginning then."""
        frames = self._front.flush(self._state.front)
        decoder = self._state.decoder
        text = self._text([*decoder.feed(self.emissions(frames)), *decoder.flush()])
        self.reset()
        return text

    def emissions(self, frames: Tensor) -> Tensor:
        """Log-probabilities [t, V] of the next steps [t, F]; the state of the layers goes on."""
        found, state = [], self._state.model
        device = next(self._model.parameters()).device
        with evaluating(self._model), torch.inference_mode():
            for frame in frames.to(device):
                outputs, state = self._model(frame[None, None], state)
                found.append(outputs.log_probabilities()[:, 0].cpu())
        self._state = self._state._replace(model=state)
        symbols = 2 + len(self._assets.labels["symbol"])
        return torch.cat(found) if found else torch.zeros(0, symbols)

    def snapshot(self) -> ListenerState:
        """A copy of the current state, for `restore`, any number of times."""
        copied: ListenerState = tree_map_only(Tensor, lambda leaf: leaf.detach().clone(), self._state)
        return copied._replace(decoder=self._state.decoder.copy())

    def restore(self, state: ListenerState) -> None:
        """Go back to a state that `snapshot` copied."""
        self._state = state._replace(decoder=state.decoder.copy())

    def _text(self, symbols: Iterable[Symbol]) -> str:
        """The text of new symbols: no space at the beginning or the end, and none twice."""
        written = ""
        space, begun = self._state.space, self._state.begun
        for character in text_of(self._assets, (each.symbol for each in symbols)):
            if character == " ":
                space = begun
                continue
            written += " " + character if space else character
            space, begun = False, True
        self._state = self._state._replace(space=space, begun=begun)
        return written


def _samples(values: Any) -> Tensor:
    """Samples [n] as float32 of full scale 1; whole numbers are of 16 bits."""
    found = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if found.dim() != 1 or found.is_complex():
        raise InputError(f"samples must be [n], one channel, got {list(found.shape)}")
    found = found.float() if found.is_floating_point() else found.float() / 32768
    if not bool(found.isfinite().all()):
        raise InputError("expected finite samples, got NaN or infinity")
    return found


def decoder_of(task: TranscribeTask, assets: Assets) -> Decoder:
    """The decoder that the task's options ask for."""
    if task.beam == 1:
        return Greedy()
    lm = None if task.lm is None else language_model(task.lm, assets.labels["symbol"])
    return Beam(task.beam, prune=task.prune, lm=lm, alpha=task.lm_weight, beta=task.length_bonus)


def language_model(path: str, symbols: tuple[str, ...]) -> Step:
    """A step over the symbols of a transcriber, the blank first and the unknown last, of a run of the task text.

    The beginning is a new line, or a space where the run knows none.
    Raises: InputError for a run of another task, or of other symbols than characters; RunError for no run.
    """
    from throughtime.runs import Run
    from throughtime.tasks.recorded import restore_model, task_of

    run = Run.open(path)
    task = task_of(run)
    kinds = [each.kind for each in run.assets.vocabularies.values()]
    if task.name != "text" or kinds != ["char"]:
        raise InputError(
            f"lm must be a run of the task text with --tokens char, got {path}, a run of {task.name} "
            f"with {', '.join(kinds) or 'no'} symbols"
        )
    vocabulary, model = run.assets.vocabulary, restore_model(run, task)
    begin = next((mark for mark in "\n " if not vocabulary.unknown_symbols(mark)), symbols[0])
    ids = torch.cat([vocabulary.encode(each) for each in (begin, *symbols, "\N{REPLACEMENT CHARACTER}")])

    def step(state: Any, chosen: Tensor) -> tuple[Tensor, Any]:
        with torch.inference_mode():
            logits, state = model(ids[chosen][None], state)
        return logits[0].log_softmax(-1)[:, ids], state

    return step


def transcripts(
    task: TranscribeTask, model: nn.Module, assets: Assets, records: Iterable[Record]
) -> Iterator[Record]:
    """See `TranscribeTask.predict`."""
    decoder = decoder_of(task, assets)
    for record in records:
        _, log_probabilities = _heard(task, model, assets, record)
        _, text, score = _decoded(assets, decoder, log_probabilities)
        yield {"transcript": text, "score": round(score, 4)}


def _heard(task: TranscribeTask, model: Any, assets: Assets, record: Record) -> tuple[Tensor, Tensor]:
    """The steps [t, F] of a record, and the log-probabilities [t, V]; a model that reads forward gives those of a `Listener`."""
    front = task.front(assets)
    if "samples" in record and "path" not in record:
        samples = _samples(record["samples"])
    else:
        file = str(field_of(record, "path"))
        try:
            recording = read_recording(file)
        except UnreadableError as error:
            raise InputError(str(error)) from None
        samples = torch.from_numpy(resampled(mono(recording.samples), recording.rate, front.rate))
    if not len(samples):
        raise InputError("expected samples, got none")
    steps = front.of(samples)
    if not getattr(model, "bidirectional", False):
        return steps, Listener(task, model, assets).emissions(steps)
    with evaluating(model), torch.inference_mode():
        batch = Batch.of(steps[:, None], lengths=[len(steps)])
        outputs, _ = batch.to(next(model.parameters()).device).run(model)
    return steps, outputs.log_probabilities()[:, 0].cpu()


def _decoded(assets: Assets, decoder: Decoder, log_probabilities: Tensor) -> tuple[list[Symbol], str, float]:
    """Symbols, text and score of one recording; the decoder is at a new beginning then."""
    symbols = decoder.feed(log_probabilities)
    score = decoder.score
    symbols += decoder.flush()
    return symbols, " ".join(text_of(assets, (each.symbol for each in symbols)).split()), score


def write_transcripts(
    task: TranscribeTask,
    model: nn.Module,
    assets: Assets,
    file: str,
    out: IO[str],
    *,
    form: str,
    skip_bad: bool,
) -> str:
    """See `TranscribeTask.predict_file`."""
    if form == "pcm":
        _write_stream(Listener(task, model, assets), file, out)
        return ""
    if file == "-":
        raise InputError(
            f"{form} is not read from standard input: name a file, or use --format pcm for sound as it arrives"
        )
    if form == "table":
        return _write_table(task, model, assets, file, out, skip_bad)
    if form == "audio":
        found = next(transcripts(task, model, assets, [{"path": file}]))
        out.write(found["transcript"] + "\n")
        return ""
    files, bad = recordings_in(file), list[str]()
    if not files:
        raise InputError(f"{file}: expected recordings (WAV, FLAC, OGG), found none")
    for each in files:
        try:
            found = next(transcripts(task, model, assets, [{"path": str(each)}]))
        except InputError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
            continue
        out.write(f"{each.relative_to(file)}\t{found['transcript']}\n")
        out.flush()
    return f"{len(bad)} recordings skipped; the first: {bad[0]}" if bad else ""


def _write_table(
    task: TranscribeTask, model: nn.Module, assets: Assets, file: str, out: IO[str], skip_bad: bool
) -> str:
    """The rows of a table with their transcripts; paths are relative to its folder. With texts, also how good they are."""
    plain = plain_text if task.symbols == "plain" else spaced_text
    metrics: list[Any] = task.metrics(assets)
    write, count, bad = None, 0, list[str]()
    with open_source(file) as stream:
        records = Records(stream, ("path",), name=file, skip_bad=skip_bad)
        for record in records:
            path = Path(file).parent / record[records.found["path"]]
            try:
                found = next(transcripts(task, model, assets, [{"path": str(path)}]))
            except InputError as error:
                if not skip_bad:
                    raise InputError(f"{file}:{records.line}: {error}") from None
                bad.append(f"{file}:{records.line}: {error}")
                continue
            if text := plain(str(record.get(task.text, ""))):
                count += 1
                for metric in metrics:
                    metric.add(text, found["transcript"])
            row = record | {f"predicted_{name}" if name in record else name: found[name] for name in found}
            if write is None:
                write = write_records(out, records.format, list(row))
            write(row)
    remarks = [records.remark] if records.remark else []
    if bad:
        remarks.append(f"{len(bad)} recordings skipped; the first: {bad[0]}")
    if count:
        values = ", ".join(f"{metric.name} {metric.value():.4g}" for metric in metrics)
        remarks.append(f"{values}, over {count:,} rows with a text")
    return "; ".join(remarks)


def _write_stream(listener: Listener, file: str, out: IO[str]) -> None:
    """Write the text of 16-bit samples as they arrive, raw or in a WAV stream, and a new line at the end."""
    with open_source(file) as stream:
        held = _header(stream, listener.rate, "standard input" if file == "-" else file)
        read = getattr(stream, "read1", stream.read)
        while True:
            data = read(_READ)
            held += data
            whole = len(held) // 2 * 2
            text = listener.feed(np.frombuffer(held[:whole], "<i2")) if whole else ""
            held = held[whole:]
            if text:
                out.write(text)
                out.flush()
            if not data:
                break
    out.write(listener.flush() + "\n")
    out.flush()


def _header(stream: IO[bytes], rate: int, name: str) -> bytes:
    """The first samples of a stream, behind its WAV header if it has one.

    Raises: InputError for WAV of another form than 16 bits, one channel, and the model's rate.
    """
    start = stream.read(12)
    if start[:4] != b"RIFF":
        return start
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise InputError(f"{name}: the WAV stream ends in its header")
        kind, size = head[:4], struct.unpack("<I", head[4:])[0]
        if kind == b"data":  # its size is not known while it is recorded
            return b""
        content = stream.read(size + size % 2)
        if kind == b"fmt " and len(content) >= 16:
            form, channels, found, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if (form, channels, found, bits) != (1, 1, rate, 16):
                raise InputError(
                    f"{name}: expected a WAV stream of 16-bit samples, 1 channel, {rate} Hz, got {bits} bits, {channels} "
                    f"channels, {found} Hz (format {form}): record with -f S16_LE -c 1 -r {rate}"
                )


def show(
    task: TranscribeTask,
    model: nn.Module,
    assets: Assets,
    record: Record,
    picture: str | None = None,
    *,
    width: int = 100,
) -> str:
    """See `TranscribeTask.show`."""
    from throughtime.flow.drawing.spectrogram import Spectrogram

    steps, log_probabilities = _heard(task, model, assets, record)
    symbols, text, _ = _decoded(assets, decoder_of(task, assets), log_probabilities)
    front = task.front(assets)
    frames = steps.reshape(-1, front.mels)
    drawn = Spectrogram(
        frames,
        seconds=front.hop / front.rate,
        marks=tuple((each.frame * front.stack, text_of(assets, [each.symbol])) for each in symbols),
        certainty=1 - log_probabilities[:, 0].exp().repeat_interleave(front.stack)[: len(frames)],
    )
    if picture is not None:
        drawn.plot(picture, title=text)
    return f"{drawn.text(width=width)}\n{text}"
