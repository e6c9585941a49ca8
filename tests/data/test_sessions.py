"""Logs of events: every format gives the same sessions, and what cannot be read is refused with its line."""

from __future__ import annotations

import io
import json

import pytest

from throughtime.data.inside.calls import called_names, calls_of_functions
from throughtime.data.readers.sessions import Events, items_of, read_sessions, split_by_time
from throughtime.errors import InputError

ROWS = [("u1", "a", 3), ("u2", "x", 1), ("u1", "b", 4), ("u3", "a", 2), ("u2", "y", 5), ("u1", "c", 9)]
SESSIONS = (("a", "b", "c"), ("x", "y"))


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", "session,item,time\n" + "".join(f"{s},{i},{t}\n" for s, i, t in ROWS)),
        ("log.csv", "\ufeffTime;".replace(";", ",") + "User_ID,item\n" + "".join(f"{t},{s},{i}\n" for s, i, t in ROWS)),
        ("log.tsv", "item\tsession\ttimestamp\n" + "".join(f"{i}\t{s}\t2024-05-0{t}T10:00:00Z\n" for s, i, t in ROWS)),
        ("log.jsonl", "".join(json.dumps({"session": s, "item": i, "time": t}) + "\n" for s, i, t in ROWS)),
        ("log.jsonl", "".join(json.dumps({"user": s, "product": i, "date": f"2024-05-0{t}"}) + "\n" for s, i, t in ROWS)),
        ("log.txt", "".join(f"{s} {i} {t}\n" for s, i, t in ROWS)),
        ("log.txt", "".join(f"{s} {i}\n" for s, i, _ in ROWS)),
        ("log", "".join(f"{s}\t{i}\r\n" for s, i, _ in ROWS)),
        ("log.csv", "session,item\n" + "".join(f"{s},{i}\n" for s, i, _ in ROWS)),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_sessions(tmp_path, name, text):
    found = read_sessions(write(tmp_path, name, text))
    assert found.items == SESSIONS
    assert found.remarks == ("1 session of one event left out",)
    assert (found.ends is None) == ("9" not in text)
    if found.ends is not None:
        assert found.ends[0] > found.ends[1]


def test_numbers_in_json_and_columns_by_name_and_by_number(tmp_path):
    numbers = write(
        tmp_path, "n.jsonl", '{"who": 7, "what": 12}\n{"who": 7, "what": 5}\n{"who": "7", "what": "x"}\n'
    )
    assert read_sessions(numbers, session="who", item="what").items == (("12", "5", "x"),)
    bare = write(tmp_path, "bare.csv", "5,7,a\n4,7,b\n")
    assert read_sessions(bare, session="2", item="3", time="1").items == (("b", "a"),)


