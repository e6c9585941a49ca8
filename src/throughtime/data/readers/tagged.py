"""Sentences with a tag for each token: CoNLL columns, CoNLL-U, JSON lines."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

from throughtime.data.readers.records import Records, shortened, text_problem
from throughtime.data.readers.spans import Span, tags_of
from throughtime.data.text import Source, read_bytes, refuse_binary
from throughtime.data.words import tokenized
from throughtime.errors import InputError, one_of

FORMATS = ("conll", "conllu", "jsonl")
SUFFIXES = {
    "conll": (".conll", ".conll2003", ".bio", ".iob", ".iob2", ".bioes", ".annotated"),
    "conllu": (".conllu",),
    "jsonl": (".jsonl", ".ndjson"),
}
UD_COLUMNS = ("upos", "xpos", "feats")
_UD_FIELDS = 10
_UD_OTHER = re.compile(
    r"\d+[-.]\d+"
)  # IDs of several words written as one, and of words that are not written
_MANY, _MANY_FRACTION = 50, 0.1  # more labels than both: the column holds words


class Sentence(NamedTuple):
    """Tokens, and a tag for each of them."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass
class Tagged:
    """What was read."""

    sentences: list[Sentence] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what the user should be told once


class Line(NamedTuple):
    """A line of a file in columns."""

    number: int  # from 1
    text: str  # without its end
    fields: tuple[str, ...]  # () for a blank line or a comment
    blank: bool = False  # a sentence ends here

    @property
    def is_word(self) -> bool:
        """Whether it holds a token, and of CoNLL-U one with a number of its own."""
        return bool(self.fields)


def read_tagged(
    paths: Sequence[str | Path],
    *,
    label: str | None = None,
    token: int = 1,
    skip_bad: bool = False,
) -> Tagged:
    """Read the sentences of some files, one after the other.

    conll: a token on each line, its tag in the last column, columns with tabs between, or spaces where the first line has no tab;
    a blank line, also one that holds only white space, ends a sentence. Lines "-DOCSTART- ..." and, with tabs, lines
    "# ..." are left out. conllu: words with a number of their own (Universal Dependencies). jsonl: objects with "text" and
    "spans" (a list of {"start", "end", "label"}, in characters), or with "tokens" and "tags". The suffix says which, else the
    first line does.

    Args: label: the tag's column, its number from 1 in conll; upos (the default), xpos or feats in conllu. token: the token's
    column in conll. skip_bad: leave out sentences with a line that cannot be read, and count them.
    Raises: InputError with file and line, on one line.
    Cost: each file is read once, whole, into memory.
    """
    found = Tagged()
    for path in paths:
        data, source = read_bytes(path)
        name = str(path)
        if not data.strip():
            raise InputError(f"{name} is empty: expected tagged sentences; name a file that holds some")
        refuse_binary(data, name)
        found.sources.append(source)
        form = format_of(name, data)
        reader = _Reader(name, form, label, token, skip_bad)
        sentences = list(reader.read(data))
        if not sentences:
            raise InputError(f"{name}: expected tagged sentences, found none{reader.remark}")
        _refuse_words(sentences, name)
        found.sentences += sentences
        found.remarks += reader.remarks
    return found


def format_of(name: str, data: bytes) -> str:
    """One of FORMATS, by the suffix, else by the first line."""
    suffix = Path(name).suffix.lower()
    for form, suffixes in SUFFIXES.items():
        if suffix in suffixes:
            return form
    for line in io.BytesIO(data):
        if line.lstrip().startswith(b"{"):
            return "jsonl"
        fields = line.rstrip(b"\r\n").split(b"\t")
        if len(fields) == _UD_FIELDS and fields[0] in (b"1", b"1-2"):
            return "conllu"
        if line.strip() and not line.startswith(b"#"):
            break
    return "conll"


