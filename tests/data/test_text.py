"""Reading text: what comes in comes out, and each bad file is named in one line."""

import hashlib
import os
import threading

import pytest

from throughtime.data import embedded_text, find_dataset, letters_only
from throughtime.data.text import read_sources
from throughtime.errors import InputError


def test_files_are_joined_without_forming_words(tmp_path):
    first, second, third = (tmp_path / name for name in ("a b.txt", "é.txt", "c.txt"))
    first.write_bytes("\ufeffend".encode())
    second.write_bytes("start\r\nnaïve\r\n".encode())
    third.write_bytes(b"last")
    assert read_sources([first, second, third])[0] == "end\nstart\r\nnaïve\r\nlast"
    assert read_sources(third)[0] == read_sources(str(third))[0] == "last"


def test_each_file_has_its_fingerprint(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(b"one\n")
    (tmp_path / "b.txt").write_bytes("\ufefftwo".encode())
    monkeypatch.chdir(tmp_path)
    text, (first, second) = read_sources(["a.txt", "b.txt"])
    assert text == "one\ntwo"
    assert first == (str(tmp_path / "a.txt"), hashlib.sha256(b"one\n").hexdigest(), 4)
    assert second == (str(tmp_path / "b.txt"), hashlib.sha256("\ufefftwo".encode()).hexdigest(), 6)


@pytest.mark.parametrize("descriptor", [True, False])
def test_a_pipe_is_read_once_and_recorded_as_it_was_written(tmp_path, descriptor):
    if descriptor:  # what process substitution hands over
        read_end, write_end = os.pipe()
        os.write(write_end, b"through a pipe")
        os.close(write_end)
        path = f"/dev/fd/{read_end}"
        text, (source,) = read_sources(path)
        os.close(read_end)
    else:
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
        writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(b"through a pipe",))
        writer.start()
        text, (source,) = read_sources(path)
        writer.join()
    assert text == "through a pipe"
    assert source == (path, hashlib.sha256(b"through a pipe").hexdigest(), 14)


def bad_file(tmp_path, content):
    path = tmp_path / "it's bad.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"abc\0def", "NUL byte at position 3"),
        (b"one\ntwo\ncaf\xe9", r"byte 0xe9 at position 11 \(line 3\)"),
        (b"\xef\xbb\xbfab\xff", "byte 0xff at position 5"),
        (b"cut in a character \xe2\x82", "byte 0xe2 at position 19"),
        ("hi".encode("utf-16"), "got UTF-16"),
    ],
)
def test_bad_content_is_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read_sources([bad_file(tmp_path, content)])
    assert "\n" not in str(caught.value)
    assert "it's bad.txt" in str(caught.value)


def test_the_advice_can_be_pasted_into_a_shell(tmp_path):
    with pytest.raises(
        InputError, match=r"iconv -f LATIN1 -t UTF-8 '.*it'\"'\"'s bad\.txt' > converted\.txt"
    ):
        read_sources([bad_file(tmp_path, b"\xe9")])


def test_a_missing_file_offers_the_nearest(tmp_path):
    (tmp_path / "shakespeare.txt").write_text("to be")
    with pytest.raises(InputError, match=r"Did you mean 'shakespeare.txt'"):
        read_sources([tmp_path / "shakespear.txt"])
    with pytest.raises(InputError, match="there is no folder"):
        read_sources([tmp_path / "nowhere" / "book.txt"])
    with pytest.raises(InputError, match="got a folder"):
        read_sources([tmp_path])
    with pytest.raises(InputError, match="got none"):
        read_sources([])


def test_embedded_text_is_text():
    text = embedded_text()
    assert len(text) > 300_000
    assert text == embedded_text()
    assert not text.startswith("\n")


def test_letters_only_joins_lines_with_nothing():
    assert (
        letters_only("The  Time-Machine,\r\n  by H. G. Wells [1898]\n\n_É 3x_")
        == "the time machineby h g wellsé x"
    )


def test_the_time_machine_has_its_published_length(time_machine):
    text = letters_only(time_machine)
    assert len(text) == 170_580
    assert len(set(text)) == 27


def test_a_missing_data_set_says_where_it_was_looked_for(tmp_path, monkeypatch):
    (tmp_path / "time_machine").mkdir()
    monkeypatch.setenv("THROUGHTIME_DATA", str(tmp_path))
    assert find_dataset("time_machine") == tmp_path / "time_machine"
    with pytest.raises(InputError, match=f"{tmp_path}.*THROUGHTIME_DATA.*Did you mean 'time_machine'"):
        find_dataset("time_machin")
    monkeypatch.delenv("THROUGHTIME_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="THROUGHTIME_DATA is not set"):
        find_dataset("time_machine")
