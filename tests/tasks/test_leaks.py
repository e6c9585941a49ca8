"""No task shows the model a validation or test part while it trains: one test, and for each task what a leak would look like."""

from __future__ import annotations

import array
import itertools
import random
import wave
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from throughtime.data import Assets, Batch
from throughtime.data.music import key_of, tune_of_melody
from throughtime.data.readers.abc import write_tune
from throughtime.tasks import Task
from throughtime.tasks.registry import BUILT_IN, find_task

SPLITS = ("validation", "test")


class Case(NamedTuple):
    """A task, and how to recognize what a batch holds."""

    task: Task
    items: Callable[
        [Task, Assets, Iterable[Batch]], list[Any]
    ]  # what the model sees, as values that can be compared
    expected: dict[str, list[Any]] | None = None  # by split, where it is known beforehand


def pairs(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The pairs of neighbouring characters that are read and predicted: each is of one part alone."""
    found: set[str] = set()
    for batch in batches:
        kept = batch.targets >= 0
        numbers = torch.stack([batch.inputs[kept], batch.targets[kept]], dim=1)
        found |= {assets.vocabulary.decode(pair) for pair in numbers.tolist()}
    return sorted(found)


def texts(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The texts of a table, in lower case and without spaces: what counts as one text."""
    return sorted(
        "".join(assets.vocabulary.decode(batch.inputs[: batch.lengths[b], b]).lower().split())
        for batch in batches
        for b in range(batch.size)
    )


def messages(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The texts of a table, in lower case and with single spaces: "model card" and "modelcard" are two."""
    return sorted(
        " ".join(assets.vocabulary.decode(batch.inputs[: batch.lengths[b], b]).lower().split())
        for batch in batches
        for b in range(batch.size)
    )


def sequences(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The inputs of generated sequences; the second number of a pair is its mark."""
    return [tuple(batch.inputs[:, b].flatten().tolist()) for batch in batches for b in range(batch.size)]


LETTERS = "abcdefgh"
JUMPS = {"train": (1, 2), "validation": (3, 4), "test": (5, 6)}  # from a character to the next


def parts_of_a_text() -> dict[str, str]:
    """Texts of the same letters, with no pair of neighbours in common."""
    draws, found = random.Random(5), {}
    for part, size in (("train", 800), ("validation", 100), ("test", 100)):
        place, text = 0, ""
        for _ in range(size):
            place = (place + draws.choice(JUMPS[part])) % len(LETTERS)
            text += LETTERS[place]
        found[part] = text
    return found


def pairs_of(text: str) -> list[str]:
    return sorted({a + b for a, b in itertools.pairwise(text)})


def text_by_fraction(folder: Path) -> Case:
    parts = parts_of_a_text()
    (folder / "all.txt").write_text("".join(parts.values()))
    task = find_task("text").kind(data=(str(folder / "all.txt"),), validation=0.1, test=0.1)
    return Case(task, pairs, {part: pairs_of(text) for part, text in parts.items()})


def text_by_file(folder: Path) -> Case:
    parts = parts_of_a_text()
    for part, text in parts.items():
        (folder / f"{part}.txt").write_text(text)
    files = {part: str(folder / f"{part}.txt") for part in SPLITS}
    task = find_task("text").kind(data=(str(folder / "train.txt"),), **files)
    return Case(task, pairs, {part: pairs_of(text) for part, text in parts.items()})


def rows_of_a_table(number: int, seed: int) -> list[tuple[str, str]]:
    """Texts that differ from their copies in case and spaces alone, in three classes."""
    draws, rows = random.Random(seed), []
    for place in range(number):
        label = "abc"[place % 3]
        text = f"{label} {''.join(draws.choices('defgh', k=6))} {seed}{place}"
        rows += [(text, label), (text.upper(), label), (f"  {text.replace(' ', '   ')} ", label)]
    draws.shuffle(rows)
    return rows


def write_table(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    return str(path)


def classify_by_fraction(folder: Path) -> Case:
    data = write_table(folder / "all.csv", rows_of_a_table(60, 1))
    return Case(find_task("classify").kind(data=(data,), validation=0.2, test=0.2), texts)


def classify_by_file(folder: Path) -> Case:
    tables = {part: rows_of_a_table(30, seed) for seed, part in enumerate(("train", *SPLITS), start=1)}
    files = {part: write_table(folder / f"{part}.csv", rows) for part, rows in tables.items()}
    task = find_task("classify").kind(data=(files.pop("train"),), **files)
    own = {part: sorted("".join(text.lower().split()) for text, _ in rows) for part, rows in tables.items()}
    return Case(task, texts, own)


def steps(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The numbers of each sequence's own steps."""
    return [
        tuple(batch.inputs[: batch.lengths[b], b].flatten().tolist())
        for batch in batches
        for b in range(batch.size)
    ]


def long_table(path: Path, seed: int, copies: int = 3) -> str:
    """Sequences of two classes, each several times under other names, with a label for each row that its sequence shares."""
    draws, rows = random.Random(seed), []
    for number in range(20):
        values = [draws.random() for _ in range(draws.randint(2, 6))]
        rows += [
            f"{number}-{copy},{value},{'ab'[number % 2]}\n" for copy in range(copies) for value in values
        ]
    path.write_text("sequence,value,label\n" + "".join(rows))
    return str(path)


def numbers_by_fraction(name: str) -> Callable[[Path], Case]:
    def case(folder: Path) -> Case:
        data = long_table(folder / "long.csv", 1)
        return Case(find_task(name).kind(data=(data,), validation=0.2, test=0.2), steps)

    return case


def numbers_by_file(name: str) -> Callable[[Path], Case]:
    def case(folder: Path) -> Case:
        train, validation, test = (long_table(folder / f"{seed}.csv", seed, 1) for seed in range(3))
        return Case(find_task(name).kind(data=(train,), validation=validation, test=test), steps)

    return case


def recordings_by_speaker(folder: Path) -> Case:
    """Recordings of noise, each twice."""
    draws = random.Random(7)
    (folder / "recordings").mkdir()
    for number in range(40):
        samples = array.array("h", (draws.randrange(-9000, 9000) for _ in range(draws.randint(300, 900))))
        for copy in "ab":
            speaker = ("anna", "ben", "carla", "dan")[number % 4]
            name = f"{'yes' if number % 8 < 4 else 'no'}_{speaker}_{number}{copy}.wav"
            with wave.open(str(folder / "recordings" / name), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(samples.tobytes())
    task = find_task("classify").kind(
        data=(str(folder / "recordings"),),
        label_from=r"(?P<label>[a-z]+)_(?P<group>[a-z]+)_\w+",
        fold="2/4",
        validation=0.3,
        mels=5,
    )
    return Case(task, steps)


def frames_inside(folder: Path) -> Case:
    return Case(find_task("frames").kind(limit=40, validation=0.2, test=0.2), steps)


def classify_what_ships_inside(folder: Path) -> Case:
    return Case(find_task("classify").kind(validation=0.2, test=0.2), texts)


def sentences(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The words of each sentence, in lower case."""
    return sorted(
        " ".join(task.step_names(assets, batch.inputs[: batch.lengths[b], b])).lower()
        for batch in batches
        for b in range(batch.size)
    )


def write_tagged(path: Path, rows: list[tuple[str, str]]) -> str:
    """A sentence of each text, its words tagged with the label."""
    words = ("".join(f"{word}\t{label}\n" for word in text.split()) for text, label in rows)
    path.write_text("\n".join(words))
    return str(path)


def tag_by_fraction(folder: Path) -> Case:
    data = write_tagged(folder / "all.conll", rows_of_a_table(60, 1))
    return Case(find_task("tag").kind(data=(data,), validation=0.2, test=0.2), sentences)


def tag_by_file(folder: Path) -> Case:
    tables = {part: rows_of_a_table(30, seed) for seed, part in enumerate(("train", *SPLITS), start=1)}
    files = {part: write_tagged(folder / f"{part}.conll", rows) for part, rows in tables.items()}
    task = find_task("tag").kind(data=(files.pop("train"),), **files)
    return Case(task, sentences)


def tag_what_ships_inside(folder: Path) -> Case:
    return Case(find_task("tag").kind(limit=400), sentences)


def intent_by_fold(folder: Path) -> Case:
    data = write_table(folder / "all.csv", rows_of_a_table(60, 1))
    return Case(find_task("intent").kind(data=(data,), tokens="char", fold="2/5", validation=0.2), texts)


def intent_what_ships_inside(folder: Path) -> Case:
    return Case(find_task("intent").kind(tokens="char", lower=True, validation=0.2, test=0.2), messages)


def asked(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The queries of a search; all passages are candidates in every part."""
    return sorted(
        assets.vocabulary.decode(batch.inputs[: batch.lengths[b], b]).strip()
        for batch in batches
        for b in range(batch.size)
        if not batch.context[b]
    )


def search_by_fraction(folder: Path) -> Case:
    rows = [(text, f"passage {number}") for number, (text, _) in enumerate(rows_of_a_table(60, 1))]
    (folder / "all.csv").write_text(
        "query,passage\n" + "".join(f'"{query}",{text}\n' for query, text in rows)
    )
    return Case(find_task("search").kind(data=(str(folder / "all.csv"),), validation=0.2, test=0.2), asked)


def search_by_file(folder: Path) -> Case:
    files, own = {}, {}
    for seed, part in enumerate(("train", *SPLITS), start=1):
        own[part] = [f"what is {part} {number} {seed}" for number in range(20)]
        (folder / f"{part}.csv").write_text(
            "query,passage\n" + "".join(f"{query},passage {query[8:]}\n" for query in own[part])
        )
        files[part] = str(folder / f"{part}.csv")
    return Case(find_task("search").kind(data=(files.pop("train"),), **files), asked, own)


def openings(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The first turn before each reply; candidates, whose targets are masked, have that of the reply that they stand beside."""
    size, found = len(assets.vocabulary), []
    for batch in batches:
        for b in range(batch.size):
            ids = batch.context.values[b, 1 : batch.context.lengths[b]].tolist()
            ends = [place for place, number in enumerate(ids) if number >= size]
            found.append(" ".join(assets.vocabulary.decode(ids[: ends[0] if ends else None]).lower().split()))
    return sorted(found)


def chat_by_fraction(folder: Path) -> Case:
    rows = [(text, f"reply {number}") for number, (text, _) in enumerate(rows_of_a_table(60, 1))]
    (folder / "all.tsv").write_text("".join(f"{text}\t{reply}\n" for text, reply in rows))
    task = find_task("chat").kind(data=(str(folder / "all.tsv"),), tokens="char", validation=0.2, test=0.2)
    return Case(task, openings)


def chat_by_file(folder: Path) -> Case:
    files, own = {}, {}
    for part in ("train", *SPLITS):
        own[part] = [f"{part}{number}" for number in range(20)]
        files[part] = str(folder / f"{part}.tsv")
        Path(files[part]).write_text("".join(f"{text}\tyes {text}\n" for text in own[part]))
    return Case(find_task("chat").kind(data=(files.pop("train"),), tokens="bpe", **files), openings, own)


def chat_inside(folder: Path) -> Case:
    return Case(find_task("chat").kind(tokens="bpe", validation=0.2, test=0.2), openings)


def generated(name: str, length: int) -> Callable[[Path], Case]:
    def case(folder: Path) -> Case:
        return Case(find_task(name).kind(length=length, validation=40, test=30, epoch=200), sequences)

    return case


def numbered(start: int, number: int) -> list[str]:
    """Sentences of words that occur often, so that none is unknown: the number tells them apart."""
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return [
        f"The {digits[n // 100]} and {digits[n // 10 % 10]} and {digits[n % 10]} are here."
        for n in range(start, start + number)
    ]


def fill_by_fraction(folder: Path) -> Case:
    rows = numbered(0, 200)
    rows += [row.upper() for row in rows[::3]]
    random.Random(1).shuffle(rows)
    (folder / "all.txt").write_text(" ".join(rows))
    task = find_task("fill").kind(
        data=(str(folder / "all.txt"),), validation=0.2, test=0.2, lower=True, vocab_size=50
    )
    return Case(task, texts)


def fill_by_file(folder: Path) -> Case:
    rows = {"train": numbered(0, 300), "validation": numbered(300, 40), "test": numbered(400, 40)}
    for part, own in rows.items():
        (folder / f"{part}.txt").write_text("\n".join(own))
    files = {part: str(folder / f"{part}.txt") for part in SPLITS}
    task = find_task("fill").kind(
        data=(str(folder / "train.txt"),), by="line", lower=True, vocab_size=50, **files
    )
    expected = {part: sorted("".join(row.lower().split()) for row in own) for part, own in rows.items()}
    return Case(task, texts, expected)


def values_of_series(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """What is read and predicted while training; of a held-out part, whose history is the part before it, what is predicted."""
    (scale,) = assets.values["scales"]
    found: set[int] = set()
    for batch in batches:
        targets = batch.targets[~batch.targets.isnan()]
        inside = torch.arange(batch.steps)[:, None] < batch.lengths
        read = batch.inputs[inside] if batch.context is None else batch.inputs[:0]
        window = task.layout(assets).split(read).window.flatten() if len(read) else targets[:0]
        numbers = torch.cat([targets.flatten(), window]).double() * scale[1] + scale[0]
        found |= {round(number) for number in numbers.tolist()}
    return sorted(found)


def series_by_time(**settings: Any) -> Callable[[Path], Case]:
    """Every value is its own place in the series."""

    def case(folder: Path) -> Case:
        (folder / "series.csv").write_text("t,y\n" + "".join(f"{n},{n}\n" for n in range(200)))
        options = {"horizon": 4, "context": 12, "linear": 5, **settings}
        task = find_task("forecast").kind(data=(str(folder / "series.csv"),), **options)
        parts = {"train": range(120), "validation": range(120, 160), "test": range(160, 200)}
        return Case(task, values_of_series, {part: list(places) for part, places in parts.items()})

    return case


def steps_of_sessions(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """Whole sessions, what is read and the last target."""
    return sorted(
        tuple(
            task.step_names(
                assets, torch.cat([batch.inputs[:length, b], batch.targets[length - 1 : length, b]])
            )
        )
        for batch in batches
        for b, length in enumerate(batch.lengths.tolist())
    )


def log_of_sessions(path: Path, number: int, seed: int) -> str:
    """Sessions of five items, each twice; the same items in all files, so that none is unknown."""
    draws = random.Random(seed)
    sessions = [[*draws.choices("abcdefgh", k=5), f"end{seed}"] for _ in range(number)] * 2
    path.write_text("".join(f"{n} {item}\n" for n, items in enumerate(sessions) for item in items))
    return str(path)


def recommend_by_fraction(folder: Path) -> Case:
    data = log_of_sessions(folder / "log.txt", 60, 1)
    return Case(find_task("recommend").kind(data=(data,), validation=0.2, test=0.2), steps_of_sessions)


def recommend_by_file(folder: Path) -> Case:
    files = {
        part: log_of_sessions(folder / f"{part}.txt", 30, seed)
        for seed, part in enumerate(("train", *SPLITS), 1)
    }
    return Case(find_task("recommend").kind(data=(files.pop("train"),), **files), steps_of_sessions)


def texts_written(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """Whole texts, without case and white space; their styles are not compared, as training drops some of them."""
    decode = assets.vocabulary.decode
    found = []
    for batch in batches:
        for b, length in enumerate(batch.lengths.tolist()):
            text = decode(batch.inputs[1:length, b]) + decode(batch.targets[length - 1 : length, b])
            found.append("".join(text.strip("\x03").lower().split()))
    return sorted(found)


def write_by_fraction(folder: Path) -> Case:
    rows = rows_of_a_table(60, 1)
    rows += [(text.upper(), label) for text, label in rows[::3]]
    random.Random(1).shuffle(rows)
    data = write_table(folder / "all.csv", rows)
    return Case(find_task("write").kind(data=(data,), validation=0.2, test=0.2), texts_written)


def write_by_file(folder: Path) -> Case:
    files = {
        part: write_table(folder / f"{part}.csv", rows_of_a_table(30, seed))
        for seed, part in enumerate(("train", *SPLITS), 1)
    }
    return Case(find_task("write").kind(data=(files.pop("train"),), **files), texts_written)


def images(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The pixels of each image."""
    return sorted(image.numpy().tobytes() for batch in batches for image in batch.context)


def captioned(folder: Path, name: str, seed: int) -> str:
    """Images with two captions, each image three times under other names."""
    pillow = pytest.importorskip(
        "PIL.Image", reason="Pillow is not installed: pip install 'throughtime[images]'"
    )
    draws, rows = random.Random(seed), ["path,caption\n"]
    (folder / name).mkdir()
    for number in range(20):
        pixels = bytes(draws.randrange(256) for _ in range(8 * 8 * 3))
        for copy in range(3):
            pillow.frombytes("RGB", (8, 8), pixels).save(folder / name / f"{number}-{copy}.png")
            rows += [f"{number}-{copy}.png,{word} {number % 3}\n" for word in ("image", "picture")]
    (folder / name / "captions.csv").write_text("".join(rows))
    return str(folder / name)


def caption_by_fraction(folder: Path) -> Case:
    data = captioned(folder, "all", 1)
    return Case(find_task("caption").kind(data=(data,), image_size=8, validation=0.2, test=0.2), images)


def caption_by_file(folder: Path) -> Case:
    files = {part: captioned(folder, part, seed) for seed, part in enumerate(("train", *SPLITS))}
    return Case(find_task("caption").kind(data=(files.pop("train"),), image_size=8, **files), images)


def caption_what_ships_inside(folder: Path) -> Case:
    return Case(find_task("caption").kind(scenes=60, validation=0.2, test=0.2), images)


def translated(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The sources, in lower case and without spaces: what counts as one text."""
    source, _ = task.tokens_of(assets)
    return sorted(
        "".join(source.decode(values[: length - 1].tolist()).lower().split())
        for batch in batches
        for values, length in zip(batch.context[0], batch.context[1].tolist(), strict=True)
    )


def write_pairs(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("".join(f"{text}\ttext {number}\n" for number, (text, _) in enumerate(rows)))
    return str(path)


def translate_by_fraction(folder: Path) -> Case:
    data = write_pairs(folder / "all.tsv", rows_of_a_table(60, 1))
    return Case(
        find_task("translate").kind(data=(data,), validation=0.2, test=0.2, tokens="char"), translated
    )


def translate_by_file(folder: Path) -> Case:
    tables = {part: rows_of_a_table(30, seed) for seed, part in enumerate(("train", *SPLITS), start=1)}
    files = {part: write_pairs(folder / f"{part}.tsv", rows) for part, rows in tables.items()}
    task = find_task("translate").kind(data=(files.pop("train"),), **files, tokens="char", min_count=1)
    own = {part: sorted("".join(text.lower().split()) for text, _ in rows) for part, rows in tables.items()}
    return Case(task, translated, own)


def translate_what_ships_inside(folder: Path) -> Case:
    return Case(find_task("translate").kind(pairs=400, validation=0.2, test=0.2), translated)


def intervals(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """Steps from note to note and lengths of each melody: the same in every key."""
    found = []
    for batch in batches:
        for b in range(batch.size):
            notes = batch.targets[: batch.lengths[b] - 1, b]
            played = notes[notes[:, 0] < 99, 0]
            found.append((tuple(played.diff().tolist()), tuple(notes[:, 1].tolist())))
    return sorted(found)


def tunes_of(path: Path, seed: int) -> str:
    """Tunes, each in three keys."""
    draws, tunes = random.Random(seed), []
    for _ in range(16):
        line = [(draws.randint(60, 72), Fraction(draws.randint(1, 3), 8)) for _ in range(8)]
        for shift, key in ((0, "C"), (7, "G"), (-2, "Bb")):
            moved = [(pitch + shift, length) for pitch, length in line]
            tunes.append(write_tune(tune_of_melody(moved, metre="4/4", genre="jig", key=key_of(key))))
    draws.shuffle(tunes)
    path.write_text("\n".join(tunes))
    return str(path)


def compose_by_fraction(folder: Path) -> Case:
    data = tunes_of(folder / "all.abc", 1)
    return Case(find_task("compose").kind(data=(data,), validation=0.2, test=0.2), intervals)


def compose_by_file(folder: Path) -> Case:
    train, validation, test = (tunes_of(folder / f"{seed}.abc", seed) for seed in range(3))
    return Case(find_task("compose").kind(data=(train,), validation=validation, test=test), intervals)


def compose_what_ships_inside(folder: Path) -> Case:
    return Case(find_task("compose").kind(), intervals)


def words_of_messages(task: Any, assets: Assets, batches: Iterable[Batch]) -> list[Any]:
    """The words of texts in Morse code."""
    from throughtime.metrics.transcription import references
    from throughtime.tasks.transcribe import text_of

    return sorted(
        {word for batch in batches for row in references(batch) for word in text_of(assets, row).split()}
    )


def transcribe_what_is_keyed_inside(folder: Path) -> Case:
    return Case(
        find_task("transcribe").kind(limit=60, validation=0.2, test=0.2, low=300.0, mels=8), words_of_messages
    )


CASES: dict[str, dict[str, Callable[[Path], Case]]] = {
    "text": {"fraction": text_by_fraction, "file": text_by_file},
    "classify": {
        "fraction": classify_by_fraction,
        "file": classify_by_file,
        "inside": classify_what_ships_inside,
        "numbers": numbers_by_fraction("classify"),
        "numbers by file": numbers_by_file("classify"),
        "recordings": recordings_by_speaker,
    },
    "frames": {
        "fraction": numbers_by_fraction("frames"),
        "file": numbers_by_file("frames"),
        "inside": frames_inside,
    },
    "fill": {"fraction": fill_by_fraction, "file": fill_by_file},
    "tag": {"fraction": tag_by_fraction, "file": tag_by_file, "inside": tag_what_ships_inside},
    "forecast": {
        "fractions": series_by_time(validation=0.2, test=0.2),
        "steps": series_by_time(validation=40, test=40),
        "borders": series_by_time(borders=(120, 160, 200)),
    },
    "transcribe": {"inside": transcribe_what_is_keyed_inside},
    "intent": {"fold": intent_by_fold, "inside": intent_what_ships_inside},
    "translate": {
        "fraction": translate_by_fraction,
        "file": translate_by_file,
        "inside": translate_what_ships_inside,
    },
    "search": {"fraction": search_by_fraction, "file": search_by_file},
    "write": {"fraction": write_by_fraction, "file": write_by_file},
    "chat": {"fraction": chat_by_fraction, "file": chat_by_file, "inside": chat_inside},
    # Long enough that two sequences drawn apart are never equal by chance: of 2^60 or 8^10.
    "adding": {"generated": generated("adding", 5)},
    "copy": {"generated": generated("copy", 3)},
    "echo": {"generated": generated("echo", 60)},
    "caption": {
        "fraction": caption_by_fraction,
        "file": caption_by_file,
        "inside": caption_what_ships_inside,
    },
    "compose": {
        "fraction": compose_by_fraction,
        "file": compose_by_file,
        "inside": compose_what_ships_inside,
    },
    "recommend": {"fraction": recommend_by_fraction, "file": recommend_by_file},
}


def test_every_built_in_task_is_covered() -> None:
    assert set(CASES) == set(BUILT_IN)


@pytest.mark.parametrize(("name", "how"), [(name, how) for name, cases in CASES.items() for how in cases])
def test_nothing_that_is_held_out_is_trained_on(name: str, how: str, tmp_path: Path) -> None:
    case = CASES[name][how](tmp_path)
    task, assets = case.task, case.task.prepare()
    data = task.batches(assets, steps=7, batch=3, seed=1)
    seen = case.items(task, assets, [batch for _ in range(3) for batch in data.epoch()])
    held_out = {
        split: case.items(task, assets, task.evaluation_batches(assets, split, steps=7, batch=5) or [])
        for split in SPLITS
    }
    for split, items in held_out.items():
        assert items, f"{split} is empty: nothing is tested"
        leaked = set(items) & set(seen)
        assert not leaked, f"{len(leaked)} of {split} are trained on, such as {sorted(leaked)[0]!r}"
    assert not set(held_out["validation"]) & set(held_out["test"])
    for split, items in (case.expected or {}).items():
        assert set(held_out.get(split, seen)) == set(items), split

    # With another seed, two processes, and assets that were saved, the parts are the same.
    again = Assets.from_json(assets.to_json())
    data = task.batches(again, steps=7, batch=3, seed=2, rank=1, world=2)
    assert not set(case.items(task, again, data.epoch())) & {*held_out["validation"], *held_out["test"]}
    for split, items in held_out.items():
        assert case.items(task, again, task.evaluation_batches(again, split, steps=7, batch=5) or []) == items


@pytest.mark.parametrize("seed", range(3))
def test_another_split_seed_divides_otherwise_and_as_cleanly(seed: int, tmp_path: Path) -> None:
    case = classify_by_fraction(tmp_path)
    task = type(case.task)(**{**vars(case.task), "split_seed": seed})
    assets = task.prepare()
    parts = [
        set(texts(task, assets, task.batches(assets, steps=7, batch=3).epoch())),
        *(
            set(texts(task, assets, task.evaluation_batches(assets, split, steps=7, batch=5)))
            for split in SPLITS
        ),
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 60
    default = case.task.prepare()
    assert (assets.splits == default.splits) == (seed == 0)


def test_shared_texts_of_two_files_are_reported(tmp_path: Path) -> None:
    """Nothing is removed from a published test set: the user is told."""
    rows = rows_of_a_table(20, 1)
    train, test = (
        write_table(tmp_path / "train.csv", rows),
        write_table(tmp_path / "test.csv", [(rows[0][0].upper(), rows[0][1])]),
    )
    assets = find_task("classify").kind(data=(train,), test=test, validation=0).prepare()
    (remark,) = assets.values["remarks"]
    assert remark.startswith("1 of the 1 test texts are also train texts, such as ")


def test_the_vocabulary_of_a_classifier_is_that_of_its_training_part(tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.csv", [("ab", "x"), ("ba", "y"), ("aab", "x"), ("bba", "y")])
    test = write_table(tmp_path / "test.csv", [("abc", "x")])
    task = find_task("classify").kind(data=(train,), test=test, validation=0)
    assets = task.prepare()
    assert set("ab") <= {assets.vocabulary.decode([n]) for n in range(len(assets.vocabulary))}
    assert list(assets.vocabulary.unknown_symbols("abc")) == ["c"]
    (batch,) = task.evaluation_batches(assets, "test", steps=7, batch=5)
    assert torch.equal(batch.lengths, torch.tensor([3]))