class Columns:
    """Lines of a file in columns, one at a time, none read ahead.

    What separates columns is shown by the first line that has any: tabs, else white space. Their number must be the same on all.
    Raises: InputError, while iterating, for a line with another number of columns, or that is not UTF-8.
    """

    def __init__(self, stream: IO[bytes], name: str, form: str, least: int = 2) -> None:
        self._stream, self.name, self._form, self._least = stream, name, form, least
        self._separator: str | None = None
        self._count = 0
        self._first = 0  # the line that showed how many columns there are

    def __iter__(self) -> Iterator[Line | InputError]:
        """A line, or what is wrong with it."""
        for number, data in enumerate(self._stream, start=1):
            if number == 1:
                refuse_binary(data, self.name)
                data = data.removeprefix(b"\xef\xbb\xbf")
            text = data.decode("utf-8", "surrogateescape").rstrip("\r\n")
            if not text.strip():
                yield Line(number, text, (), blank=True)
                continue
            problem = text_problem(text)
            fields = () if problem else self._fields(text)
            if not problem and fields:
                problem = self._problem(number, fields)
            if problem:
                yield InputError(f"{self.name}:{number}: {problem}")
            else:
                yield Line(number, text, fields)

    def _fields(self, text: str) -> tuple[str, ...]:
        if self._form == "conllu":
            return () if text.startswith("#") else tuple(text.split("\t"))
        if not self._count:
            self._separator = "\t" if "\t" in text else None
        if text.startswith("#") and self._separator == "\t" and "\t" not in text:
            return ()
        if not self._count and text.startswith("# ") and len(text.split()) != 2:
            return ()  # a comment before the first token
        if text.startswith("-DOCSTART-"):
            return ()
        return tuple(text.split(self._separator))

    def _problem(self, number: int, fields: tuple[str, ...]) -> str:
        if self._form == "conllu":
            if len(fields) != _UD_FIELDS:
                return f"expected {_UD_FIELDS} columns with tabs between, got {len(fields)}"
            return ""
        if len(fields) < self._least:
            return (
                f"expected a token and its tag, in columns with {'tabs' if self._separator else 'spaces or tabs'} between, got "
                f"one column: {shortened(ascii(fields[0]))}"
            )
        if not self._count:
            self._count, self._first = len(fields), number
        if len(fields) != self._count:
            return (
                f"expected {self._count} columns, as on line {self._first}, got {len(fields)}: "
                f"{shortened(ascii(' '.join(fields)))}"
            )
        if not all(each.strip() for each in fields):
            return f"expected a value in each column, got an empty one: {shortened(ascii(fields))}"
        return ""


