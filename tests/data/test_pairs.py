"""Pairs of sentences in each format, and every way in which a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from throughtime.data.readers.pairs import Pairs, read_pairs
from throughtime.errors import InputError

EN, FR = ["Go.", "I lost.", 'It\'s 5, "or" six'], ["Va !", "J'ai perdu.", "C'est cinq\u202f?"]


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def both(found: Pairs) -> tuple[list[str], list[str]]:
    return found.sources, found.targets


def test_all_formats_hold_the_same_pairs(tmp_path: Path) -> None:
    rows = list(zip(EN, FR, strict=True))
    quoted = [(a.replace('"', '""'), b) for a, b in rows]
    files = {
        "tsv": [write(tmp_path / "a.tsv", "".join(f"{a}\t{b}\n" for a, b in rows))],
        "txt": [write(tmp_path / "a.txt", "\ufeff" + "\r\n".join(f"{a}\t{b}" for a, b in rows) + "\n\n")],
        "header": [write(tmp_path / "h.tsv", "Source\tid\tTarget\n" + "".join(f"{a}\t7\t{b}\n" for a, b in rows))],
        "csv": [write(tmp_path / "a.csv", "target,source\n" + "".join(f'"{b}","{a}"\n' for a, b in quoted))],
        "jsonl": [write(tmp_path / "a.jsonl", "".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in rows))],
        "aligned": [
            write(tmp_path / "x.en", "\n".join([EN[0], "", *EN[1:]])),
            write(tmp_path / "x.fr", "\n".join([FR[0], "", *FR[1:], ""])),
        ],
        "two files": [
            write(tmp_path / "1.txt", f"{EN[0]}\t{FR[0]}\n"),
            write(tmp_path / "2.tsv", "".join(f"{a}\t{b}\n" for a, b in rows[1:])),
        ],
    }  # fmt: skip
    for name, paths in files.items():
        found = read_pairs(paths)
        assert both(found) == (EN, FR), name
        assert [Path(each.path).name for each in found.files] == [Path(path).name for path in paths]
        assert bool(found.remarks) == (name == "header"), name
    assert read_pairs(files["tsv"], "2", "1").sources == FR


def test_columns_by_name_and_further_ones_are_said_to_be_ignored(tmp_path: Path) -> None:
    file = write(tmp_path / "t.txt", "Go.\tVa !\tCC-BY 2.0 #1\nRun!\tCours !\tCC-BY 2.0 #2\n")
    found = read_pairs([file])
    assert both(found) == (["Go.", "Run!"], ["Va !", "Cours !"])
    assert found.remarks == [f"{file}: column 3 not read"]
    file = write(tmp_path / "t.csv", "en,de,fr\nyes,ja,oui\n")
    assert both(read_pairs([file], "en", "fr")) == (["yes"], ["oui"])
    with pytest.raises(InputError, match=r"expected a column 'source', the columns are 'en', 'de', 'fr'"):
        read_pairs([file])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.tsv", "a\tb\nc\n", r"t\.tsv:2: expected 2 fields \(1, 2\), got 1: \['c'\]; correct the row, or .* --skip-bad"),
        ("t.tsv", "a\tb\n\nc\t\n", r"t\.tsv:3: expected '2' to hold text, got an empty field"),
        ("t.tsv", "a\tb\n  \tc\n", r"t\.tsv:2: expected '1' to hold text"),
        ("t.tsv", "a\tb\nc\td\te\n", r"t\.tsv:2: expected 2 fields \(1, 2\), got 3"),
        ("t.tsv", b"a\tb\nc\t\xff\n", r"t\.tsv:2: expected UTF-8"),
        ("t.csv", "source,target\na\n", r"t\.csv:2: expected 2 fields"),
        ("t.jsonl", '{"source": "a", "target": "b"}\n{"source": "a"}\n', r"t\.jsonl:2: expected a field 'target', got 'source'"),
        ("t.jsonl", '{"source": "a", "target": 5}\n', r"t\.jsonl:1: expected 'target' to be a string, got 5"),
        ("t.tsv", "\n", r"t\.tsv: expected lines SOURCE TAB TARGET, got no tab in ''"),
        ("t.txt", "only one side\n", r"t\.txt: expected lines SOURCE TAB TARGET, got no tab in 'only one side'; or name"),
        ("t.txt", "a\tb\n".encode("utf-16"), r"t\.txt must be UTF-8, got UTF-16"),
    ],
)  # fmt: skip
def test_a_pair_that_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_pairs([write(tmp_path / name, text)])
    assert "\n" not in str(error.value)


def test_bad_pairs_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "t.tsv", b"a\tb\nc\nd\te\tf\n\tg\nh\t\xff\ni\tj\n")
    found = read_pairs([file], skip_bad=True)
    assert both(found) == (["a", "i"], ["b", "j"])
    assert found.remarks == [
        f"{file}: 4 bad rows skipped; the first is {file}:2: expected 2 fields (1, 2), got 1: ['c']"
    ]
    first, second = write(tmp_path / "a.en", b"a\nb\n\xff\nd\n"), write(tmp_path / "a.fr", b"A\n\nC\nD\n")
    found = read_pairs([first, second], skip_bad=True)
    assert both(found) == (["a", "d"], ["A", "D"])
    assert found.remarks == [
        f"2 bad pairs skipped; the first is {second}:2: expected a sentence, got an empty line"
    ]
    with pytest.raises(
        InputError, match=r"a\.fr:2: expected a sentence, got an empty line; correct the line, or leave"
    ):
        read_pairs([first, second])
    with pytest.raises(InputError, match=r"found none in .*t\.tsv; .*2 bad rows skipped"):
        read_pairs([write(tmp_path / "t.tsv", "a\t\nb\t\n")], skip_bad=True)


def test_aligned_files_must_have_equally_many_lines_and_come_in_twos(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.en", "a\nb\nc\n"), write(tmp_path / "a.fr", "A\nB\n")
    with pytest.raises(InputError, match=r"equally many lines, got 3 in .*a\.en and 2 in .*a\.fr"):
        read_pairs([first, second])
    with pytest.raises(InputError, match=r"a\.en: expected lines SOURCE TAB TARGET"):
        read_pairs([first, second, first])
    with pytest.raises(InputError, match="name columns, and two aligned files have none"):
        read_pairs([first, first], "1", "2")
    # Other line ends of Unicode are no line ends here.
    odd = write(tmp_path / "b.en", "a\u2028b\x85c\nd\r\n")
    assert read_pairs([odd, second]).sources == ["a\u2028b\x85c", "d\r"]


def test_the_french_sentences(data_dir: Path) -> None:
    found = read_pairs([str(data_dir / "fra_eng" / "fra.txt")])
    assert len(found.sources) == len(found.targets) == 167_130
    assert (found.sources[0], found.targets[0]) == ("Go.", "Va !") and not found.remarks
