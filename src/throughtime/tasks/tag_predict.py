"""Tags for typed text, records, and files in columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from throughtime.data.batch import Batch
from throughtime.data.inside.roles import is_name
from throughtime.data.readers.records import Records, open_source, write_records
from throughtime.data.readers.spans import spans_of, tags_of
from throughtime.data.readers.tagged import Columns, Line, tokens_of
from throughtime.data.words import tokenized
from throughtime.errors import InputError
from throughtime.layers.eval_mode import evaluating
from throughtime.models.crf import best_labels
from throughtime.sessions.processor import Carried, Processor
from throughtime.sessions.stream import stream
from throughtime.tasks.task import Record, text_of

if TYPE_CHECKING:
    from throughtime.data.assets import Assets
    from throughtime.tasks.tag import TagTask

_SPACE = re.compile(r"\s")
_LONGEST = 1 << 16  # characters of a text that are held at most


class TagProcessor(Processor):
    """Takes tokens, or a text in pieces of any size, and gives the tag of each token, spans in BIO.

    A token of a text is read when white space follows it, or at the end.
    """

    def __init__(self, task: TagTask, assets: Assets) -> None:
        self.task, self.table, self.tags = task, task._table(assets), task._tags(assets)
        self.spans: bool = assets.values["spans"]

    def about(self) -> dict[str, Any]:
        takes = "a list of tokens" + (", or text in pieces of any size" if self.task.data else "")
        gives = "tokens: those that were read; tags: one for each"
        return {"kind": "tokens", "takes": takes, "gives": gives, "labels": list(self.tags)}

    def read(self, data: Any, carried: Carried) -> tuple[Tensor, Carried]:
        held, tokens = carried.get("text", ""), tuple[str, ...]()
        if isinstance(data, str):
            if not self.task.data:
                raise InputError("a chunk must be a list of tokens: Python is divided into tokens as a whole")
            held += data
            place = max((found.end() for found in _SPACE.finditer(held)), default=0)
        else:
            tokens, place = tokens_of(data), len(held)
        if len(held) - place > _LONGEST:
            raise InputError(f"the text has a word of more than {_LONGEST} characters")
        return self._steps((*self.task.tokens_of(held[:place]), *tokens), {**carried, "text": held[place:]})

    def flush(self, carried: Carried) -> tuple[Tensor, Carried]:
        held = carried.get("text", "")
        return self._steps(tuple(self.task.tokens_of(held) if held else ()), {**carried, "text": ""})

    def _steps(self, tokens: tuple[str, ...], carried: Carried) -> tuple[Tensor, Carried]:
        return self.table.encode(tokens), {**carried, "read": list(tokens)}

    def write(self, outputs: Tensor, carried: Carried) -> tuple[Any, Carried]:
        kept = dict(carried)
        tokens, before, tags = kept.pop("read"), kept.get("before", "O"), []
        for token, label in zip(tokens, outputs.argmax(-1).tolist() if tokens else (), strict=True):
            tag = self.tags[label]
            # Spans are written in BIO, which the model's tag before it decides.
            tags.append(
                tags_of(spans_of([before, tag]), 2)[1] if self.spans else self.of_names([token], [tag])[0]
            )
            before = tag
        return {"tokens": tokens, "tags": tags}, {**kept, "before": before}

    def of_names(self, tokens: Sequence[str], tags: list[str]) -> list[str]:
        """The tags; of Python's own data only names have one."""
        if self.task.data:
            return tags
        return [tag if is_name(token) else "" for token, tag in zip(tokens, tags, strict=True)]


