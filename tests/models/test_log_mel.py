"""The audio front end against a direct Fourier sum in float64; streams against whole recordings."""

from __future__ import annotations

import math

import pytest
import torch

from throughtime.errors import InputError
from throughtime.models.log_mel import LogMel, NormalisedFrames, frame_statistics, mel_filters

SETTINGS = [
    {"rate": 8000},
    {"rate": 8000, "stack": 3, "mels": 23},
    {"rate": 16000, "window": 0.032, "hop": 0.032, "stack": 2, "formula": "slaney", "mels": 17},
    {"rate": 1001, "window": 0.013, "hop": 0.009, "mels": 3, "low": 0.0, "high": 400.0},
]


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.3


def hertz_to_mel(hertz: float, formula: str) -> float:
    if formula == "htk":
        return 2595 * math.log10(1 + hertz / 700)
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def mel_to_hertz(mel: float, formula: str) -> float:
    """By bisection: not the inverse that the module has."""
    low, high = 0.0, 1e5
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if hertz_to_mel(middle, formula) < mel else (low, middle)
    return low


def by_hand(x: torch.Tensor, front: LogMel, low: float, high: float, formula: str) -> torch.Tensor:
    """The definition, sum by sum, in float64."""
    first, last = hertz_to_mel(low, formula), hertz_to_mel(high, formula)
    corners = [
        mel_to_hertz(first + (last - first) * k / (front.mels + 1), formula) for k in range(front.mels + 2)
    ]
    x = x.double()
    frames = []
    start = 0
    while True:
        part = torch.zeros(front.window, dtype=torch.float64)
        there = x[start : start + front.window]
        part[: len(there)] = there
        n = torch.arange(front.window, dtype=torch.float64)
        part = part * (0.5 - 0.5 * torch.cos(2 * math.pi * n / front.window))
        row = torch.zeros(front.mels, dtype=torch.float64)
        for f in range(front.fft // 2 + 1):
            angle = 2 * math.pi * f * n / front.fft
            power = float((part * angle.cos()).sum() ** 2 + (part * angle.sin()).sum() ** 2)
            hertz = f * front.rate / front.fft
            for k in range(front.mels):
                left, peak, right = corners[k : k + 3]
                weight = min((hertz - left) / (peak - left), (right - hertz) / (right - peak))
                row[k] += max(weight, 0) * power
        frames.append(row.clamp(min=1e-10).log())
        if start + front.window >= len(x):
            break
        start += front.hop
    while len(frames) % front.stack:
        frames.append(torch.full((front.mels,), math.log(1e-10), dtype=torch.float64))
    return torch.stack(frames).view(-1, front.embedding_dim)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("samples", [1, 555])
def test_a_frame_is_the_definition_in_float64(settings, samples):
    front = LogMel(**settings)
    x = noise(samples)
    low, high = settings.get("low", 20.0), settings.get("high", front.rate / 2)
    expected = by_hand(x, front, low, high, settings.get("formula", "htk"))
    found = front.of(x)
    assert found.shape == expected.shape == (front.steps(samples), front.embedding_dim)
    # float32: 1e-6 of the largest energy of a frame is what a band of little energy can be wrong by
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)
    assert (found.double() - expected).abs().mean() < 2e-5


