"""Music: melodies or polyphony, written from a genre, from a first note, or from nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.files import ExamplesTask, check_part, check_sources, reading_again
from throughtime.tasks.task import Record, data_option, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.examples import Context, Examples
    from throughtime.data.music import Tune
    from throughtime.data.pieces import Pieces
    from throughtime.metrics import Metric

PARTS = ("train", "validation", "test")
HIDE = 0.1  # how often training hides the genre of a tune, and its key: so the model learns to write without them


@dataclass(frozen=True)
class ComposeTask(ExamplesTask):
    """Train a model that writes music.

    Reads ABC, MIDI, and piano rolls in MATLAB files with their published parts. A melody is a sequence of notes, each a pitch
    and a length; polyphony is a sequence of frames, each the set of notes that sound. Without --data it learns 73 melodies that
    are in the public domain. `throughtime generate` writes music with it.
    """

    name = "compose"
    shape = "one to many"
    reads = "ABC, MIDI, piano rolls (.mat)"
    examples = (
        "throughtime train compose",
        "throughtime train compose --data tunes.abc --cell gru",
        "throughtime train compose --data music/ --form polyphony --frame 0.25",
        "throughtime train compose --data JSB_Chorales.mat --notes chained",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 192, "embedding": 64, "dropout": 0.5, "bptt": "full", "batch": 8, "epochs": 120.0, "lr": 2e-3,
    }  # fmt: skip
    without = ("pooling", "bidirectional", "tied", "window")
    columns = ("abc",)
    writes_music = True
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "abc": (".abc",), "midi": (".mid", ".midi"), "mat": (".mat",),
    }  # fmt: skip

    validation: float | str = data_option(
        0.15, "Validation data, not trained on: a fraction of the data, or a file; 0 for none. Parts of a .mat are its own.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    test: float | str = data_option(
        0.15, "Test data, evaluated once, after training: a fraction of the data, or a file. Parts of a .mat are its own.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    form: str | None = data_option(
        None, "melody, note after note, or polyphony, frames. Default: by the data.", metavar="FORM",
        choices=("melody", "polyphony"),
    )  # fmt: skip
    notes: str = data_option(
        "chained", "Polyphony: notes of a frame are independent, or chained, each given those above it (NADE).", metavar="HOW",
        choices=("chained", "independent"),
    )  # fmt: skip
    chain: int = data_option(128, "Hidden units of the chain.", metavar="N", low=1, high=65_536)
    frame: float = data_option(
        0.5, "Polyphony: quarter notes in a frame. A .mat does not say how long its frames are: for those it is used in writing.",
        metavar="X", low=1 / 16, high=16,
    )  # fmt: skip
    transpose: int = data_option(
        6, "Move each training piece up or down by at most N semitones, another key each time; 0: not at all.", metavar="N",
        low=0, high=24,
    )  # fmt: skip
    skip_bad: bool = data_option(False, "Leave out pieces that cannot be read, and count them.")
    split_seed: int = data_option(
        0, "Another seed divides the pieces into other parts.", metavar="N", low=0, high=2**63 - 1
    )

    @property
    def unit(self) -> str:
        return "step"

    @property
    def title(self) -> str:
        return super().title if self.data else "melodies"

    @property
    def step(self) -> Fraction:
        """The length of a frame, a fraction of a whole note."""
        return Fraction(self.frame).limit_denominator(960) / 4

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.data.music import Tune
        from throughtime.data.pieces import is_polyphonic
        from throughtime.tasks.compose_steps import labels_of

        assets = Assets()
        pieces, assets.splits = self._read()
        assets.sources, assets.values["remarks"] = pieces.sources, list(pieces.remarks)
        assets.cache["pieces"] = pieces
        if like is not None:
            kept_of(like)
            assets.labels, assets.values["music"] = like.labels, like.values["music"]
            return assets
        form = self.form or ("polyphony" if is_polyphonic(pieces.items) else "melody")
        train = [pieces.items[number] for number in assets.splits["train"]]
        if not train:
            raise InputError("no piece is left to train on: hold out less")
        if form == "melody" and any(not isinstance(item, Tune) for item in pieces.items):
            raise InputError(
                "a .mat holds frames, and no lengths of notes: leave form out, or give it as polyphony"
            )
        tunes = [item for item in train if isinstance(item, Tune)]
        assets.labels, genres = labels_of(tunes, form)
        assets.values["music"] = {
            "form": form,
            "keys": any(tune.key is not None for tune in tunes),
            "metres": genres,
        }
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.data.music import KEYS
        from throughtime.models.build import layers
        from throughtime.models.music import FrameEmbedding, MusicModel, NoteEmbedding, NotePairs
        from throughtime.models.set_outputs import ChainedNotes, IndependentNotes
        from throughtime.tasks.compose_steps import PITCHES, PLAYED, context_size

        if config.bidirectional:
            raise InputError(
                "a bidirectional model reads the notes that it is to write: leave bidirectional out"
            )
        embedding: Any
        head: Any
        if kept_of(assets)["form"] == "melody":
            lengths, places = len(assets.labels["length"]), len(assets.labels["place"])
            embedding = NoteEmbedding(PITCHES, PLAYED, lengths + 1, places, config.embedding)
            head = NotePairs(config.outputs, PITCHES, lengths)
        else:
            embedding = FrameEmbedding(KEYS, config.embedding)
            chained = self.notes == "chained"
            head = (
                ChainedNotes(config.outputs, KEYS, self.chain)
                if chained
                else IndependentNotes(config.outputs, KEYS)
            )
        recurrent = layers(config, embedding.embedding_dim)
        return MusicModel(embedding, recurrent, head, context=context_size(assets), dropout=config.dropout)

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Examples:
        from throughtime.data.transposed import ChangedExamples
        from throughtime.tasks.compose_steps import changed

        inputs, targets = self._encoded(assets, "train")
        context = self._context(assets, "train")

        def change(batch: Batch, draws: random.Random) -> Batch:
            return changed(assets, batch, draws, self.transpose, HIDE)

        return ChangedExamples(
            inputs, targets, batch, context=context, seed=seed, rank=rank, world=world, change=change
        )

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        from throughtime.data.transposed import one_target_a_step

        found = super().evaluation_batches(assets, split, steps=steps, batch=batch)
        return None if found is None else map(one_target_a_step, found)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        found: Tensor = outputs.nll(batch.targets).sum()
        return found

    def flow_loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda outputs, targets: outputs.nll(targets)

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.music import FrameLikelihood, NoteLikelihood

        if kept_of(assets)["form"] == "melody":
            return [NoteLikelihood("nll"), NoteLikelihood("nll_pitch"), NoteLikelihood("nll_length")]
        return [FrameLikelihood(), FrameLikelihood(by_piece=True)]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines.compose import frame_baselines, markov_baselines
        from throughtime.tasks.compose_steps import PITCHES

        parts = {part: self._encoded(assets, part)[1] for part in {"train", "validation", split}}
        if kept_of(assets)["form"] == "polyphony":
            return frame_baselines(parts["train"], parts[split])
        return markov_baselines(
            parts["train"], parts["validation"], parts[split], PITCHES, len(assets.labels["length"])
        )

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """What could follow a tune in ABC, and how well each of its notes was predicted: nats a note or a frame."""
        from throughtime.data.readers.abc import read_tunes
        from throughtime.tasks.compose_write import answer

        for record in records:
            for tune in read_tunes(text_of(record, "abc"), "the tune")[:1]:
                yield answer(self, model, assets, tune)

    def predict_file(
        self, model: nn.Module, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        """A row for each note or frame of each piece, CSV: what it is, and how surprising it was, in nats."""
        from throughtime.tasks.compose_write import write_losses

        return write_losses(self, model, assets, file, out, skip_bad=skip_bad)

    def compose(self, model: nn.Module, assets: Assets, **options: Any) -> Tune:
        """Write music; see `throughtime.tasks.compose_write.write`."""
        from throughtime.tasks.compose_write import write

        return write(self, model, assets, **options)

    def describe(self, assets: Assets) -> str:
        names = ", ".join(path.rstrip("/").rpartition("/")[2] for path in self.data)
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        kept, genres = kept_of(assets), assets.labels.get("genre", ())
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{names or 'melodies in the public domain'}: {sizes['train']:,} pieces to train on, {sizes['validation']:,} for "
            f"validation, {sizes['test']:,} for test; {kept['form']}; genres: {', '.join(genres) or 'none'}{remarks}"
        )

    def describe_loss(self, loss: float) -> str:
        return f"loss {loss:.3f} nats"

    def conclude(self, metrics: Mapping[str, float]) -> str:
        unit = "note" if "nll_pitch" in metrics else "frame"
        return f"Each {unit} costs {metrics['nll']:.3f} nats, given those before it."

    def remarks(self, config: ModelConfig) -> list[str]:
        if config.cell not in ("none", "cnn"):
            return []
        return [f"{config.cell} has no initial state: genre and key reach it through its inputs alone"]

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        genres = assets.labels.get("genre", ())
        genre = f" --genre {genres[0]}" if genres and genres[0].isalnum() else ""
        return [f"throughtime generate {path}{genre} --out tune.mid", f"throughtime evaluate {path}"]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        from throughtime.tasks.compose_steps import names_of_steps

        return names_of_steps(assets, inputs)

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        """Of a tune in ABC."""
        from throughtime.data.readers.abc import read_tunes
        from throughtime.tasks.compose_steps import encode

        inputs, _ = encode(assets, read_tunes(text, "the tune")[0], self.step)
        return inputs[:, None], []

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor]]:
        """The steps of each piece as the model reads them, and its targets."""
        from throughtime.tasks.compose_steps import encode

        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            pairs = [encode(assets, item, self.step) for item in self._items(assets, split)]
            assets.cache[key] = [inputs for inputs, _ in pairs], [targets for _, targets in pairs]
        found: tuple[list[Tensor], list[Tensor]] = assets.cache[key]
        return found

    def _context(self, assets: Assets, split: str) -> Context | None:
        import torch

        from throughtime.tasks.compose_steps import context_of, context_size

        items = self._items(assets, split)
        if not context_size(assets) or not items:
            return None
        return torch.stack([context_of(assets, item) for item in items])

    def _items(self, assets: Assets, split: str) -> list[Any]:
        if "pieces" not in assets.cache or split == "all":
            with nullcontext() if split == "all" else reading_again():
                pieces, _ = self._read()
            if split == "all":
                return pieces.items
            check_sources(assets, pieces.sources)
            assets.cache["pieces"] = pieces
        items, numbers = assets.cache["pieces"].items, assets.splits.get(split, ())
        if max(numbers, default=0) >= len(items):
            raise RunError(
                f"the split in assets.json is damaged: it has piece {max(numbers)} of {len(items)}"
            )
        return [items[number] for number in numbers]

    def _read(self) -> tuple[Pieces, dict[str, list[int]]]:
        """All pieces, those of validation and test files last, and the numbers of each part."""
        from throughtime.data.pieces import read_pieces, same_music
        from throughtime.data.split import split_examples

        pieces = read_pieces(self.data, skip_bad=self.skip_bad)
        used = list(range(len(pieces.items)))
        if self.limit is not None and self.limit < len(used):
            used = sorted(random.Random(f"limit/{self.split_seed}").sample(used, self.limit))
        free = [number for number in used if not pieces.parts[number]]
        fractions = {
            part: 0.0 if isinstance(value := getattr(self, part), str) else value for part in PARTS[1:]
        }
        split = split_examples(
            len(free),
            validation=float(fractions["validation"]),
            test=float(fractions["test"]),
            seed=self.split_seed,
            groups=[same_music(pieces.items[number]) for number in free],
            labels=[getattr(pieces.items[number], "genre", "") for number in free],
        )
        parts = {part: [free[number] for number in getattr(split, part)] for part in PARTS}
        for part in PARTS:
            parts[part] += [number for number in used if pieces.parts[number] == part]
        for part in PARTS[1:]:
            if isinstance(file := getattr(self, part), str):
                start = len(pieces.items)
                pieces.add(read_pieces((file,), skip_bad=self.skip_bad))
                parts[part] = list(range(start, len(pieces.items)))
        keys = {part: Counter(same_music(pieces.items[number]) for number in parts[part]) for part in PARTS}
        for number, part in enumerate(PARTS):
            for other in PARTS[number + 1 :]:
                if shared := sum(count for key, count in keys[other].items() if key in keys[part]):
                    pieces.remarks += (
                        f"{shared} of the {len(parts[other])} {other} pieces are also {part} pieces, maybe in another key: they "
                        f"are kept, and results on the {other} part are too good by that",
                    )
        return pieces, parts


def kept_of(assets: Assets) -> dict[str, Any]:
    """What `prepare` put into the assets.

    Raises: RunError where it is not there.
    """
    kept = assets.values.get("music")
    if not isinstance(kept, dict) or not {"form", "keys", "metres"} <= set(kept):
        raise RunError("the run's assets.json is damaged: it does not say what music it is of")
    return kept