def test_events_are_sorted_by_time_and_equal_times_stay(tmp_path):
    text = "session,item,time\ns,c,3\ns,a,1\ns,b1,2\ns,b2,2\n"
    found = read_sessions(write(tmp_path, "log.csv", text))
    assert found.items == (("a", "b1", "b2", "c"),)
    assert found.remarks == ("1 event out of the order of time, sorted",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "session,item,time\ns,a,soon\n", r"a\.csv:2: expected a number or an ISO date .* got 'soon'"),
        ("a.csv", "session,item,time\ns,a,1\ns,b,2024-05-01\n", r"a\.csv:3: expected a number as time, .* got a date: '2024"),
        ("a.csv", "session,item,time\ns,a,nan\n", r"a\.csv:2: expected a number or an ISO date"),
        ("a.csv", "session,item\ns,a\ns\n", r"a\.csv:3: expected 2 fields \(session, item\), got 1"),
        ("a.csv", "session,item\ns,a\n,b\n", r"a\.csv:3: expected 'session' to hold text, got an empty field"),
        ("a.csv", "session,itm\ns,a\n", r"a\.csv:1: expected a column 'item' .* Did you mean 'itm'"),
        ("a.csv", "session,item,when\ns,a,1\n", r"a\.csv:1: expected a column 'tme'"),
        ("a.csv", "user,session,item\n", r"expected sessions of at least two events, found none in .*a\.csv"),
        ("a.csv", "user_id,user,item\n", r"a\.csv:1: the column for 'session' could be 'user_id' or 'user': name one"),
        ("a.tsv", "session\titem\ns\t\xe9\n".encode("latin-1"), r"a\.tsv:2: expected UTF-8"),
        ("a.jsonl", '{"session": "s", "item": "a"}\n{"session": "s"}\n', r"a\.jsonl:2: expected a field 'item'"),
        ("a.jsonl", '{"user": "s", "item": "a", "ts": 1}\n{"user": "s", "item": "b"}\n', r"a\.jsonl:2: expected a time in"),
        ("a.jsonl", '{"session": "s", "item": ["a"]}\n', r"a\.jsonl:1: expected 'item' to be a string or a whole number"),
        ("a.txt", "u a\nu b c d\n", r"a\.txt:2: expected a session and an item, or these and a time, got 4 fields: u b c d"),
        ("a.txt", "u a\nu b 3\n", r"a\.txt:2: expected no time, as in the rows before"),
        ("a.txt", "u a 1\nu b\n", r"a\.txt:2: expected a time, as in the rows before"),
        ("a.txt", "u a\nv b\n", "expected sessions of at least two events, found none"),
        ("a.txt", "", "expected sessions of at least two events"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_sessions(write(tmp_path, name, text), time="tme" if "'tme'" in message else None)
    assert "\n" not in str(error.value)


def test_bad_rows_are_left_out_and_counted(tmp_path):
    text = "session,item,time\ns,a,1\ns,b,soon\ns,c,3\ns\n"
    found = read_sessions(write(tmp_path, "a.csv", text), skip_bad=True)
    assert found.items == (("a", "c"),)
    assert "2 bad rows skipped; the first is" in found.remarks[0] and "a.csv:3" in found.remarks[0]


def test_times_in_some_files_only(tmp_path):
    files = [write(tmp_path, "a.txt", "u a 1\nu b 2\n"), write(tmp_path, "b.txt", "u c\n")]
    with pytest.raises(InputError, match=r"b\.txt: expected a time, as in the files before it"):
        read_sessions(files)
    with pytest.raises(InputError, match=r"a\.txt: expected no times"):
        read_sessions(files[::-1])


def test_an_event_is_given_out_before_the_next_line_is_read():
    class Stream(io.BytesIO):
        read = 0

        def readline(self, *size):
            self.read += 1
            return super().readline(*size)

    stream = Stream(b"session,item\ns,a\nt,b\ns,c\n")
    events = iter(Events(stream))
    for lines, expected in ((2, ("s", "a")), (3, ("t", "b")), (4, ("s", "c"))):
        event = next(events)
        assert ((event.session, event.item), stream.read) == (expected, lines)
        assert event.time is None and event.record == {"session": expected[0], "item": expected[1]}


def test_split_by_time():
    ends = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 7.0, 8.0, 6.0, 0.0]
    found = split_by_time(ends, validation=0.2, test=0.3)
    assert found.test == (5, 6, 7) and found.validation == (0, 8)
    assert found.train == (1, 2, 3, 4, 9)
    assert split_by_time(ends).test == ()
    # Sessions that end at one time stay together, in the later part.
    tied = split_by_time([1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0], validation=0.25, test=0.25)
    assert (tied.train, tied.validation, tied.test) == ((0, 1, 2, 3), (4, 5), (6, 7))
    tied = split_by_time([1.0, 2.0, 2.0, 2.0], validation=0.0, test=0.25)
    assert (tied.train, tied.test) == ((0,), (1, 2, 3))
    for ends, message in (([1.0, 1.0, 1.0], "leaves no session to train on"), (None, "needs the times")):
        with pytest.raises(InputError, match=message):
            split_by_time(ends, test=0.3)


def test_items_of():
    assert (
        items_of(" a  b\tc ") == items_of('["a", "b", "c"]') == items_of(("a", "b", "c")) == ["a", "b", "c"]
    )
    assert items_of('["two words", 7]') == ["two words", "7"]
    for wrong in ("", "  ", "[]", '["a"', "[1.5]", "[true]", '[["a"]]', [], None, 3, {"a": 1}):
        with pytest.raises(InputError, match="expected the items of a session") as error:
            items_of(wrong)
        assert "\n" not in str(error.value)


def test_calls_are_in_reading_order_and_nested_functions_apart():
    source = b"""
import os
def first(x):
    with open(os.path.join(x, "a")) as file:
        lines = file.read().split()
    def inner():
        return len(lines) + sum(map(int, lines))
    return sorted(lines, key=lambda one: str.lower(one))[0](1)
class C:
    async def method(self):
        await self.run(print())
def none(): pass
"""
    found = set(calls_of_functions(source))
    assert found == {
        ("open", "join", "read", "split", "sorted", "lower"),
        ("len", "sum", "map"),
        ("run", "print"),
        (),
    }
    assert list(calls_of_functions(b"def broken(:")) == []


def test_the_library_of_another_python(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "b" / "one.py").write_text("def f():\n    a(); b()\ndef g():\n    c()\n")
    (tmp_path / "a.py").write_text("def h():\n    x.y(z())\n")
    (tmp_path / "test" / "two.py").write_text("def f():\n    p(); q()\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    found = called_names()
    assert found.items == (("y", "z"), ("a", "b")) and called_names() == found
    (tmp_path / "a.py").write_text("def h():\n    x.y(z(1))\n")
    assert called_names().sources != found.sources
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="found no functions there: name a file of sessions instead"):
        called_names()


def test_names_with_commas_in_a_log(tmp_path):
    found = read_sessions(write(tmp_path, "log.txt", "u a,b\nu c,d\n"))
    assert found.items == (("a,b", "c,d"),)
