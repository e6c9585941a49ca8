"""Recordings from WAV, FLAC and OGG files, as mono samples at one rate."""

from __future__ import annotations

import hashlib
import io
import math
import wave
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError

SUFFIXES = (".wav", ".flac", ".ogg")
SILENCE = 1e-4  # of full scale: a recording whose samples are all nearer to 0 is refused; 3 steps of 16 bits

Samples = NDArray[np.float32]


class Recording(NamedTuple):
    """The samples of one file, as they are in it."""

    samples: Samples  # [n, channels], full scale is -1 to 1
    rate: int  # samples in a second
    source: Source


class Recordings(NamedTuple):
    """The samples of some files, mono, all at one rate."""

    samples: list[Tensor]  # float32 [n] each
    rate: int
    kept: list[int]  # the numbers of the files they are from: all, or those that could be read
    sources: tuple[Source, ...]  # one for each of them
    remarks: tuple[str, ...] = ()  # what the user should be told once: resampled, averaged, left out


def read_recordings(
    files: Sequence[str | Path], rate: int | None = None, *, skip_bad: bool = False, advice: str = ""
) -> Recordings:
    """Read recordings, average their channels, and resample them to one rate.

    Args:
        files: WAV, FLAC or OGG. Without soundfile only WAV with whole-number samples is read.
        rate: samples in a second; None: the rate that most of the files have, the lower of two that are equally frequent.
        skip_bad: leave out files that cannot be read, and name the first in the remarks.
        advice: what an error about a file's content says at its end.

    Raises: InputError naming the file that is missing, empty, damaged or silent (see SILENCE), has samples that are no finite
        numbers, or needs a library that is not installed; where no file is left.
    Cost: all samples in memory, four bytes each.
    """
    found: list[tuple[int, Recording]] = []
    bad: list[str] = []
    for number, file in enumerate(files):
        try:
            found.append((number, read_recording(file)))
        except UnreadableError as error:
            if not skip_bad:
                raise InputError(f"{error}{advice}") from None
            bad.append(str(error))
    remarks = [f"bad recordings skipped: {len(bad)}; the first is {bad[0]}"] if bad else []
    if not found:
        raise InputError("; ".join(["expected recordings, found none that can be read", *remarks]))
    rates = Counter(each.rate for _, each in found)
    wanted = rate or min(rates, key=lambda each: (-rates[each], each))
    for other, count in sorted(rates.items()):
        if other != wanted:
            remarks.append(f"{_files(count)} resampled from {other} Hz to {wanted} Hz")
    if several := sum(each.samples.shape[1] > 1 for _, each in found):
        remarks.append(f"{_files(several)} with several channels, which were averaged")
    return Recordings(
        [torch.from_numpy(resampled(mono(each.samples), each.rate, wanted)) for _, each in found],
        wanted,
        [number for number, _ in found],
        tuple(each.source for _, each in found),
        tuple(remarks),
    )


class UnreadableError(InputError):
    """What is in a file is no recording that can be used."""


def read_recording(file: str | Path) -> Recording:
    """Read one file.

    Raises: UnreadableError for what is in the file, InputError where it cannot be opened or needs soundfile.
    """
    data, source = read_bytes(file)
    if not data:
        raise UnreadableError(f"{file}: expected a recording, got an empty file")
    try:
        soundfile: Any = import_module("soundfile")
    except (ImportError, OSError):  # OSError: the package is there, and its C library is not
        samples, rate = _pcm(data, file)
    else:
        try:
            samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            reason = str(getattr(error, "error_string", error)).rstrip(".")
            raise UnreadableError(
                f"{file}: cannot be read as a recording (WAV, FLAC, OGG): {reason}"
            ) from None
    if not samples.size:
        raise UnreadableError(f"{file}: expected a recording, got one of no samples")
    if not np.isfinite(samples).all():
        raise UnreadableError(f"{file}: expected finite samples, got NaN or infinity")
    if np.abs(samples).max() < SILENCE:
        raise UnreadableError(f"{file}: is silent: no sample is above {SILENCE:g} of full scale")
    return Recording(samples, int(rate), source)


def mono(samples: Samples) -> Samples:
    """[n, channels] to [n], the mean of the channels."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(1, dtype=np.float32)


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Samples [n] at another rate, [ceil(n * wanted / rate)], after a low-pass filter (scipy.signal.resample_poly).

    Raises: InputError without SciPy.
    """
    if rate == wanted:
        return np.ascontiguousarray(samples)
    try:
        signal: Any = import_module("scipy.signal")
    except ImportError:
        raise InputError(
            f"recordings at {rate} Hz are resampled to {wanted} Hz with SciPy, which is not installed: "
            "pip install 'throughtime[audio]'"
        ) from None
    shared = math.gcd(rate, wanted)
    found = signal.resample_poly(samples.astype(np.float64), wanted // shared, rate // shared)
    return np.asarray(found, np.float32)


def fingerprint(folder: str | Path, names: Sequence[str], sources: Sequence[Source]) -> Source:
    """One fingerprint of many files: their names and their checksums, in their order."""
    digest = hashlib.sha256()
    for name, source in zip(names, sources, strict=True):
        digest.update(f"{name}\0{source.sha256}\n".encode())
    return Source(str(Path(folder).resolve()), digest.hexdigest(), sum(source.bytes for source in sources))


def _pcm(data: bytes, file: str | Path) -> tuple[Samples, int]:
    """What Python's own wave module reads: whole numbers of 8 to 32 bits, as the same numbers that soundfile gives."""
    if data[:4] != b"RIFF":
        raise InputError(
            f"{file}: recordings that are not WAV are read with soundfile, which is not installed: "
            "pip install 'throughtime[audio]'"
        )
    try:
        with wave.open(io.BytesIO(data)) as opened:
            width, channels, rate = opened.getsampwidth(), opened.getnchannels(), opened.getframerate()
            raw = opened.readframes(opened.getnframes())
    except (wave.Error, EOFError) as error:
        if "unknown format" in str(error):
            raise InputError(
                f"{file}: WAV files of other than whole-number samples are read with soundfile, which is not installed: "
                "pip install 'throughtime[audio]'"
            ) from None
        raise UnreadableError(f"{file}: cannot be read as WAV: {error or 'its header is cut off'}") from None
    if not (1 <= width <= 4 and channels and rate):
        raise UnreadableError(f"{file}: cannot be read as WAV: its header is damaged")
    raw = raw[: len(raw) // (width * channels) * width * channels]
    if width == 1:  # of 8 bits, and only of 8 bits, WAV has no sign
        whole = np.frombuffer(raw, np.uint8).astype(np.int32) - 128
    else:  # the bytes of a number, the least first, to the upper bytes of 32 bits
        wide = np.zeros((len(raw) // width, 4), np.uint8)
        wide[:, 4 - width :] = np.frombuffer(raw, np.uint8).reshape(-1, width)
        whole = wide.view("<i4")[:, 0] >> (8 * (4 - width))
    return (whole / np.float64(1 << (8 * width - 1))).astype(np.float32).reshape(-1, channels), rate


def _files(count: int) -> str:
    return f"{count:,} file{'s' if count > 1 else ''}"
