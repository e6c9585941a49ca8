"""Transcripts of recordings, of folders of them, and of sound as it arrives."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from throughtime.data.assets import Assets
from throughtime.data.batch import Batch
from throughtime.data.readers.audio import UnreadableError, mono, read_recording, resampled
from throughtime.data.readers.records import Records, open_source, write_records
from throughtime.data.readers.transcripts import plain_text, recordings_in, spaced_text
from throughtime.decoding.ctc import Beam, Decoder, Greedy, Symbol
from throughtime.decoding.state import Step
from throughtime.errors import InputError
from throughtime.layers.eval_mode import evaluating
from throughtime.sessions.engine import engine_of
from throughtime.sessions.stream import Stream, stream
from throughtime.tasks.task import Record, field_of
from throughtime.tasks.transcribe import TranscribeTask, text_of
from throughtime.tasks.transcribe_processor import samples_of

_READ = 4096  # bytes of a stream that are asked for at once; fewer are taken where fewer have come


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
    """The steps [t, F] of a record, and the log-probabilities [t, V]; a model that reads forward gives those of a stream."""
    front = task.front(assets)
    if "samples" in record and "path" not in record:
        samples = samples_of(record["samples"])
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
        outputs = Stream(engine_of(model, stepwise=True)).feed(steps)
        return steps, outputs.cpu().float().log_softmax(-1)
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
        _write_stream(task, model, assets, file, out)
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


def _write_stream(task: TranscribeTask, model: nn.Module, assets: Assets, file: str, out: IO[str]) -> None:
    """Write the text of 16-bit samples as they arrive, raw or in a WAV stream, and a new line at the end."""
    processor = task.processor(model, assets)
    running = stream(model, processor)
    with open_source(file) as source:
        held = _header(source, processor.rate, "standard input" if file == "-" else file)
        read = getattr(source, "read1", source.read)
        while True:
            data = read(_READ)
            held += data
            whole = len(held) // 2 * 2
            text = running.feed(held[:whole])["text"]
            held = held[whole:]
            if text:
                out.write(text)
                out.flush()
            if not data:
                break
    out.write(running.flush()["text"] + "\n")
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
