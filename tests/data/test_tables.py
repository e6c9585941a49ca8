"""Labelled examples: every format read whole, every bad row named with its line, nothing read ahead."""

import io
import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughtime.data.readers.records import FORMATS, Records, write_records
from throughtime.data.readers.tables import read_table
from throughtime.errors import InputError

ROWS = (("Is it lost, or late?", "card"), ('He said "no"\nand left', "naïve"), ("日本 🎉", "card"))
CSV = 'text,category\r\n"Is it lost, or late?",card\r\n"He said ""no""\nand left",naïve\r\n日本 🎉,card\r\n'


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(table):
    return list(zip(table["text"], table["label"], strict=True))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ends", ["\r\n", "\n"])
def test_csv_with_quotes_line_ends_and_a_byte_order_mark(tmp_path, mark, ends):
    path = write(tmp_path / "a.csv", mark + CSV.replace("\r\n", ends).encode())
    table = read_table(path)
    assert rows(table) == list(ROWS)
    assert table.skipped == 0 and table.remarks == ()
    (source,) = table.sources
    assert source.path == str(path) and source.bytes == len(path.read_bytes())


def test_json_lines_tsv_and_several_files(tmp_path):
    first = write(
        tmp_path / "a.jsonl", "".join(json.dumps({"intent": b, "text": a}) + "\n\n" for a, b in ROWS)
    )
    second = write(tmp_path / "b.tsv", 'Label\tid\tText\nx \t1\tan "open quote\n\ny\t2\tb,c')
    table = read_table([first, second])
    assert rows(table) == [*ROWS, ('an "open quote', "x"), ("b,c", "y")]
    assert len(table) == 5 and [each.bytes for each in table.sources] == [
        each.stat().st_size for each in (first, second)
    ]
    numbers = write(tmp_path / "c.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": true}\n')
    assert read_table(numbers)["label"] == ("1", "true")


def test_only_carriage_returns(tmp_path):
    assert rows(read_table(write(tmp_path / "a.csv", "text,label\ra,1\rb,2\r"))) == [("a", "1"), ("b", "2")]


def test_columns_by_number_where_there_is_no_header(tmp_path):
    spam = write(tmp_path / "SMSSpam", "ham\tsee you, then\nspam\tfree\n")
    table = read_table(spam, ("2", "1"))
    assert table["2"] == ("see you, then", "free") and table["1"] == ("ham", "spam")
    with pytest.raises(InputError, match=r"SMSSpam: expected a header .* their numbers"):
        read_table(spam)


def test_a_folder_of_a_file_for_each_class(tmp_path):
    write(tmp_path / "English.txt", "Abbas\nAbbey\n")
    write(tmp_path / "Arabic.txt", "Khoury\r\n")
    write(tmp_path / "SOURCE.txt", "licence\n")
    table = read_table(tmp_path)
    assert rows(table) == [("Khoury", "Arabic"), ("Abbas", "English"), ("Abbey", "English")]
    assert table.remarks == (f"{tmp_path}: not read as a class: SOURCE.txt",)
    assert len(table.sources) == 1 and table.sources[0].bytes == 20
    write(tmp_path / "Arabic.txt", "Khouri\r\n")
    assert read_table(tmp_path).sources[0].sha256 != table.sources[0].sha256


