"""Recordings: with soundfile and without, rates, channels, and files that are none."""

from __future__ import annotations

import struct
import sys
import wave

import numpy as np
import pytest
import torch

from throughtime.data.readers.audio import SILENCE, read_recording, read_recordings
from throughtime.errors import InputError


def write_wav(path, samples, rate=8000, width=2, channels=1):
    """Samples from -1 to 1, [n] or [n, channels], as whole numbers of so many bytes."""
    full = 1 << (8 * width - 1)
    whole = np.clip(np.round(np.asarray(samples) * full), -full, full - 1).astype(np.int64).flatten()
    if width == 1:
        whole = whole + 128
    data = b"".join(int(each).to_bytes(width, "little", signed=width > 1) for each in whole)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def tone(hertz, rate=8000, samples=801):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)


@pytest.fixture
def without_soundfile(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_python_reads_the_numbers_that_soundfile_reads(tmp_path, monkeypatch, width, channels):
    pytest.importorskip("soundfile")
    x = np.random.default_rng(0).uniform(-1, 1, (77, channels))
    x[0], x[1] = -1, 1
    path = write_wav(tmp_path / "a.wav", x, width=width, channels=channels)
    first = read_recording(path)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    second = read_recording(path)
    assert first.samples.shape == (77, channels) and first.samples.dtype == second.samples.dtype == np.float32
    assert np.array_equal(first.samples, second.samples)
    assert (first.rate, first.source) == (second.rate, second.source)
    np.testing.assert_allclose(first.samples, x, atol=1.01 / (1 << (8 * width - 1)))


@pytest.mark.parametrize("suffix", ["flac", "ogg"])
def test_other_formats_are_read_with_soundfile(tmp_path, monkeypatch, suffix):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"a.{suffix}"
    x = tone(440, samples=4000)
    soundfile.write(path, x, 8000)
    found = read_recordings([path])
    assert found.rate == 8000
    error = (found.samples[0].double() - torch.from_numpy(x)).abs().mean()
    assert error < (1e-4 if suffix == "flac" else 0.05)  # OGG loses something
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(InputError, match=rf"a.{suffix}: .*pip install 'throughtime\[audio\]'"):
        read_recordings([path])


def test_channels_are_averaged_and_the_user_is_told(tmp_path):
    x = np.stack([tone(440), tone(300)], 1)
    files = [write_wav(tmp_path / "a.wav", x, channels=2), write_wav(tmp_path / "b.wav", tone(440))]
    found = read_recordings(files)
    torch.testing.assert_close(found.samples[0].double(), torch.from_numpy(x.mean(1)), atol=1e-4, rtol=0)
    assert found.remarks == ("1 file with several channels, which were averaged",)


def test_a_tone_stays_the_tone_at_another_rate(tmp_path):
    pytest.importorskip("scipy")
    files = [
        write_wav(tmp_path / f"{rate}-{n}.wav", tone(440, rate, rate // 2), rate)
        for rate, n in ((8000, 0), (8000, 1), (44100, 0), (6000, 0))
    ]
    found = read_recordings(files)
    assert found.rate == 8000  # that of most files
    assert found.remarks == (
        "1 file resampled from 6000 Hz to 8000 Hz",
        "1 file resampled from 44100 Hz to 8000 Hz",
    )
    for samples in found.samples:
        assert len(samples) == 4000 and samples.dtype == torch.float32
        middle = samples[500:-500]  # the filter sees zeros around the recording
        torch.testing.assert_close(
            middle.double(), torch.from_numpy(tone(440, 8000, 4000))[500:-500], atol=2e-3, rtol=0
        )
    assert read_recordings(files[:2], 4000).remarks == ("2 files resampled from 8000 Hz to 4000 Hz",)
    assert read_recordings([files[0], files[2]]).rate == 8000  # equally many: the lower


def test_resampling_removes_what_the_new_rate_cannot_hold(tmp_path):
    pytest.importorskip("scipy")
    path = write_wav(tmp_path / "a.wav", tone(3500, samples=4000))
    assert read_recordings([path], 4000).samples[0][200:-200].abs().max() < 0.01


def test_without_scipy_another_rate_says_what_to_install(tmp_path, monkeypatch):
    path = write_wav(tmp_path / "a.wav", tone(440))
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    assert read_recordings([path], 8000).rate == 8000
    with pytest.raises(InputError, match=r"8000 Hz .* 4000 Hz with SciPy.*throughtime\[audio\]"):
        read_recordings([path], 4000)


def bad_files(folder):
    """Files that are no recordings, and what is said of each."""
    empty = folder / "empty.wav"
    empty.write_bytes(b"")
    text = folder / "text.wav"
    text.write_bytes(b"this is no recording, whatever its name says")
    good = write_wav(folder / "good.wav", tone(440)).read_bytes()
    cut = folder / "cut.wav"
    cut.write_bytes(good[:30])
    none = folder / "none.wav"
    none.write_bytes(good[:40] + struct.pack("<I", 0))
    silent = write_wav(folder / "silent.wav", np.zeros(300))
    quiet = write_wav(folder / "quiet.wav", np.full(300, 0.9 * SILENCE))
    found = [(empty, "empty file"), (text, "cannot be read"), (cut, "cannot be read"), (none, "no samples")]
    return [*found, (silent, "is silent"), (quiet, "is silent")]


def test_a_file_that_is_no_recording_is_one_line_with_its_name(tmp_path):
    pytest.importorskip("soundfile")
    for path, what in bad_files(tmp_path):
        with pytest.raises(InputError, match=rf"{path.name}: .*{what}") as raised:
            read_recordings([tmp_path / "good.wav", path])
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"no such file|missing|cannot|does not exist|not found"):
        read_recordings([tmp_path / "absent.wav"])


def test_without_soundfile_a_damaged_wav_is_one_line_too(tmp_path, without_soundfile):
    for path, what in bad_files(tmp_path):
        expected = what if path.name != "text.wav" else "not WAV"
        with pytest.raises(InputError, match=rf"{path.name}: .*{expected}") as raised:
            read_recordings([path])
        assert "\n" not in str(raised.value)


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    x = tone(440).astype(np.float32)
    x[5] = np.nan
    soundfile.write(tmp_path / "a.wav", x, 8000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"a.wav: .*NaN"):
        read_recordings([tmp_path / "a.wav"])


def test_bad_files_are_left_out_counted_and_named(tmp_path):
    pytest.importorskip("soundfile")
    bad = [path for path, _ in bad_files(tmp_path)]
    good = tmp_path / "good.wav"
    found = read_recordings([bad[0], good, *bad[1:], good], skip_bad=True)
    assert found.kept == [1, len(bad) + 1] and len(found.samples) == len(found.sources) == 2
    assert found.remarks[0].startswith(f"bad recordings skipped: {len(bad)}; the first is {bad[0]}")
    with pytest.raises(InputError, match="none that can be read"):
        read_recordings(bad, skip_bad=True)
