"""The audio front end: samples to log-mel frames, and frames to what the layers read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from throughtime.errors import InputError, one_of

FORMULAS = ("htk", "slaney")
FLOOR = 1e-10  # of the energy in a filter, before the logarithm; samples have full scale 1


class LogMelState(NamedTuple):
    """What is carried from one chunk of samples to the next."""

    samples: Tensor  # [m], from the first sample of the next step on
    begun: bool = False  # whether a step was given


class LogMel(nn.Module):
    """Samples to the logarithms of the energies in mel-spaced frequency bands.

        P_t = |FFT(hann * x[t*hop : t*hop + window])|^2
        y_t[k] = ln(max(sum_f M[k, f] P_t[f], 1e-10)),   M: triangles, `mel_filters`

    Frame t reads the samples from t*hop on and none before: there is no padding in front, so that the first frame is there
    after `window` seconds. Behind the last sample stand as many zeros as the last frame needs, so that each sample is in a
    frame: a recording of n samples has 1 + ceil((n - window) / hop) frames, at least one. With `stack` k, a step is k frames one
    behind the other, and the steps are k hops apart: a layer then runs over k times fewer steps.

    Whole recordings (`forward`) and streams (`feed`, `flush`) give the same bits, however a stream is cut: each frame is
    computed from its own samples alone, and sums over frequencies are taken in one fixed order.

    The models of the tasks read frames, not samples: a task computes the frames of its data once with this module, where
    training would compute them in every epoch, and `predict` uses the module with the same settings, which are recorded in the
    run. Nothing of it is learned, and it adds nothing to a `state_dict`.

    Args:
        rate: samples in a second.
        window, hop: seconds. The FFT is of the next power of two samples.
        mels: frequency bands.
        low, high: their limits in Hz; high None: rate / 2.
        formula: of the mel scale, see `mel_filters`.
        stack: frames of a step.

    Attributes: embedding_dim, numbers of a step, mels * stack; seconds, from one step to the next; latency, seconds of samples
    that a step reads.
    Raises: InputError for a hop longer than the window, limits that are no band, and more bands than the FFT can tell apart.
    Cost: one FFT for each frame; a second of audio takes about a tenth of a millisecond.
    Source: Davis & Mermelstein 1980, IEEE Transactions on Acoustics, Speech, and Signal Processing 28(4), without the cosine
    transform.
    """

    hann: Tensor
    bins: Tensor
    weights: Tensor

    def __init__(
        self,
        rate: int,
        *,
        window: float = 0.025,
        hop: float = 0.010,
        mels: int = 40,
        low: float = 20.0,
        high: float | None = None,
        formula: str = "htk",
        stack: int = 1,
    ) -> None:
        super().__init__()
        if rate < 1 or mels < 1 or stack < 1:
            raise InputError(f"rate, mels and stack must be at least 1, got {rate}, {mels} and {stack}")
        self.rate, self.mels, self.stack = rate, mels, stack
        self.window, self.hop = round(window * rate), round(hop * rate)
        if not 1 <= self.hop <= self.window or self.window < 2:
            raise InputError(
                f"window must be at least 2 samples and hop from 1 sample up to the window, got {self.window} and {self.hop} "
                f"samples at {rate} Hz"
            )
        self.fft = 1 << (self.window - 1).bit_length()
        filters = mel_filters(rate, self.fft, mels, low, high, formula)
        bins, weights = _nonzero(filters)
        # Drawn from the settings, so they are not saved with the weights.
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        self.register_buffer("hann", torch.tensor(hann, dtype=torch.float32), persistent=False)
        self.register_buffer("bins", torch.tensor(bins), persistent=False)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)
        self.embedding_dim = mels * stack
        self.seconds = stack * self.hop / rate
        self.latency = self._span / rate

    @property
    def _span(self) -> int:
        """Samples that a step reads."""
        return (self.stack - 1) * self.hop + self.window

    def steps(self, samples: int) -> int:
        """The number of steps of a recording of so many samples."""
        if samples <= 0:
            return 0
        frames = 1 + max(0, -((self.window - samples) // self.hop))
        return -(-frames // self.stack)

    def forward(self, samples: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Whole recordings.

        Args:
            samples: float [B, n]; what lies behind a row's length is not read, and may be NaN.
            lengths: whole numbers [B]; None: all n.

        Returns: steps [T, B, mels * stack], zeros behind a row's end, and their number in each row, int64 [B].
        """
        if samples.dim() != 2:
            raise InputError(f"samples must be [B, n], got {list(samples.shape)}: one row for each recording")
        rows, n = samples.shape
        if lengths is None:
            lengths = torch.full((rows,), n)
        if lengths.shape != (rows,) or (rows and not 0 <= int(lengths.min()) <= int(lengths.max()) <= n):
            raise InputError(f"lengths must be [{rows}], from 0 to n = {n}, got {lengths.tolist()}")
        counts = torch.tensor([self.steps(int(length)) for length in lengths], dtype=torch.int64)
        longest = int(counts.max()) if rows else 0
        if not longest:
            return samples.new_zeros(0, rows, self.embedding_dim), counts
        inside = torch.arange(n, device=samples.device) < lengths.to(samples.device)[:, None]
        needed = (longest - 1) * self.stack * self.hop + self._span
        padded = samples.new_zeros(rows, max(needed, n))
        padded[:, :n] = samples.masked_fill(~inside, 0)
        y = self._stacked(padded[:, :needed], longest).transpose(0, 1)  # [T, B, F]
        ended = torch.arange(longest)[:, None] >= counts
        return y.masked_fill(ended.to(y.device).unsqueeze(-1), 0), counts

    def of(self, samples: Tensor) -> Tensor:
        """The steps of one recording: [n] to [t, mels * stack]."""
        return self.forward(samples[None])[0][:, 0]

    def initial_state(self) -> LogMelState:
        """Of a stream's beginning."""
        return LogMelState(self.hann.new_zeros(0))

    def feed(self, samples: Tensor, state: LogMelState | None = None) -> tuple[Tensor, LogMelState]:
        """The steps that are complete after the next samples of a stream.

        Args: samples, [n], n may be 0; state, what the last call returned, None at the beginning.
        Returns: [t, mels * stack], t may be 0, and the state, at most `latency` seconds of samples.
        """
        if samples.dim() != 1:
            raise InputError(f"the samples of a stream must be [n], got {list(samples.shape)}")
        state = state if state is not None else self.initial_state()
        held = torch.cat([state.samples, samples.to(state.samples)])
        count = max(0, 1 + (len(held) - self._span) // (self.stack * self.hop))
        if not count:
            return held.new_zeros(0, self.embedding_dim), LogMelState(held, state.begun)
        y = self._stacked(held[None], count)[0]
        return y, LogMelState(held[count * self.stack * self.hop :].clone(), True)

    def flush(self, state: LogMelState | None) -> Tensor:
        """The steps [t, mels * stack] at a stream's end: of the samples that are in no step yet, with zeros behind them."""
        state = state if state is not None else self.initial_state()
        left = len(state.samples)
        # After the first step the last `window - hop` samples are in a frame that was given already.
        count = self.steps(left) if not state.begun or left > self.window - self.hop else 0
        if not count:
            return state.samples.new_zeros(0, self.embedding_dim)
        padded = state.samples.new_zeros(1, (count - 1) * self.stack * self.hop + self._span)
        padded[0, :left] = state.samples
        return self._stacked(padded, count)[0]

    def _stacked(self, samples: Tensor, count: int) -> Tensor:
        """The first so many steps of [B, n] that has all their samples: [B, count, F]."""
        samples = samples[:, : (count - 1) * self.stack * self.hop + self._span]
        frames = samples.unfold(1, self.window, self.hop) * self.hann  # [B, count * stack, window]
        spectrum = torch.fft.rfft(frames, n=self.fft)
        power = spectrum.real * spectrum.real + spectrum.imag * spectrum.imag
        # Not a matrix product: its order of sums, and so its last bits, would depend on the number of frames.
        energy: Tensor = power[..., self.bins[0]] * self.weights[0]
        for at, weight in zip(self.bins[1:], self.weights[1:], strict=True):
            energy = energy + power[..., at] * weight
        return energy.clamp(min=FLOOR).log().reshape(len(samples), count, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, window={self.window}, hop={self.hop}, mels={self.mels}, stack={self.stack}"


def mel_filters(
    rate: int, fft: int, mels: int, low: float = 20.0, high: float | None = None, formula: str = "htk"
) -> NDArray[np.float64]:
    """Triangles [mels, fft / 2 + 1] over the frequencies f * rate / fft of an FFT, their corners evenly spaced on the mel scale.

    Filter k rises from 0 at corner k to 1 at corner k + 1 and falls to 0 at corner k + 2.
    htk:    mel = 2595 log10(1 + Hz / 700)
    slaney: linear below 1000 Hz, 15 mel there, and logarithmic above, 27 mel for a factor of 6.4
    Source: O'Shaughnessy 1987, Speech Communication (as in the HTK Book, section 5.4); Slaney 1998, Auditory Toolbox, Interval
    Research technical report 1998-010. Slaney's division of each triangle by its area is not made: after a logarithm it is a
    constant, and normalising frames removes it.
    Raises: InputError for limits that are no band below rate / 2, and for a filter that covers no frequency of the FFT.
    """
    one_of("formula", formula, FORMULAS)
    high = rate / 2 if high is None else high
    if not 0 <= low < high <= rate / 2:
        raise InputError(
            f"low and high must be frequencies with 0 <= low < high <= {rate / 2:g} Hz, half the rate, got {low:g} and {high:g}"
        )
    first, last = _mel(np.array([low, high]), formula).tolist()
    corners = _hertz(np.linspace(first, last, mels + 2), formula)[:, None]
    frequencies = np.arange(fft // 2 + 1) * rate / fft
    left, peak, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (frequencies - left) / (peak - left), (right - frequencies) / (right - peak)
    filters: NDArray[np.float64] = np.clip(np.minimum(rising, falling), 0, None)
    if (empty := ~(filters > 0).any(1)).any():
        k = int(empty.argmax())
        raise InputError(
            f"{mels} mel filters are too many: filter {k + 1}, {left[k, 0]:.0f} to {right[k, 0]:.0f} Hz, covers no frequency of "
            f"an FFT of {fft} samples at {rate} Hz ({rate / fft:.1f} Hz apart); use fewer, or a longer window"
        )
    return filters


def _mel(hertz: NDArray[np.float64], formula: str) -> NDArray[np.float64]:
    if formula == "htk":
        return 2595 * np.log10(1 + hertz / 700)
    return np.where(
        hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4)
    )


def _hertz(mel: NDArray[np.float64], formula: str) -> NDArray[np.float64]:
    if formula == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


def _nonzero(filters: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The frequencies that each filter covers and their weights, both [most of them, mels], behind a filter's own zeros."""
    covered = [np.flatnonzero(row) for row in filters]
    most = max(map(len, covered))
    bins = np.zeros((most, len(filters)), np.int64)
    weights = np.zeros((most, len(filters)))
    for k, at in enumerate(covered):
        bins[: len(at), k], weights[: len(at), k] = at, filters[k, at]
    return bins, weights


class NormalisedFrames(nn.Module):
    """Frames [..., F] less the mean of the training part, divided by its deviation: what the layers of a model read.

    Both are buffers, saved with the weights: the same for each frame, so that nothing of a recording's future is in them. In
    training, `time_masks` spans of steps and `frequency_masks` spans of mel bands, drawn from torch's generator for each row,
    are set to the mean (SpecAugment).

    Args: mean, deviation, [F] each (`frame_statistics`); mels, of the F = stack * mels numbers of a step, for frequency masks;
    time_masks, frequency_masks, how many; longest_time, as a fraction of the T steps, longest_frequency, of the bands: each
    span is from 0 to that long.
    Source: Park et al. 2019, Interspeech, SpecAugment, without time warping.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        mean: Sequence[float] | Tensor,
        deviation: Sequence[float] | Tensor,
        mels: int | None = None,
        *,
        time_masks: int = 0,
        frequency_masks: int = 0,
        longest_time: float = 0.2,
        longest_frequency: float = 0.2,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).clone())
        self.register_buffer("deviation", torch.as_tensor(deviation, dtype=torch.float32).clone())
        if self.mean.dim() != 1 or self.mean.shape != self.deviation.shape:
            raise InputError(
                f"mean and deviation must be [F], got {list(self.mean.shape)} and {list(self.deviation.shape)}"
            )
        self.embedding_dim = len(self.mean)
        self.mels = mels or self.embedding_dim
        self.time_masks, self.frequency_masks = time_masks, frequency_masks
        self.longest_time, self.longest_frequency = longest_time, longest_frequency

    def forward(self, frames: Tensor) -> Tensor:
        """[T, B, F], or [..., F] in eval mode, to the same shape."""
        if frames.shape[-1] != self.embedding_dim:
            raise InputError(f"frames must have {self.embedding_dim} features, got {frames.shape[-1]}")
        y = (frames - self.mean) / self.deviation
        if not self.training or not (self.time_masks or self.frequency_masks):
            return y
        steps, rows = y.shape[:2]
        masked = y.new_zeros(steps, rows, 1, dtype=torch.bool)
        for _ in range(self.time_masks):
            masked = masked | _spans(rows, steps, self.longest_time, y.device).T.unsqueeze(-1)
        bands = y.new_zeros(rows, self.mels, dtype=torch.bool)
        for _ in range(self.frequency_masks):
            bands = bands | _spans(rows, self.mels, self.longest_frequency, y.device)
        return y.masked_fill(masked | bands.repeat(1, self.embedding_dim // self.mels), 0)

    def extra_repr(self) -> str:
        masks = f", time_masks={self.time_masks}, frequency_masks={self.frequency_masks}"
        return f"{self.embedding_dim}{masks if self.time_masks or self.frequency_masks else ''}"


def frame_statistics(frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each of F features over all steps of [t, F] tensors: [F] each, in float64.

    A feature that is always the same gets the deviation 1.
    """
    count = sum(map(len, frames))
    if not count:
        raise InputError("expected frames to take mean and deviation of, got none")
    mean = torch.stack([each.double().sum(0) for each in frames]).sum(0) / count
    variance = torch.stack([(each.double() - mean).square().sum(0) for each in frames]).sum(0) / count
    deviation = variance.sqrt()
    return mean, torch.where(deviation > 1e-6, deviation, 1.0)


def _spans(rows: int, size: int, longest: float, device: Any) -> Tensor:
    """A span in each row, of 0 to longest * size places: bool [rows, size]."""
    width = (torch.rand(rows, 1, device=device) * (longest * size + 1)).floor()
    start = (torch.rand(rows, 1, device=device) * (size - width + 1)).floor()
    at = torch.arange(size, device=device)
    return (at >= start) & (at < start + width)