def test_a_folder_of_a_folder_for_each_class(tmp_path):
    for name, text in (
        ("pos/1", "good\nvery"),
        ("pos/.hidden", "no"),
        ("neg/deep/2.txt", "bad"),
        ("README", "r"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, text)
    assert rows(read_table(tmp_path)) == [("bad", "neg"), ("good\nvery", "pos")]
    write(tmp_path / "neg" / "3.txt", b"caf\xe9")
    write(tmp_path / "neg" / "4.txt", b"")
    with pytest.raises(InputError, match=r"3\.txt: expected UTF-8.*--skip-bad"):
        read_table(tmp_path)
    table = read_table(tmp_path, skip_bad=True)
    assert len(table) == 2 and table.skipped == 2 and "bad files skipped: 2" in table.remarks[1]


def test_a_folder_with_one_class_or_a_third_column_is_refused(tmp_path):
    write(tmp_path / "a.txt", "x\n")
    with pytest.raises(InputError, match="holds 1"):
        read_table(tmp_path)
    write(tmp_path / "b.txt", "y\n")
    with pytest.raises(InputError, match="got more columns"):
        read_table(tmp_path, ("text", "label", "group"))


BAD = [
    ("a.csv", "text,label\na,b\nc\n", 3, r"expected 2 fields \(text, label\), got 1"),
    ("a.csv", 'text,label\n"a\nb",c\nd,e,f\n', 4, "got 3"),
    ("a.csv", 'text,label\na,"b\n', 2, "closing quote, got the end"),
    ("a.csv", 'text,label\n"a"b,c\n', 2, "must be doubled"),
    ("a.csv", "text,label\n,b\n", 2, "'text' to hold text, got an empty field"),
    ("a.csv", "text,label\na, \n", 2, "'label' to hold text, got an empty field"),
    ("a.csv", b"text,label\na,b\ncaf\xe9,b\n", 3, r"expected UTF-8, got 'caf\\udce9'"),
    ("a.csv", b"text,label\na\0,b\n", 2, "got a NUL byte"),
    ("a.csv", 'text,label\n"' + "x" * 140_000 + '",b\n', 2, "is a quote not closed"),
    ("a.tsv", "text\tlabel\na b\n", 2, "got 1"),
    ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"\n', 2, "expected one JSON object"),
    ("a.jsonl", '{"text": "a", "label": "b"}\n[1]\n', 2, "no object"),
    ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"}\n', 2, "expected a field 'label', got 'text'"),
    ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": 3, "label": 1}\n', 2, "'text' to be a string, got 3"),
    ("a.jsonl", '{"text": "a", "label": 1.5}\n', 1, "a string or a whole number, got 1.5"),
    ("a.jsonl", '{"text": "a", "label": NaN}\n', 1, "NaN is not JSON"),
    ("a.jsonl", '{"text": "a\\ud800", "label": "b"}\n', 1, "expected UTF-8"),
    ("a.jsonl", '{"name": "a", "label": "b"}\n', 1, "expected a column 'text'"),
    ("a.jsonl", "[" * 100_000 + "\n", 1, "expected one JSON object"),
]


@pytest.mark.parametrize(("name", "content", "line", "message"), BAD)
def test_a_bad_row_is_named_and_can_be_skipped(tmp_path, name, content, line, message):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}:{line}: ") and "--skip-bad" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    good = (
        '{"text": "good", "label": "g"}\n'
        if name == "a.jsonl"
        else "good\tg\n"
        if name == "a.tsv"
        else "good,g\n"
    )
    added = write(
        tmp_path / f"good.{name[2:]}",
        ("" if name == "a.jsonl" else good.replace("good", "text").replace("g\n", "label\n")) + good,
    )
    table = read_table([path, added], skip_bad=True)
    assert rows(table)[-1] == ("good", "g") and table.skipped == 1
    assert len(table.remarks) == 1 and f":{line}: " in table.remarks[0]