class Predictor:
    """A trained tagger that reads whole sentences, and files."""

    def __init__(self, task: TagTask, model: Any, assets: Assets) -> None:
        self.task, self.model, self.processor = task, model, TagProcessor(task, assets)
        self.table, self.tags, self.spans = self.processor.table, self.processor.tags, self.processor.spans

    def record(self, record: Record) -> Record:
        """The new columns of a record."""
        if "tokens" in record:
            tokens = tokens_of(record["tokens"])
            tags = self.sentence(tokens)
            found: Record = {"tags": tags}
            places = [(place, place + 1) for place in range(len(tokens))]
        else:
            text = text_of(record, "text")
            parts = tokenized(text)
            tokens = tuple(self.task.tokens_of(text))
            tags = self.sentence(tokens)
            found = {"tokens": list(tokens), "tags": tags}
            places = [(part.start, part.end) for part in parts]
        if self.spans:
            found["spans"] = [
                {"start": places[start][0], "end": places[end - 1][1], "label": label}
                for start, end, label in spans_of(tags)
            ]
        return found

    def sentence(self, tokens: tuple[str, ...]) -> list[str]:
        """A tag for each token, spans in BIO."""
        if not tokens:
            return []
        device = next(self.model.parameters()).device
        batch = Batch.of(self.table.encode(tokens)[:, None], lengths=[len(tokens)]).to(device)
        with evaluating(self.model), torch.inference_mode():
            outputs, _ = batch.run(self.model)
            labels = best_labels(outputs, batch.lengths)[:, 0].tolist()
        tags = [self.tags[label] for label in labels]
        return tags_of(spans_of(tags), len(tags)) if self.spans else self.processor.of_names(tokens, tags)

    def file(self, file: str, out: IO[str], form: str, skip_bad: bool) -> str:
        """The file with one more column, or with more fields in each JSON object; returns a remark."""
        name = "standard input" if file == "-" else file
        with open_source(file) as source:
            if form == "jsonl":
                records = Records(source, (), format="jsonl", name=name, skip_bad=skip_bad)
                write = write_records(out, "jsonl", ())
                for record in records:
                    added = self.record(record)
                    write(
                        record
                        | {
                            f"predicted_{key}" if key in record else key: value
                            for key, value in added.items()
                        }
                    )
                return records.remark
            least = 2 if form == "conllu" else self.task.token
            return self._columns(Columns(source, name, form, least), out, form, skip_bad)

    def _columns(self, lines: Columns, out: IO[str], form: str, skip_bad: bool) -> str:
        column = 1 if form == "conllu" else self.task.token - 1
        whole = self.model.crf is not None or self.model.bidirectional
        running = None if whole else stream(self.model, self.processor)
        skipped, first = 0, ""
        held: list[Line] = []
        for line in chain(lines, [None]):
            if isinstance(line, InputError):
                if not skip_bad:
                    raise InputError(f"{line}; correct the line, or leave bad ones out with --skip-bad")
                skipped, first = skipped + 1, first or str(line)
            elif running is None:
                if line is None or line.blank:
                    self._write_sentence(held, column, form, out)
                    held = []
                    if line is not None:
                        _write(out, line.text)
                else:
                    held.append(line)
            elif line is not None:
                if line.blank:
                    running.reset()
                if not _is_token(line, form):
                    _write(out, _without_tag(line))
                    continue
                _write(out, _with_tag(line, running.feed([line.fields[column]])["tags"][0]))
        if not skipped:
            return ""
        return f"{lines.name}: {skipped} bad line{'s' if skipped > 1 else ''} skipped; the first is {first}"

    def _write_sentence(self, held: list[Line], column: int, form: str, out: IO[str]) -> None:
        tokens = tuple(line.fields[column] for line in held if _is_token(line, form))
        tags = iter(self.sentence(tokens))
        for line in held:
            _write(out, _with_tag(line, next(tags)) if _is_token(line, form) else _without_tag(line))


def _is_token(line: Line, form: str) -> bool:
    """Whether the line has a tag: in CoNLL-U only words with a number of their own."""
    return bool(line.fields) and (form != "conllu" or line.fields[0].isdecimal())


def _with_tag(line: Line, tag: str) -> str:
    separator = "\t" if "\t" in line.text or len(line.fields) == 1 else " "
    return f"{line.text.rstrip()}{separator}{tag or '_'}"


def _without_tag(line: Line) -> str:
    """A comment or a blank line as it is; of CoNLL-U a line without a tag still has the column."""
    return f"{line.text}\t_" if line.fields else line.text


def _write(out: IO[str], text: str) -> None:
    out.write(f"{text}\n")
    out.flush()
