"""Dialogue: a reply to what was said, written by a model whose encoder keeps its state over the turns."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.options import option
from throughtime.tasks.files import check_part, check_sources, reading_again
from throughtime.tasks.task import Record, data_option, text_of
from throughtime.tasks.writing import WritingTask, reads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.exchanges import Exchange, Turn
    from throughtime.data.readers.dialogues import Dialogue, Dialogues
    from throughtime.decoding import Limits
    from throughtime.metrics import Metric

PARTS = ("train", "validation", "test")


class Marks(NamedTuple):
    """Symbols behind those of the vocabulary."""

    other: int  # before a turn of the other side
    own: int  # before a turn of the side that replies; also what its reply starts with
    end: int  # of a reply

    @property
    def symbols(self) -> int:
        """V, these included."""
        return self.end + 1


@dataclass(frozen=True)
class ChatTask(WritingTask):
    """Train a model that replies to what was said in a dialogue.

    The source of a reply is all that was said before it, each turn with a mark of its side; the encoder reads it from left to
    right, so that its state can be kept while a dialogue goes on: 'throughtime chat RUN'. Reads TSV (dialogue, speaker, text; or
    prompt, reply), YAML as in the ChatterBot corpus, and JSON lines with "turns". Whole dialogues are held out, and dialogues
    that begin with the same turn stay in one part. Without --data it learns dialogues about throughtime itself.
    """

    name = "chat"
    shape = "many to many, unaligned"
    reads = "TSV of turns or of pairs, YAML conversations, JSON lines"
    examples = (
        "throughtime train chat",
        "throughtime train chat --data dialogues.tsv",
        "throughtime train chat --data support.jsonl --speaker agent --tokens bpe",
        "throughtime train chat --data chinese --tokens char --category greetings",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 256, "embedding": 128, "dropout": 0.2, "bptt": "full", "batch": 16, "epochs": 10.0, "lr": 5e-3,
    }  # fmt: skip

    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the dialogues, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    tokens: str = data_option("word", "char, word or bpe.", metavar="KIND", choices=("char", "word", "bpe"))
    vocab_size: int | None = data_option(
        None, "Most symbols; the rest is unknown. Default: all characters, 10,000 words, 2,000 byte pairs.", metavar="N", low=2,
        high=2**24,
    )  # fmt: skip
    lower: bool = data_option(True, "Read what was said in lower case; replies are written as they are.")
    length: int = data_option(
        200, "Symbols of a turn, its first; a longer reply is cut too.", metavar="N", low=1, high=10**6
    )
    speaker: str | None = data_option(
        None, "The speaker whose turns are replies. Default: whoever did not begin.", metavar="NAME"
    )
    both_sides: bool = data_option(False, "Learn the turns of both sides, not the replies alone.")
    category: tuple[str, ...] = data_option(
        (), "Only dialogues of this category; repeat for more.", metavar="NAME"
    )
    history: int | None = data_option(
        None, "Read only the last N turns before a reply. Default: all.", metavar="N", low=1
    )
    skip_bad: bool = data_option(False, "Leave out dialogues that cannot be read, and count them.")
    split_seed: int = data_option(
        0, "Another seed divides the data into other parts.", metavar="N", low=0, high=2**63 - 1
    )
    attention: str = option(
        "none",
        "none, dot, general (multiplicative) or additive. none: every step reads the summary of the history.",
        metavar="KIND",
        choices=("none", "dot", "general", "additive"),
        panel="Model",
    )
    memory: int | None = option(
        200,
        "Of attention: the last N symbols that were said; the state has read all.",
        metavar="N",
        low=1,
        panel="Model",
    )
    beam: int = option(
        1, "Hypotheses of beam search; 1 is greedy.", metavar="N", low=1, high=1000, panel="Decoding"
    )

    @property
    def unit(self) -> str:
        return {"char": "character", "word": "word", "bpe": "byte pair"}[self.tokens]

    @property
    def title(self) -> str:
        return super().title if self.data else "dialogues"

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.data.vocabulary import Vocabulary

        assets = Assets()
        rows, assets.sources, assets.splits, remarks = self._read()
        assets.cache["dialogues"] = rows
        train = [rows[number] for number in assets.splits["train"]]
        # What is read in lower case and written as it is: both are symbols.
        texts = [
            self._normalized(turn, read) for each in train for turn in each.turns for read in (False, True)
        ]
        glue = "" if self.tokens == "char" else "\n"
        vocabulary = (
            like.vocabulary if like else Vocabulary.build(self.tokens, glue.join(texts), self.vocab_size)
        )
        assets.vocabularies = {"symbols": vocabulary}
        assets.values["remarks"] = remarks
        if not self._exchanges(assets, "train"):
            names = sorted({speaker for each in train for speaker in each.speakers})
            raise InputError(
                f"expected replies to learn, found none: speaker {self.speaker!r} never replies, the speakers are "
                f"{', '.join(map(repr, names[:8]))}"
            )
        assets.values["remarks"] += self._shared_prompts(assets)
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.dialogue import reply_model

        if config.bidirectional:
            raise InputError(
                "the encoder of a dialogue keeps its state from turn to turn, and a bidirectional one starts at the end: leave "
                "bidirectional out"
            )
        return reply_model(config, marks(assets).symbols, memory=self.memory, **self.decoder_options())

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        """Each reply with nine others as candidates, whose targets are masked: see `candidate_batches`."""
        from throughtime.data.exchanges import candidate_batches

        inputs, targets = self._encoded(assets, split)
        if not inputs:
            return None
        context: Any = self._context(assets, split)
        return candidate_batches(inputs, targets, context, self._candidates(assets, split), batch)

    def flow_batches(self, assets: Assets, split: str, *, steps: int, batch: int) -> Iterator[Batch] | None:
        """The replies alone."""
        return super().evaluation_batches(assets, split, steps=steps, batch=batch)

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.loss import Perplexity
        from throughtime.metrics.replies import (
            CandidateMRR,
            CandidateRecall,
            Distinct,
            ExactReplies,
            HistoryGain,
            WrittenReplies,
            candidate_scores,
        )

        scores = candidate_scores(marks(assets).end)
        write = WrittenReplies(lambda model, batch: self.write(model, assets, batch.context))
        size = len(assets.vocabulary)
        return [
            Perplexity(),
            CandidateRecall(1, scores),
            CandidateMRR(scores),
            ExactReplies(write),
            Distinct(1, size, write),
            Distinct(2, size, write),
            HistoryGain(lambda batch: last_turns(batch, marks(assets)), self.loss),
        ]

    def after_training(self, model: nn.Module, assets: Assets) -> bool:
        """Fit the probability that a greedy reply is the true one, on the validation part."""
        import torch

        from throughtime.metrics.calibration import fit_logistic

        replier: Any = model
        inputs, targets = self._encoded(assets, "validation")
        if not inputs:
            return False
        context: Any = self._context(assets, "validation")
        found = self.decode(replier, context, self.limits(assets), marks(assets).own, beam=1)
        scores = torch.tensor([each.score / (len(each.symbols) + 1) for (each,) in found])
        right = [each.symbols == true[:-1].tolist() for (each,), true in zip(found, targets, strict=True)]
        replier.confidence.set(*fit_logistic(scores, torch.tensor(right)))
        return True

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines.chat import reply_baselines

        found = self._exchanges(assets, split)
        return dict(
            reply_baselines(
                self._exchanges(assets, "train"),
                found,
                self._candidates(assets, split),
                lambda text: self._ids(assets, text).tolist(),
            )
        )

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The reply to each text, as the first turn of a dialogue, or to all of a record's "turns"; and its confidence."""
        import torch

        from throughtime.data.batch import Source
        from throughtime.data.exchanges import Turn
        from throughtime.layers.eval_mode import evaluating
        from throughtime.models.dialogue import mean_log_likelihood

        replier: Any = model
        for record in records:
            turns = record["turns"] if "turns" in record else [text_of(record, "text")]
            if not isinstance(turns, list) or not turns or not all(isinstance(each, str) for each in turns):
                raise InputError(
                    f"'turns' must be a list of texts, the last of them to be replied to, got {turns!r:.60}"
                )
            # The last turn is the other side's.
            own = [(len(turns) - place) % 2 == 0 for place in range(len(turns))]
            source = self.source(assets, [Turn(*each) for each in zip(own, turns, strict=True)])
            ((best, *_),) = self.decode(replier, [source], self.limits(assets), marks(assets).own)
            with evaluating(model), torch.inference_mode():
                device = next(model.parameters()).device
                state = replier.begin(Source(source[None].to(device), torch.tensor([len(source)])))
                mean = mean_log_likelihood(replier, state, best.symbols, marks(assets).own, marks(assets).end)
            yield {"reply": self.text(assets, best.symbols), "confidence": round(replier.confidence(mean), 6)}

    def describe(self, assets: Assets) -> str:
        source = ", ".join(path.rpartition("/")[2] for path in self.data) or "dialogues about throughtime"
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{source}: {sizes['train']:,} dialogues to train on, {sizes['validation']:,} for validation, {sizes['test']:,} for "
            f"test; vocabulary of {len(assets.vocabulary):,}{remarks}"
        )

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        return [f"throughtime chat {path}", f"throughtime evaluate {path} --split test"]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        size = len(assets.vocabulary)
        return [
            assets.vocabulary.decode([number]).strip() if number < size else ":"
            for number in map(int, inputs.flatten())
        ]

    def source(self, assets: Assets, turns: Sequence[Turn]) -> Tensor:
        """The ids of some turns as the encoder reads them, [s]: of each its mark, then its symbols."""
        import torch

        found, both = [], marks(assets)
        for each in turns:
            found += [
                torch.tensor([both.own if each.own else both.other]),
                self._ids(assets, each.text, read=True),
            ]
        return torch.cat(found)

    def text(self, assets: Assets, symbols: Sequence[int]) -> str:
        """What written symbols say."""
        return assets.vocabulary.decode(symbols).strip()

    def limits(self, assets: Assets) -> Limits:
        """What a reply may consist of: at least one symbol, none unknown, no mark."""
        from throughtime.decoding import Limits

        found, unknown = marks(assets), assets.vocabulary.unknown
        banned = (found.other, found.own, *(() if unknown is None else (unknown,)))
        return Limits(found.end, self.max_length, min_length=1, banned=banned)

    def write(self, model: Any, assets: Assets, sources: Any) -> list[list[int]]:
        """The model's greedy replies to a `Source` of B histories."""
        import torch

        from throughtime.decoding import greedy

        device = sources.values.device
        start = torch.full((len(sources.values),), marks(assets).own, device=device)
        if not len(start):
            return []
        found = greedy(model.step, model.begin(sources), start, self.limits(assets))
        return [each.symbols for each in found]

    def _normalized(self, text: str, read: bool) -> str:
        """A word is one symbol wherever it stands: words and byte pairs carry the space before them."""
        text = " ".join(text.split())
        text = text.lower() if read and self.lower else text
        return text if self.tokens == "char" or not text else f" {text}"

    def _ids(self, assets: Assets, text: str, *, read: bool = False) -> Tensor:
        return assets.vocabulary.encode(self._normalized(text, read))[: self.length]

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor]]:
        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            found = marks(assets)
            pairs = [
                reads(self._ids(assets, each.reply).tolist(), found.own, found.end)
                for each in self._exchanges(assets, split)
            ]
            assets.cache[key] = [list(each) for each in zip(*pairs, strict=True)] or [[], []]
        inputs, targets = assets.cache[key]
        return inputs, targets

    def _context(self, assets: Assets, split: str) -> list[Tensor]:
        key = f"context/{self.data}/{split}"
        if key not in assets.cache:
            found = self._exchanges(assets, split)
            assets.cache[key] = [self.source(assets, each.history) for each in found]
        context: list[Tensor] = assets.cache[key]
        return context

    def _candidates(self, assets: Assets, split: str) -> list[list[int]]:
        from throughtime.data.exchanges import draw_candidates

        return draw_candidates([each.reply for each in self._exchanges(assets, split)], self.split_seed)

    def _exchanges(self, assets: Assets, split: str) -> list[Exchange]:
        """The replies of a split, each with what was said before it."""
        from throughtime.data.exchanges import exchanges_of

        key = f"exchanges/{self.data}/{split}"
        if key not in assets.cache:
            assets.cache[key] = [
                each
                for dialogue in self._dialogues(assets, split)
                for each in exchanges_of(
                    dialogue, self.speaker, both_sides=self.both_sides, turns=self.history
                )
            ]
        found: list[Exchange] = assets.cache[key]
        return found

    def _dialogues(self, assets: Assets, split: str) -> list[Dialogue]:
        if "dialogues" not in assets.cache or split == "all":
            with nullcontext() if split == "all" else reading_again():
                rows, sources, _, _ = self._read()
            if split == "all":
                return rows
            check_sources(assets, sources)
            assets.cache["dialogues"] = rows
        found, numbers = assets.cache["dialogues"], assets.splits.get(split, ())
        if max(numbers, default=0) >= len(found):
            raise RunError(
                f"the split in assets.json is damaged: it has dialogue {max(numbers)} of {len(found)}"
            )
        return [found[number] for number in numbers]

    def _read(self) -> tuple[list[Dialogue], Any, dict[str, list[int]], list[str]]:
        """All dialogues, the files they are from, the numbers of each part, and what the user should know.

        Those of `data` come first, then those of validation and test files.
        """
        from throughtime.data.inside.dialogues import inside_dialogues
        from throughtime.data.readers.dialogues import read_dialogues
        from throughtime.data.split import group_keys, split_examples

        found = read_dialogues(self.data, skip_bad=self.skip_bad) if self.data else inside_dialogues()
        rows, remarks = self._of_category(found), list(found.remarks)
        if self.limit is not None and self.limit < len(rows):
            chosen = random.Random(f"limit/{self.split_seed}").sample(range(len(rows)), self.limit)
            rows = [rows[number] for number in sorted(chosen)]
        own = [0.0 if isinstance(value, str) else value for value in (self.validation, self.test)]
        groups = group_keys([each.turns[0] for each in rows])
        split = split_examples(len(rows), validation=own[0], test=own[1], seed=self.split_seed, groups=groups)
        parts = {part: list(getattr(split, part)) for part in PARTS}
        sources = found.sources
        for part in PARTS[1:]:
            if isinstance(file := getattr(self, part), str):
                other = read_dialogues([file], skip_bad=self.skip_bad)
                more = self._of_category(other)
                sources, remarks = (*sources, *other.sources), [*remarks, *other.remarks]
                parts[part] = list(range(len(rows), len(rows) + len(more)))
                rows += more
        return rows, sources, parts, remarks

    def _of_category(self, found: Dialogues) -> list[Dialogue]:
        """The dialogues of the categories that are asked for; all where none is.

        Raises: InputError for a category that no dialogue has.
        """
        from throughtime.errors import nearest

        wanted = {each.casefold() for each in self.category}
        there = {each.category.casefold() for each in found.dialogues}
        if unknown := sorted(wanted - there):
            raise InputError(
                f"category: no dialogue is of {unknown[0]!r}, the categories are {', '.join(sorted(there))[:120]}."
                f"{nearest(unknown[0], there)}"
            )
        return [each for each in found.dialogues if not wanted or each.category.casefold() in wanted]

    def _shared_prompts(self, assets: Assets) -> list[str]:
        """What to say of turns that are replied to in training and in another part too."""
        from throughtime.data.split import group_keys

        keys = {
            part: group_keys([each.history[-1].text for each in self._exchanges(assets, part)])
            for part in PARTS
        }
        known = set(keys["train"])
        shared = {part: sum(key in known for key in keys[part]) for part in PARTS[1:]}
        return [
            f"{count:,} of the {len(keys[part]):,} {part} replies answer a turn that training answers too, after other turns or "
            "in another dialogue"
            for part, count in shared.items()
            if count
        ]


def marks(assets: Assets) -> Marks:
    """The symbols behind those of the vocabulary."""
    size = len(assets.vocabulary)
    return Marks(size, size + 1, size + 2)


def last_turns(batch: Batch, both: Marks) -> tuple[Tensor, Batch]:
    """The rows whose targets count and that have more than one turn before them, and these with the last turn alone."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from throughtime.data.batch import Source
    from throughtime.metrics.replies import first_rows

    values, lengths = batch.context
    inside = torch.arange(values.shape[1], device=values.device) < lengths.to(values.device)[:, None]
    is_mark = ((values == both.other) | (values == both.own)) & inside
    rows = first_rows(batch)
    rows = rows[is_mark[rows].sum(1) > 1]
    cut = [values[row, int(is_mark[row].nonzero()[-1]) : int(lengths[row])] for row in rows.tolist()]
    if not cut:
        return rows, batch
    found = Source(pad_sequence(cut, batch_first=True), torch.tensor([len(each) for each in cut]))
    return rows, batch.rows(rows)._replace(context=found)