def test_the_frames_are_those_of_torch_stft():
    front = LogMel(8000, window=0.032, mels=20)  # 256 samples: the window is the FFT
    x = noise(256 + 80 * 6)
    spectrum = torch.stft(x, 256, 80, window=front.hann, center=False, return_complex=True).abs() ** 2
    expected = (torch.tensor(mel_filters(8000, 256, 20)).float() @ spectrum).log().T
    torch.testing.assert_close(front.of(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("chunk", [1, 7, 80, 333, 10_000])
def test_a_stream_gives_the_bits_of_the_whole_recording(settings, chunk):
    front = LogMel(**settings)
    for samples in (1, front.window, front.window + 1, front._span + front.stack * front.hop, 1777):
        x = noise(samples, samples)
        state, parts = None, []
        for start in range(0, samples, chunk):
            steps, state = front.feed(x[start : start + chunk], state)
            parts.append(steps)
            assert len(state.samples) < front._span  # no more is carried than the next step needs
        parts.append(front.flush(state))
        found = torch.cat(parts)
        assert len(found) == front.steps(samples)
        assert torch.equal(found, front.of(x))


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_batch_gives_each_row_its_own_bits_and_never_reads_padding(settings):
    front = LogMel(**settings)
    sizes = [903, 1, 0, front.window, 1403]
    x = torch.full((len(sizes), 1500), float("nan"))
    for row, size in enumerate(sizes):
        x[row, :size] = noise(size, row)
    y, lengths = front(x, torch.tensor(sizes))
    assert lengths.tolist() == [front.steps(size) for size in sizes]
    assert lengths[2] == 0 and len(y) == lengths.max()
    for row, size in enumerate(sizes):
        assert torch.equal(y[: lengths[row], row], front.of(x[row, :size]))
        assert not y[lengths[row] :, row].any()


def test_every_sample_is_in_a_step():  # but the first, whose weight in a Hann window is 0
    front = LogMel(8000, mels=13, stack=2)
    for samples in (2, 200, 201, 280, 281, 359, 360, 361, 1000):
        x = noise(samples)
        other = x.clone()
        other[-1] += 5.0
        assert not torch.equal(front.of(x)[-1], front.of(other)[-1]), samples


def test_a_tone_is_loudest_in_the_band_around_it():
    front = LogMel(8000, mels=30, low=0.0)
    corners = [mel_to_hertz(hertz_to_mel(4000.0, "htk") * k / 31, "htk") for k in range(32)]
    for k in (3, 11, 25):
        tone = torch.sin(2 * math.pi * corners[k + 1] * torch.arange(1600) / 8000)
        assert front.of(tone)[3].argmax() == k


def test_settings_that_cannot_be_are_refused():
    for settings, what in (
        ({"mels": 200}, "too many"),
        ({"hop": 0.1}, "hop"),
        ({"low": 5000.0}, "low and high"),
        ({"high": 4001.0}, "low and high"),
        ({"formula": "bark"}, "formula"),
        ({"stack": 0}, "stack"),
    ):
        with pytest.raises(InputError, match=what):
            LogMel(8000, **settings)
    front = LogMel(8000)
    with pytest.raises(InputError, match="lengths"):
        front(torch.zeros(2, 300), torch.tensor([300, 301]))
    with pytest.raises(InputError, match=r"\[B, n\]"):
        front(torch.zeros(300))
    with pytest.raises(InputError, match="stream"):
        front.feed(torch.zeros(1, 300))
    assert not front.state_dict()  # nothing to save: it follows from the settings


def test_normalised_frames_have_mean_0_and_deviation_1():
    frames = [torch.randn(t, 5) * 7 + 100 for t in (3, 11, 8)]
    for each in frames:
        each[:, 4] = 2.5  # the same everywhere
    embedding = NormalisedFrames(*frame_statistics(frames)).eval()
    y = embedding(torch.cat(frames))
    torch.testing.assert_close(y.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, unbiased=False), torch.tensor([1.0, 1, 1, 1, 0]), atol=1e-5, rtol=0)
    assert set(embedding.state_dict()) == {"mean", "deviation"}


def test_masks_are_spans_of_steps_and_bands_in_training_alone():
    steps, rows, mels, stack = 30, 9, 10, 2
    embedding = NormalisedFrames(
        torch.zeros(mels * stack), torch.ones(mels * stack), mels, time_masks=1, frequency_masks=1
    )
    x = torch.ones(steps, rows, mels * stack)
    assert torch.equal(embedding.eval()(x), x)
    torch.manual_seed(3)
    y = embedding.train()(x)
    torch.manual_seed(3)
    assert torch.equal(embedding(x), y)
    times, bands = (y == 0).all(2), (y == 0).all(0)
    assert times.any() and bands.any()
    assert torch.equal(bands[:, :mels], bands[:, mels:])  # the same bands in each frame of a step
    assert torch.equal(y == 0, times.unsqueeze(-1) | bands)
    for row in range(rows):
        for masked, most in ((times[:, row], 6), (bands[row, :mels], 2)):
            places = masked.nonzero().flatten().tolist()
            assert len(places) <= most
            assert places == list(range(places[0], places[0] + len(places))) if places else True
    assert len({tuple(times[:, row].tolist()) for row in range(rows)}) > 1  # drawn for each row
