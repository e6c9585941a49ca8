"""Word vectors from text files, and words as numbers."""

from __future__ import annotations

import gzip

import pytest
import torch

from throughtime.data.readers.vectors import read_vectors, vector_rows
from throughtime.data.words import COLUMNS, SHAPES, WordTable, shape_of, tokenized
from throughtime.errors import InputError

PLAIN = "the 1 2 3\nCat 4 5 6\nnew york -1 0 .5\n"


def write(tmp_path, text, name="vectors.txt"):
    data = text.encode() if isinstance(text, str) else text
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (PLAIN, "glove.txt"),
        ("3 3\n" + PLAIN, "word2vec.txt"),
        ("3 3\n" + PLAIN.replace("\n", " \n"), "fasttext.vec"),  # each line ends with a space
        (PLAIN.replace(" ", "\t").replace("new\tyork", "new york"), "tabs.txt"),
        (PLAIN, "glove.txt.gz"),
        ("\ufeff" + PLAIN.replace("\n", "\r\n"), "windows.txt"),
    ],
)
def test_formats(tmp_path, text, name):
    found = read_vectors(write(tmp_path, text, name))
    assert found.words == ("the", "Cat", "new york") and found.remarks == ()
    torch.testing.assert_close(found.values, torch.tensor([[1.0, 2, 3], [4, 5, 6], [-1, 0, 0.5]]))
    assert found.source.bytes == (tmp_path / name).stat().st_size


def test_only_wanted_words_are_kept(tmp_path):
    path = write(tmp_path, PLAIN + "dog 7 x 9\n")  # a damaged number of a word that nobody wants
    assert read_vectors(path, {"Cat", "bird"}).words == ("Cat",)
    assert read_vectors(path, {"Cat"}, first=1).words == ("the", "Cat")
    assert read_vectors(path, set()).values.shape == (0, 3)


def test_what_is_odd_is_said(tmp_path):
    found = read_vectors(write(tmp_path, b"5 2\na 1 2\nb 3 4\na 5 6\n\xff 7 8\n"))
    assert found.words == ("a", "b") and found.values.tolist() == [[1, 2], [3, 4]]
    first, second, third = found.remarks
    assert "announces 5 words and has 4" in first
    assert "1 words come more than once" in second and "1 words are not UTF-8" in third


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb 3\n", "vectors.txt:2: expected a word and 2 numbers, got 1 numbers"),
        ("a 1 2\nb 3 4 5\n", "vectors.txt:2: expected a word and 2 numbers, got 3 numbers"),
        ("2 3\na 1 2 3\nb 1 2\n", "vectors.txt:3: expected a word and 3 numbers, got 2 numbers"),
        ("a 1 2\nb 3 x\n", r"vectors.txt:2: expected 2 numbers, got b'x'"),
        ("a 1 2\nb 3 nan\n", "vectors.txt:2: expected finite numbers"),
        ("a 1 2\nb 3 1e99\n", "vectors.txt:2: expected finite numbers"),
        ("word\n", "vectors.txt:1: expected a word and its numbers, got"),
        ("", "holds no word vectors"),
    ],
)
def test_what_cannot_be_read(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_vectors(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_damaged_gzip_and_missing_files(tmp_path):
    path = write(tmp_path, PLAIN, "v.gz")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match="is a damaged gzip file"):
        read_vectors(path)
    with pytest.raises(InputError, match="cannot read"):
        read_vectors(tmp_path / "none.txt")
    with pytest.raises(InputError, match="got a folder or a pipe"):
        read_vectors(tmp_path)


def test_words_are_looked_up_in_several_forms():
    rows = vector_rows(["The", "1999", "CAT", "Cat", "dog"], ["the", "0000", "cat", "Cat"])
    assert rows.tolist() == [1, 2, 3, 4, 0]


def test_words_as_numbers():
    table = WordTable.build(
        [["The", "cat", "the", "1984"], ["the", "Cat"]], vectors=["cat"], lower=True, min_count=2, length=4
    )
    assert table.words == ("the", "cat")
    rows = table.encode(["The", "cats", "CAT", "1990", "?", "abcdefgh"])
    assert rows.shape == (6, COLUMNS + 4) and rows.dtype == torch.int64
    assert rows[:, 0].tolist() == [1, 0, 2, 0, 0, 0]
    assert rows[:, 1].tolist() == [0, 0, 1, 0, 0, 0]
    assert rows[:, 2].tolist() == [2, 1, 3, 5, 8, 1]
    assert table.decode(rows[1]) == "cat?" and table.decode(rows[2]) == "C?T"
    assert table.decode(rows[5]) == "a??h"  # its first two characters and its last two
    again = WordTable.from_values(table.to_values())
    assert torch.equal(again.encode(["The", "cats"]), table.encode(["The", "cats"]))
    assert table.encode([]).shape == (0, COLUMNS + 4)
    with pytest.raises(InputError, match=r"the words in assets\.json are damaged"):
        WordTable.from_values({**table.to_values(), "words": [1]})


def test_shapes():
    shapes = [shape_of(word) for word in ("cat", "Cat", "CAT", "caT", "12", "a1", "猫", "?!")]
    assert shapes == list(range(1, SHAPES))


def test_typed_text_is_divided():
    text = "Anna's dog (42) e-mailed @bob #fun: http://a.b/c?d U.S... x_y!=z"
    tokens = tokenized(text)
    assert [token.text for token in tokens] == [
        "Anna's", "dog", "(", "42", ")", "e-mailed", "@bob", "#fun", ":", "http://a.b/c?d", "U.S", "...", "x_y", "!", "=", "z",
    ]  # fmt: skip
    assert all(text[token.start : token.end] == token.text for token in tokens)
