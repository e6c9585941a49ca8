"""Recordings with labels: folders, tables and names, and what is refused."""

from __future__ import annotations

import re
import wave

import numpy as np
import pytest

from throughtime.data.readers.labelled_audio import holds_audio, read_labelled
from throughtime.errors import InputError


def write_wav(path, hertz=440, rate=8000, samples=400):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.sin(2 * np.pi * hertz * np.arange(samples) / rate) * 10_000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(x.astype("<i2").tobytes())
    return path


@pytest.fixture
def folder(tmp_path):
    for label in ("yes", "no"):
        for number in range(2):
            write_wav(tmp_path / "words" / label / f"{number}.wav", 300 + 100 * number)
    write_wav(tmp_path / "words" / "yes" / "more" / "2.WAV", 900)
    write_wav(tmp_path / "words" / "no" / ".hidden.wav")
    (tmp_path / "words" / "README.txt").write_text("no recording")
    return tmp_path / "words"


def test_a_folder_for_each_class(folder):
    table = read_labelled([folder])
    assert list(table.columns) == ["path", "label"]
    names = [sound.name.removeprefix(f"{folder}/") for sound in table["path"]]
    assert names == ["no/0.wav", "no/1.wav", "yes/0.wav", "yes/1.wav", "yes/more/2.WAV"]
    assert table["label"] == ("no", "no", "yes", "yes", "yes")
    assert all(len(sound.samples) == 400 and sound.rate == 8000 for sound in table["path"])
    (source,) = table.sources
    assert source.path == str(folder)
    write_wav(folder / "no" / "0.wav", 1000)
    assert read_labelled([folder]).sources[0].sha256 != source.sha256


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_table_of_paths_from_its_own_folder_on(folder, suffix):
    table = folder / f"list.{suffix}"
    rows = [("yes/0.wav", "yes", "anna"), (str(folder / "no" / "1.wav"), "no", "ben")]
    if suffix == "jsonl":
        table.write_text(
            "".join(f'{{"path": "{p}", "label": "{label}", "who": "{who}"}}\n' for p, label, who in rows)
        )
    else:
        between = "," if suffix == "csv" else "\t"
        table.write_text("".join(between.join(row) + "\n" for row in [("File", "label", "who"), *rows]))
    found = read_labelled([table], others=("who",))
    assert found["label"] == ("yes", "no") and found["who"] == ("anna", "ben")
    assert [sound.samples.shape for sound in found["path"]] == [(400,), (400,)]
    before = found.sources[0].sha256
    write_wav(folder / "yes" / "0.wav", 1000)
    assert read_labelled([table]).sources[0].sha256 != before  # the recordings count


def test_labels_and_groups_in_the_names_of_files(tmp_path):
    for name in ("7_anna_0", "7_ben_12", "3_anna_1"):
        write_wav(tmp_path / f"{name}.wav")
    pattern = re.compile(r"(?P<label>\d)_(?P<group>[a-z]+)_\d+")
    found = read_labelled([tmp_path], others=("group",), pattern=pattern)
    assert found["label"] == ("3", "7", "7") and found["group"] == ("anna", "anna", "ben")
    single = read_labelled([tmp_path / "7_ben_12.wav"], pattern=pattern)
    assert single["label"] == ("7",)
    with pytest.raises(InputError, match="no group called 'who', its groups are label, group"):
        read_labelled([tmp_path], others=("who",), pattern=pattern)
    write_wav(tmp_path / "10_anna_0.wav")  # the whole name must match: this is no 0
    with pytest.raises(InputError, match=r"10_anna_0.wav: label_from must match"):
        read_labelled([tmp_path], pattern=pattern)


def test_what_is_refused_names_file_and_row(folder, tmp_path):
    with pytest.raises(InputError, match=r"no column 'who'"):
        read_labelled([folder], others=("who",))
    write_wav(folder / "lost.wav")
    with pytest.raises(InputError, match=r"got lost.wav in the folder itself"):
        read_labelled([folder])
    with pytest.raises(InputError, match=r"a single recording has no label"):
        read_labelled([folder / "lost.wav"])
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"expected .wav, .flac, .ogg files"):
        read_labelled([tmp_path / "none"])
    table = folder / "list.csv"
    table.write_text("path,label\nyes/0.wav,yes\nyes/9.wav,yes\n")
    with pytest.raises(InputError, match=r"list.csv:3: yes/9.wav: no such file") as raised:
        read_labelled([table])
    assert "\n" not in str(raised.value)
    table.write_text("path,label\nyes/0.wav,\n")
    with pytest.raises(InputError, match=r"list.csv:2: expected 'label' to hold text"):
        read_labelled([table])
    table.write_text("path,class_\nyes/0.wav,a\n")
    with pytest.raises(InputError, match=r"list.csv:1: expected a column 'label'"):
        read_labelled([table])
    with pytest.raises(InputError, match="leave label_from out"):
        read_labelled([table], pattern=re.compile("(?P<label>.)"))


def test_bad_recordings_are_left_out_and_counted(folder):
    (folder / "yes" / "0.wav").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"yes/0.wav: .*--skip-bad"):
        read_labelled([folder])
    found = read_labelled([folder], skip_bad=True)
    assert len(found) == 4 and found.skipped == 1
    assert re.match(rf"bad recordings skipped: 1; the first is {folder}/yes/0.wav: ", found.remarks[0])
    for file in folder.rglob("*.[wW][aA][vV]"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="found none in"):
        read_labelled([folder], skip_bad=True)


def test_what_holds_audio(folder, tmp_path):
    assert holds_audio(folder) and holds_audio(folder / "yes" / "0.wav")
    assert not holds_audio(tmp_path / "absent")
    for content, expected in (
        ("path,label\na.wav,x\n", True),
        ("Filename,class\na.wav,x\n", True),
        ("path,text,label\na.wav,hello,x\n", False),
        ("text,label\nhello,x\n", False),
    ):
        (tmp_path / "t.csv").write_text(content)
        assert holds_audio(tmp_path / "t.csv") is expected, content
    (tmp_path / "t.jsonl").write_text('{"path": "a.wav", "label": "x"}\n')
    assert holds_audio(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": "x"}\n')
    assert not holds_audio(tmp_path / "t.jsonl")
    (tmp_path / "texts" / "x").mkdir(parents=True)
    (tmp_path / "texts" / "x" / "1.txt").write_text("a")
    assert not holds_audio(tmp_path / "texts")