def test_rows_after_a_bad_one_are_still_read(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\na,1\n"b"x,2\nc\nd,4\n')
    table = read_table(path, skip_bad=True)
    assert rows(table) == [("a", "1"), ("d", "4")]
    assert table.remarks[0].startswith(f"{path}: 2 bad rows skipped; the first is {path}:3: ")


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (
            "body,label\na,b\n",
            ("text", "label"),
            r"a\.csv:1: expected a column 'text' \(or sentence, .* are 'body', 'label'",
        ),
        ("text,lable\na,b\n", ("text", "label"), "Did you mean 'lable'"),
        ("text,class,intent\na,b,c\n", ("text", "label"), "could be 'class' or 'intent'"),
        ("text,text,label\na,b,c\n", ("text", "label"), "'text' more than once"),
        ("text,label\n", ("text", "label"), "found none"),
        ("", ("text", "label"), "the columns are none"),
        ("text,label\na,b\n", ("text", "text"), "all different"),
        ("text,label\na,b\n".encode("utf-16"), ("text", "label"), "got UTF-16"),
        (b"text\0,label\n", ("text", "label"), "NUL byte at position 4"),
    ],
)
def test_a_table_without_its_columns_is_refused(tmp_path, content, columns, message):
    with pytest.raises(InputError, match=message) as caught:
        read_table(write(tmp_path / "a.csv", content), columns)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_read_once_and_its_format_found(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for content in (CSV, '{"text": "Is it lost, or late?", "label": "card"}\n'):
        thread = threading.Thread(target=pipe.write_bytes, args=(content.encode(),))
        thread.start()
        table = read_table(pipe)
        thread.join()
        assert rows(table)[0] == ROWS[0]
        assert table.sources[0][::2] == (str(pipe), len(content.encode()))


class Pipe(io.RawIOBase):
    """A stream that knows how many lines have been read."""

    def __init__(self, text):
        self.rest, self.lines = io.BytesIO(text.encode()), 0

    def readline(self, size=-1):
        self.lines += 1
        return self.rest.readline()


@pytest.mark.parametrize(
    ("text", "format", "header"),
    [
        ("a, b\nc\nd\n", "lines", 0),
        ('id,Text\n1,"a, b"\n2,c\n3,d\n', "csv", 1),
        ("id\tsentence\n1\ta, b\n2\tc\n3\td\n", "tsv", 1),
        ('{"text": "a, b"}\n{"text": "c", "n": 1}\n{"text": "d"}\n', "jsonl", 0),
    ],
)
def test_records_are_read_one_at_a_time(text, format, header):
    pipe = Pipe(text)
    records = Records(pipe)
    assert records.format == format and pipe.lines == 1
    for number, (record, value) in enumerate(zip(records, ("a, b", "c", "d"), strict=True)):
        assert records.texts(record) == (value,)
        assert pipe.lines == number + 1 + header


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@given(
    st.lists(st.tuples(cells, cells).filter(lambda row: all(c.strip() for c in row)), min_size=1),
    st.sampled_from(FORMATS),
)
def test_what_is_written_is_read_back(values, format):
    stream = io.StringIO(newline="")
    write_one = write_records(stream, format, ("text", "label"))
    for text, label in values:
        write_one({"text": text, "label": label})
    records = Records(io.BytesIO(stream.getvalue().encode()), ("text", "label"), format=format)
    read = list(records)
    if format == "lines":
        assert len(read) == len(values)
        return
    for record, (text, label) in zip(read, values, strict=True):
        if format == "tsv":
            text, label = (value.translate(str.maketrans("\t\r\n", "   ")) for value in (text, label))
        assert (record["text"], record["label"]) == (text, label)


def test_every_record_is_flushed_and_other_columns_stay():
    class Stream(io.StringIO):
        flushed = 0

        def flush(self):
            self.flushed += 1

    stream = Stream()
    write_one = write_records(stream, "jsonl", ("label",))
    write_one({"text": "ü", "n": [1], "label": "x"})
    assert stream.flushed == 1 and stream.getvalue() == '{"label": "x", "text": "ü", "n": [1]}\n'
    stream = Stream()
    write_records(stream, "csv", ("text", "p"))({"text": "a,b", "p": 0.5, "other": 1})
    assert stream.flushed == 2 and stream.getvalue() == 'text,p\n"a,b",0.5\n'


def test_the_banking_intents(data_dir):
    table = read_table(data_dir / "banking77" / "train.csv")
    assert len(table) == 10_003 and len(set(table["label"])) == 77


def test_the_line_about_a_missing_json_field_is_one_sentence_after_another():
    with pytest.raises(InputError, match="correct the row") as error:
        list(Records(io.BytesIO(b'{"zzz": "a"}\n'), ["text"], format="jsonl"))
    assert ".;" not in str(error.value)
