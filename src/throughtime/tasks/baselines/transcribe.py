"""Morse code without learning: the envelope of the tone, a threshold, durations in clusters, a table."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from throughtime.data.inside.morse import CODE, PITCHES, RATE

Numbers = NDArray[np.float64]
_LETTERS = {code: letter for letter, code in CODE.items()}
_HOP = 16  # samples between values of the envelope: 2 ms
_DOTS = np.geomspace(
    1.2 / 45, 1.2 / 7, 9
)  # seconds of a dot that are looked for: 45 down to 7 words per minute
_WIDTHS = (0.3, 0.7)  # of the filter, in dots: short for a strong tone, long for a weak one

Runs = list[tuple[bool, float]]  # (key down, seconds)


def decode_morse(samples: NDArray[np.float32]) -> str:
    """The text of a recording of one Morse signal at 8 kHz.

    1. The pitch is where the mean spectrum is largest, within PITCHES and a little around them.
    2. The envelope is the magnitude of the signal shifted to 0 Hz and smoothed; a slow drift of the pitch stays inside.
    3. Key down is where the envelope is above a fraction of the tone's level around it, so fading is followed, and clearly
       above the noise, which is measured beside the tone; it must fall lower to end than it rose to begin. Marks and gaps much
       shorter than a dot are removed.
    4. This is done for several dot lengths and filters. Of all, that one is taken whose durations lie nearest to 1 and 3 dots
       of tone and 1, 3 and 7 of silence.
    5. Durations are read with a dot length that follows the hand's speed; a table gives the letters, and a code that is not in
       it is left out.

    It makes hardly an error where there is no noise. Cost: some milliseconds for each second.
    """
    signal = np.asarray(samples, np.float64)
    if len(signal) < RATE // 10:
        return ""
    pitch = _pitch(signal)
    tone, *beside = (_shifted(signal, pitch + offset) for offset in (0.0, -200.0, 200.0))
    best, text = np.inf, ""
    for dot in _DOTS:
        for width in _WIDTHS:
            envelope = _smoothed(tone, width * dot)
            noise = min(float(np.median(_smoothed(each, width * dot))) / 1.177 for each in beside)
            runs = _without_short(_runs(_key(envelope, noise, dot)), 0.35 * dot)
            if len(runs) < 3:
                continue
            found, cost = _dot_length(runs, dot)
            if cost < best:
                best, text = cost, _read(runs, found)
    return text


def _pitch(signal: Numbers) -> float:
    """Hz of the tone."""
    size = 2048
    padded = np.pad(signal, (0, max(0, size - len(signal))))
    starts = range(0, len(padded) - size + 1, size // 2)
    frames = np.stack([padded[start : start + size] for start in starts]) * np.hanning(size)
    power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).mean(0)
    power = np.convolve(
        power, np.hanning(9) / np.hanning(9).sum(), "same"
    )  # a drift spreads the tone over some frequencies
    hertz = np.arange(len(power)) * RATE / size
    inside = (hertz > PITCHES[0] - 50) & (hertz < PITCHES[1] + 50)
    return float(hertz[inside][power[inside].argmax()])


def _shifted(signal: Numbers, hertz: float) -> NDArray[np.complex128]:
    """The signal with that frequency at 0 Hz, a low pass of 8 ms, every _HOP samples."""
    window = np.hanning(round(0.008 * RATE))
    base = signal * np.exp(-2j * np.pi * hertz * np.arange(len(signal)) / RATE)
    size = 1 << (len(base) + len(window)).bit_length()
    spectrum = np.fft.fft(base, size) * np.fft.fft(window / window.sum(), size)
    start = len(window) // 2
    found: NDArray[np.complex128] = np.fft.ifft(spectrum)[start : start + len(base) : _HOP]
    return found


def _smoothed(base: NDArray[np.complex128], seconds: float) -> Numbers:
    """The magnitude of a Hann-weighted mean over twice so many seconds."""
    window = np.hanning(2 * max(1, round(seconds * RATE / _HOP)) + 1 + 2)[1:-1]
    padded = np.pad(base, len(window))
    found: Numbers = np.abs(np.convolve(padded, window / window.sum(), "same"))[len(window) : -len(window)]
    return found


def _key(envelope: Numbers, noise: float, dot: float) -> NDArray[np.bool_]:
    """Where the key is down.

    Args: noise, the Rayleigh scale of the envelope where there is noise alone.
    """
    near = _running_max(envelope, 2.5 * dot)  # follows fast fading; between words there is no tone so near
    far = _running_max(envelope, 12 * dot)
    level = np.maximum(near, 0.3 * far)
    up, down = np.maximum(0.45 * level, 3.0 * noise), np.maximum(0.38 * level, 2.2 * noise)
    states = np.where(envelope > up, 1, np.where(envelope < down, 0, -1))
    states[0] = max(states[0], 0)
    known = np.maximum.accumulate(np.where(states >= 0, np.arange(len(states)), 0))
    found: NDArray[np.bool_] = states[known] == 1
    return found


def _running_max(envelope: Numbers, seconds: float) -> Numbers:
    """The largest value within so many seconds before and after each place, smoothed over as long."""
    span = max(1, round(seconds * RATE / _HOP))
    padded = np.pad(envelope, span, mode="edge")
    peaks = np.lib.stride_tricks.sliding_window_view(padded, 2 * span + 1).max(1)
    window = np.hanning(span + 2)[1:-1]
    ends = np.pad(peaks, len(window), mode="edge")
    smooth: Numbers = np.convolve(ends, window / window.sum(), "same")[len(window) : -len(window)]
    return smooth


def _runs(key: NDArray[np.bool_]) -> Runs:
    """(key down, seconds), one after the other; the first and the last are gaps."""
    edges = np.flatnonzero(np.diff(key.astype(np.int8))) + 1
    bounds = [0, *edges.tolist(), len(key)]
    runs = [(bool(key[start]), (stop - start) * _HOP / RATE) for start, stop in pairwise(bounds)]
    if runs[0][0]:
        runs.insert(0, (False, 0.0))
    if runs[-1][0]:
        runs.append((False, 0.0))
    return runs


def _without_short(runs: Runs, least: float) -> Runs:
    """Runs shorter than that become part of their neighbours, the shortest first."""
    runs = list(runs)
    while len(runs) > 3:
        at = min(range(1, len(runs) - 1), key=lambda place: runs[place][1])
        if runs[at][1] >= least:
            break
        joined = (runs[at - 1][0], sum(length for _, length in runs[at - 1 : at + 2]))
        runs[at - 1 : at + 2] = [joined]
    return runs


def _dot_length(runs: Runs, near: float) -> tuple[float, float]:
    """Seconds of a dot near a first guess, and the mean distance of all durations from whole numbers of them, in logarithms."""
    inner = runs[1:-1]
    marks = np.log([seconds for down, seconds in inner if down])
    gaps = np.log([seconds for down, seconds in inner if not down])
    candidates = np.log(np.geomspace(0.75 * near, 1.33 * near, 40))[:, None]
    cost = np.zeros(len(candidates))
    for logs, units in ((marks, (1, 3)), (gaps, (1, 3, 7))):
        distances = np.min([np.abs(logs - np.log(unit) - candidates) for unit in units], axis=0)
        cost += np.minimum(distances, 1.0).sum(1)
    best = int(cost.argmin())
    return float(np.exp(candidates[best, 0])), float(cost[best]) / len(inner)


def _read(runs: Runs, dot: float) -> str:
    """The text, with a dot length that follows the durations."""
    text, code = "", ""
    for number, (down, seconds) in enumerate(runs):
        units = seconds / dot
        if down:
            nearest = 1 if units < 1.9 else 3
            code += "." if nearest == 1 else "-"
            dot *= (np.clip(units / nearest, 0.7, 1.4)) ** 0.12
        elif number and (units > 2 or number == len(runs) - 1):
            text += _LETTERS.get(code, "")
            text += " " if units > 4.9 and number < len(runs) - 1 else ""
            code = ""
    return " ".join(text.split())
