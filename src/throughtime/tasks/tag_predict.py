"""Tags for typed text, records, and files in columns."""

from __future__ import annotations

from itertools import chain
from typing import IO, TYPE_CHECKING, Any

import torch

from throughtime.data.batch import Batch
from throughtime.data.inside.roles import is_name
from throughtime.data.readers.records import Records, open_source, write_records
from throughtime.data.readers.spans import spans_of, tags_of
from throughtime.data.readers.tagged import Columns, Line, tokens_of
from throughtime.data.words import tokenized
from throughtime.errors import InputError
from throughtime.layers.eval_mode import evaluating
from throughtime.models.crf import best_labels
from throughtime.tasks.task import Record, text_of

if TYPE_CHECKING:
    from throughtime.data.assets import Assets
    from throughtime.tasks.tag import TagTask


class Predictor:
    """A trained tagger and what it needs to read text."""

    def __init__(self, task: TagTask, model: Any, assets: Assets) -> None:
        self.task, self.model = task, model
        self.table, self.tags = task._table(assets), task._tags(assets)
        self.spans: bool = assets.values["spans"]

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
        labels, _ = self._run(tokens, None)
        tags = [self.tags[label] for label in labels]
        if self.spans:
            return tags_of(spans_of(tags), len(tags))
        return self._of_names(tokens, tags)

    def file(self, file: str, out: IO[str], form: str, skip_bad: bool) -> str:
        """The file with one more column, or with more fields in each JSON object; returns a remark."""
        name = "standard input" if file == "-" else file
        with open_source(file) as stream:
            if form == "jsonl":
                records = Records(stream, (), format="jsonl", name=name, skip_bad=skip_bad)
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
            return self._columns(Columns(stream, name, form, least), out, form, skip_bad)

    def _columns(self, lines: Columns, out: IO[str], form: str, skip_bad: bool) -> str:
        column = 1 if form == "conllu" else self.task.token - 1
        streams = self.model.crf is None and not self.model.bidirectional
        skipped, first, state, before = 0, "", None, "O"
        held: list[Line] = []
        for line in chain(lines, [None]):
            if isinstance(line, InputError):
                if not skip_bad:
                    raise InputError(f"{line}; correct the line, or leave bad ones out with --skip-bad")
                skipped, first = skipped + 1, first or str(line)
            elif not streams:
                if line is None or line.blank:
                    self._write_sentence(held, column, form, out)
                    held = []
                    if line is not None:
                        _write(out, line.text)
                else:
                    held.append(line)
            elif line is not None:
                if line.blank:
                    state, before = None, "O"
                if not _is_token(line, form):
                    _write(out, _without_tag(line))
                    continue
                token = line.fields[column]
                labels, state = self._run((token,), state)
                tag = self.tags[labels[0]]
                _write(out, _with_tag(line, self._after(before, token, tag)))
                before = tag
        if not skipped:
            return ""
        return f"{lines.name}: {skipped} bad line{'s' if skipped > 1 else ''} skipped; the first is {first}"

    def _write_sentence(self, held: list[Line], column: int, form: str, out: IO[str]) -> None:
        tokens = tuple(line.fields[column] for line in held if _is_token(line, form))
        tags = iter(self.sentence(tokens))
        for line in held:
            _write(out, _with_tag(line, next(tags)) if _is_token(line, form) else _without_tag(line))

    def _after(self, before: str, token: str, tag: str) -> str:
        """A tag as it is written: of spans in BIO, which the model's tag before it decides."""
        if not self.spans:
            return self._of_names((token,), [tag])[0]
        return tags_of(spans_of([before, tag]), 2)[1]

    def _of_names(self, tokens: tuple[str, ...], tags: list[str]) -> list[str]:
        """The tags; of Python's own data only names have one."""
        if self.task.data:
            return tags
        return [tag if is_name(token) else "" for token, tag in zip(tokens, tags, strict=True)]

    def _run(self, tokens: tuple[str, ...], state: Any) -> tuple[list[int], Any]:
        device = next(self.model.parameters()).device
        batch = Batch.of(self.table.encode(tokens)[:, None], lengths=[len(tokens)]).to(device)
        with evaluating(self.model), torch.inference_mode():
            outputs, state = batch.run(self.model, state)
            return best_labels(outputs, batch.lengths)[:, 0].tolist(), state


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