class _Reader:
    """Sentences of one file."""

    def __init__(self, name: str, form: str, label: str | None, token: int, skip_bad: bool) -> None:
        self.name, self.form, self.token, self.skip_bad = name, form, token, skip_bad
        self.label = label
        self.skipped = self.moved = 0
        self.first_skipped = ""
        if form == "conllu":
            one_of("label", label or "upos", UD_COLUMNS)
        elif label is not None and form == "conll" and (not label.isdecimal() or int(label) < 1):
            raise InputError(
                f"label must be the number of a column from 1 in CoNLL files, got {label!r} for {name}"
            )

    @property
    def remarks(self) -> list[str]:
        found = []
        if self.skipped:
            found.append(
                f"{self.name}: bad sentences skipped: {self.skipped}; the first is {self.first_skipped}"
            )
        if self.moved:
            found.append(
                f"{self.name}: {self.moved} spans begin or end inside a token; all of the token is taken for the span"
            )
        return found

    @property
    def remark(self) -> str:
        return "".join(f"; {remark}" for remark in self.remarks)

    def read(self, data: bytes) -> Iterator[Sentence]:
        if self.form == "jsonl":
            yield from self._objects(data)
            return
        if b"\n" not in data:
            data = data.replace(b"\r", b"\n")  # the line ends of Mac OS before version 10
        lines: list[Line] = []
        problem: InputError | None = None
        for line in (*Columns(io.BytesIO(data), self.name, self.form), Line(0, "", (), blank=True)):
            if isinstance(line, InputError):
                problem = problem or line
            elif not line.blank:
                lines.append(line)
            elif lines or problem:
                sentence = problem or self._sentence(lines)
                lines, problem = [], None
                if isinstance(sentence, Sentence):
                    if sentence.tokens:
                        yield sentence
                elif not self._skip(sentence):
                    raise InputError(f"{sentence}; correct it, or leave such sentences out with --skip-bad")

    def _skip(self, problem: InputError) -> bool:
        if self.skip_bad:
            self.skipped += 1
            self.first_skipped = self.first_skipped or str(problem)
        return self.skip_bad

    def _sentence(self, lines: list[Line]) -> Sentence | InputError:
        if self.form == "conllu":
            return self._of_conllu(lines)
        words = [line for line in lines if line.is_word]
        if not words:
            return Sentence((), ())
        count = len(words[0].fields)
        label = int(self.label) if self.label is not None else count
        for what, column in (("label", label), ("token", self.token)):
            if not 1 <= column <= count:
                raise InputError(f"{what} must be a column from 1 to {count} of {self.name}, got {column}")
        tokens = tuple(line.fields[self.token - 1] for line in words)
        return Sentence(tokens, tuple(line.fields[label - 1] for line in words))

    def _of_conllu(self, lines: list[Line]) -> Sentence | InputError:
        """Words with a number of their own: not those written as one (1-2), nor those that are not written (1.1)."""
        column = self.label or "upos"
        place = 3 + UD_COLUMNS.index(column)
        tokens: list[str] = []
        tags: list[str] = []
        for line in lines:
            if not line.fields or _UD_OTHER.fullmatch(line.fields[0]):
                continue
            number, form, tag = line.fields[0], line.fields[1], line.fields[place]
            problem = ""
            if number != str(len(tokens) + 1):
                problem = f"expected the word with ID {len(tokens) + 1}, got {shortened(ascii(number))}"
            elif not form or not tag or (tag == "_" and column != "feats"):
                problem = (
                    f"expected a word and its {column}, got {form!a} and {tag!a}: name another column with --label, "
                    f"one of {', '.join(UD_COLUMNS)}"
                )
            if problem:
                return InputError(f"{self.name}:{line.number}: {problem}")
            tokens.append(form)
            tags.append(tag)
        return Sentence(tuple(tokens), tuple(tags))

    def _objects(self, data: bytes) -> Iterator[Sentence]:
        records = Records(io.BytesIO(data), (), format="jsonl", name=self.name, skip_bad=self.skip_bad)
        for record in records:
            where = f"{self.name}:{records._line}"
            try:
                sentence = self._of_object(record)
            except InputError as error:
                problem = InputError(f"{where}: {error}")
                if not self._skip(problem):
                    raise InputError(
                        f"{problem}; correct it, or leave such sentences out with --skip-bad"
                    ) from None
                continue
            if sentence.tokens:
                yield sentence
        if records.skipped:
            self.skipped += records.skipped
            self.first_skipped = self.first_skipped or records.remark.partition("the first is ")[2]

    def _of_object(self, record: dict[str, Any]) -> Sentence:
        if "tokens" in record and "tags" in record:
            tokens, tags = tokens_of(record["tokens"]), record["tags"]
            if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.strip() for tag in tags):
                raise InputError(f"tags must be a list of texts, got {shortened(repr(tags))}")
            if len(tags) != len(tokens):
                raise InputError(f"tags must be one for each of {len(tokens)} tokens, got {len(tags)}")
            return Sentence(tokens, tuple(tags))
        if not isinstance(record.get("text"), str) or not isinstance(record.get("spans"), list):
            raise InputError(
                'expected "text" and "spans", a list of {"start", "end", "label"}, or "tokens" and "tags", got '
                f"{shortened(', '.join(map(repr, record))) or 'none'}"
            )
        return self._of_spans(record["text"], record["spans"])

    def _of_spans(self, text: str, spans: list[Any]) -> Sentence:
        tokens = tokenized(text)
        found = []
        for each in spans:
            start, end, label = _checked_span(each, len(text))
            inside = [place for place, token in enumerate(tokens) if token.start < end and token.end > start]
            if not inside:
                raise InputError(f"the span {start} to {end} holds no token, only {text[start:end]!r}")
            first, last = inside[0], inside[-1]
            self.moved += (tokens[first].start, tokens[last].end) != (start, end)
            found.append(Span(first, last + 1, label))
        found.sort()
        for one, other in pairwise(found):
            if other.start < one.end:
                raise InputError(
                    f"spans must not overlap, got {one.label!r} and {other.label!r} over the token "
                    f"{tokens[other.start].text!r}"
                )
        return Sentence(tuple(token.text for token in tokens), tuple(tags_of(found, len(tokens))))


def tokens_of(value: Any) -> tuple[str, ...]:
    """A list of tokens from a record.

    Raises: InputError for anything else.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) and each for each in value):
        raise InputError(f"tokens must be a list of texts that are not empty, got {shortened(repr(value))}")
    return tuple(value)


def _checked_span(each: Any, length: int) -> tuple[int, int, str]:
    if not isinstance(each, dict) or {"start", "end", "label"} - set(each):
        raise InputError(f'a span must have "start", "end" and "label", got {shortened(ascii(each))}')
    start, end, label = each["start"], each["end"], each["label"]
    numbers = all(isinstance(number, int) and not isinstance(number, bool) for number in (start, end))
    if not numbers or not 0 <= start < end <= length:
        raise InputError(
            f"a span must lie inside the text, 0 <= start < end <= {length}, got {start!r} to {end!r}"
        )
    if not isinstance(label, str) or not label or label.split() != [label]:
        raise InputError(f"the label of a span must be text without spaces, got {label!r}")
    return start, end, label


def _refuse_words(sentences: list[Sentence], name: str) -> None:
    labels = {tag for sentence in sentences for tag in sentence.tags}
    count = sum(len(sentence.tags) for sentence in sentences)
    if len(labels) > max(_MANY, _MANY_FRACTION * count):
        shown = ", ".join(map(ascii, sorted(labels)[:3]))
        raise InputError(
            f"{name}: the label column has {len(labels):,} different values for {count:,} tokens ({shown} ...), more than any "
            "tag set: name the column of the tags with --label"
        )
