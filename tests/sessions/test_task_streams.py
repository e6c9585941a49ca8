"""Each task as a stream: any chunks, a snapshot in another process and a pool give the answers of the whole input."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import wave
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import throughtime as tt
from throughtime.errors import InputError
from throughtime.kernels.native.generation.interface import unavailable
from throughtime.models.config import ModelConfig
from throughtime.sessions import SessionPool
from throughtime.tasks import (
    ClassifyTask,
    ForecastTask,
    FramesTask,
    IntentTask,
    RecommendTask,
    TagTask,
    TextTask,
)
from throughtime.tasks.transcribe import TranscribeTask

GRU, LSTM, MINGRU = (ModelConfig(cell=cell, hidden=13, embedding=6) for cell in ("gru", "lstm", "mingru"))
TEXT = "Anna lives in Paris . She said: don't  stop!\nThe state, carried; (ok)\n"
RATE = 8000


def write_texts(folder):
    path, draws = Path(folder) / "texts.csv", random.Random(2)
    words = TEXT.replace(",", "").replace('"', "").split()
    rows = [f"{' '.join(draws.sample(words, 5))},{'ab'[n % 2]}" for n in range(40)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return str(path)


def write_rows(folder):
    path, draws, rows = Path(folder) / "rows.csv", random.Random(3), ["sequence,x,y,label"]
    for number in range(20):
        rows += [
            f"s{number},{draws.gauss(0, 1):.3f},{draws.gauss(3, 2):.3f},{'ab'[number % 2]}" for _ in range(7)
        ]
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def write_tags(folder):
    path, draws = Path(folder) / "tags.txt", random.Random(4)
    lines = []
    for _ in range(30):
        lines += [f"{word} {draws.choice(('B-PER', 'I-PER', 'O'))}" for word in draws.sample(TEXT.split(), 6)]
        lines.append("")
    path.write_text("\n".join(lines))
    return str(path)


def write_clicks(folder):
    path, draws = Path(folder) / "clicks.csv", random.Random(5)
    rows = [f"s{n},{item}" for n in range(30) for item in draws.sample(TEXT.replace(",", "").split(), 5)]
    path.write_text("session,item\n" + "\n".join(rows) + "\n")
    return str(path)


def tones(seed, count=9):
    draws, time = np.random.default_rng(seed), np.arange(800) / RATE
    parts = [np.sin(2 * np.pi * draws.choice([500, 900, 1500, 2100]) * time) for _ in range(count)]
    return 0.3 * np.concatenate(parts)


def write_sounds(folder):
    folder, rows = Path(folder) / "sounds", ["path,text"]
    folder.mkdir()
    for number in range(6):
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((tones(number) * 32767).astype("<i2").tobytes())
        rows.append(f"{number}.wav,{'abcd'[: 2 + number % 3]}")
    (folder / "table.csv").write_text("\n".join(rows))
    return str(folder / "table.csv")


def write_book(folder):
    path = Path(folder) / "book.txt"
    path.write_text(TEXT * 40)
    return str(path)


ROWS = [[round(random.Random(n).gauss(0, 1), 3), round(random.Random(-n).gauss(3, 2), 3)] for n in range(23)]
SERIES = [{"year": str(1700 + n), "sunspots": round(50 + 40 * math.sin(n / 2), 1)} for n in range(30)]
SOUND = [int(value) for value in tones(99) * 32767]

# Of each: the task of a folder, the model, the input, whether native runs it.
CASES = {
    "text": (lambda f: TextTask(data=(write_book(f),)), GRU, TEXT, True),
    "text, words": (lambda f: TextTask(data=(write_book(f),), tokens="word"), LSTM, TEXT, True),
    "text, not native": (lambda f: TextTask(data=(write_book(f),), normalize="lower"), MINGRU, TEXT, False),
    "tag": (lambda f: TagTask(data=(write_tags(f),), crf=False), GRU, TEXT, True),
    "tag, tokens": (lambda f: TagTask(data=(write_tags(f),), crf=False), LSTM, TEXT.split(), True),
    "frames": (lambda f: FramesTask(data=(write_rows(f),)), LSTM, ROWS, True),
    "forecast": (lambda f: ForecastTask(horizon=4, gaps="fill"), GRU, SERIES, False),
    "transcribe": (lambda f: TranscribeTask(data=(write_sounds(f),), mels=8), LSTM, SOUND, True),
    "transcribe, beam": (lambda f: TranscribeTask(data=(write_sounds(f),), mels=8, beam=4), GRU, SOUND, True),
    "transcribe, not native": (
        lambda f: TranscribeTask(data=(write_sounds(f),), mels=8), MINGRU, SOUND, False,
    ),
    "classify": (lambda f: ClassifyTask(data=(write_texts(f),)), GRU, TEXT, True),
    "classify, cut": (lambda f: ClassifyTask(data=(write_texts(f),), length=31), LSTM, TEXT, True),
    "classify, numbers": (lambda f: ClassifyTask(data=(write_rows(f),), kind="numbers"), LSTM, ROWS, True),
    "recommend": (lambda f: RecommendTask(data=(write_clicks(f),), unseen=True), GRU, TEXT.split(), True),
    "recommend, not native": (
        lambda f: RecommendTask(data=(write_clicks(f),)), MINGRU, TEXT.split(), False,
    ),
    "intent": (lambda f: IntentTask(data=(write_texts(f),)), GRU, f"  {TEXT}", True),
}  # fmt: skip


@cache
def prepared(name, folder):
    """Task, assets, model and input of a case; the same in every process."""
    make, config, data, native = CASES[name]
    place = Path(folder) / name.replace(", ", "-").replace(" ", "-")
    place.mkdir(exist_ok=True)
    for old in sorted(place.rglob("*"), reverse=True):
        old.rmdir() if old.is_dir() else old.unlink()
    task = make(place)
    assets = task.prepare()
    torch.manual_seed(1)
    model = task.build(config, assets).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3  # the outputs of an untrained model are nearly the same for every input
    if name == "intent":
        model.head.calibrate(1.7, 0.3)
    return task, assets, model, data, native and unavailable() is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cases"))


def stream_of(name, folder):
    task, assets, model, _, native = prepared(name, folder)
    found = tt.stream(model, task.processor(model, assets))
    assert found.native == native, found.reason
    return found


def pieces(data, seed, one=False):
    draws, place, found = random.Random(seed), 0, []
    large = len(data) // 4
    while place < len(data):
        size = 1 if one else draws.choice((0, 1, 1, 2, 7, large))
        found.append(data[place : place + size])
        place += size
    return found


def joined(answers):
    """One answer for all chunks: what is given for each step in a row, the rest as the last chunk has it."""
    found = {}
    for answer in answers:
        json.dumps(answer)
        for key, value in answer.items():
            if (key not in ("next", "score") and isinstance(value, list)) or key == "text":
                found[key] = found[key] + value if key in found else value
            else:
                found[key] = value
    return found


@pytest.fixture(params=CASES)
def case(request, folder):
    return request.param


def whole(name, folder):
    stream = stream_of(name, folder)
    return joined([stream.feed(prepared(name, folder)[3]), stream.flush()])


def test_any_chunks_give_the_answers_of_the_whole(case, folder):
    data = prepared(case, folder)[3]
    expected = whole(case, folder)
    stream = stream_of(case, folder)
    for seed in range(3):
        one = seed == 0 and len(data) < 100
        answers = [stream.feed(piece) for piece in pieces(data, seed, one)]
        assert json.loads(json.dumps(stream._carried)) == stream._carried
        assert joined([*answers, stream.flush()]) == expected


def test_the_answers_are_those_of_predict(case, folder):
    task, assets, model, data, _ = prepared(case, folder)
    found = whole(case, folder)
    if case.startswith("text"):
        (expected,) = task.predict(model, assets, [{"text": data}])
        assert len(found["symbols"]) == expected["symbols"]
        scores = found["logprobs"][1:]
        assert -sum(scores) / len(scores) == pytest.approx(expected["loss"], rel=1e-5)
    elif case.startswith("tag"):
        (expected,) = task.predict(model, assets, [{"tokens" if isinstance(data, list) else "text": data}])
        assert found["tags"] == expected["tags"]
        assert len(set(found["tags"])) > 1
    elif case.startswith("recommend"):
        (expected,) = task.predict(model, assets, [{"items": data}])
        assert found["next"] == expected["next"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
    elif case == "frames":
        (expected,) = task.predict(model, assets, [{"values": data}])
        assert found["labels"] == expected["labels"]
        assert len(set(found["probabilities"])) == len(data)
    elif case == "forecast":
        expected = list(task.predict(model, assets, data))
        assert [each["time"] for each in found["forecasts"]] == [each["time"] for each in expected]
        for mine, other in zip(found["forecasts"], expected, strict=True):
            assert mine["median"] == pytest.approx(other["median"], rel=1e-4)
    elif case.startswith("transcribe"):
        samples = torch.tensor(data, dtype=torch.float32) / 32768
        (expected,) = task.predict(model, assets, [{"samples": samples}])
        assert found["text"] == expected["transcript"]
        assert found["text"]
    else:
        (expected,) = task.predict(model, assets, [{"values" if isinstance(data, list) else "text": data}])
        assert found["label"] == expected["label"]
        assert found["probability"] == pytest.approx(expected["probability"], abs=1e-4)
        assert sum(found["probabilities"].values()) == pytest.approx(1)
        if case == "intent":
            assert found["handed_over"] == expected["handed_over"]


def test_a_pool_gives_the_same_and_keeps_its_answers(case, folder):
    task, assets, model, data, _ = prepared(case, folder)
    expected = whole(case, folder)
    with SessionPool(model, task.processor(model, assets), max_steps=5) as pool:
        names = [pool.open() for _ in range(3)]
        chunks = [pieces(data, 10 + n) for n in range(3)]
        answers = [[] for _ in names]
        while any(len(mine) < len(parts) for mine, parts in zip(answers, chunks, strict=True)):
            turn = [n for n in range(3) if len(answers[n]) < len(chunks[n])]
            found = pool.feed_many(
                [(names[n], len(answers[n]) + 1, chunks[n][len(answers[n])]) for n in turn]
            )
            for n, answer in zip(turn, found, strict=True):
                answers[n].append(answer)
                assert (
                    pool.feed(names[n], len(answers[n]), None) == answer
                )  # given out again, nothing is read
        before = pool.snapshot(names[0])
        for wrong in (3.5, object(), {"wrong": 1}, [{}], [None, "x", []]):
            with pytest.raises(InputError) as caught:
                pool.feed(names[0], len(answers[0]) + 1, wrong)
            assert "\n" not in str(caught.value)
        assert pool.snapshot(names[0]) == before
        copy = pool.open(state=before)
        assert pool.feed(copy, len(answers[0]), None) == answers[0][-1]
        for name, mine in zip(names, answers, strict=True):
            mine.append(pool.flush(name, len(mine) + 1))
            assert joined(mine) == expected
        assert pool.flush(copy, len(answers[0])) == answers[0][-1]


def continued(folder):
    """In another process: the rest of each case, from its snapshot."""
    found = {}
    for name in CASES:
        stream = stream_of(name, f"{folder}/other")
        stream.restore((Path(folder) / f"{name}.session").read_bytes())
        data = prepared(name, f"{folder}/other")[3]
        found[name] = [stream.feed(data[len(data) // 3 :]), stream.flush()]
    print(json.dumps(found))


def test_snapshots_continue_in_another_process(folder):
    expected = {}
    for name in CASES:
        stream = stream_of(name, folder)
        data = prepared(name, folder)[3]
        stream.feed(data[: len(data) // 3])
        (Path(folder) / f"{name}.session").write_bytes(stream.snapshot())
        expected[name] = [stream.feed(data[len(data) // 3 :]), stream.flush()]
    (Path(folder) / "other").mkdir()
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_task_streams; test_task_streams.continued(sys.argv[2])"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), folder]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    assert json.loads(output) == expected


def test_about_is_json_and_says_what_is_taken(case, folder):
    about = json.loads(json.dumps(stream_of(case, folder).processor.about()))
    assert about["kind"] in ("text", "numbers", "audio", "tokens", "series")
    assert about["takes"]
    assert about["gives"]


def test_what_cannot_be_streamed_says_why(folder):
    place = Path(folder) / "refused"
    place.mkdir()

    def refused(task, config, match):
        assets = task.prepare()
        model = task.build(config, assets).eval()
        with pytest.raises(InputError, match=match) as caught:
            tt.stream(model, task.processor(model, assets))
        assert "\n" not in str(caught.value)

    both = ModelConfig(cell="gru", hidden=6, embedding=6, bidirectional=True)
    tags, texts, rows = write_tags(place), write_texts(place), write_rows(place)
    refused(TagTask(data=(tags,)), GRU, "a model with a CRF cannot stream")
    refused(TagTask(data=(tags,), crf=False), both, "bidirectional")
    mean = ModelConfig(cell="gru", hidden=6, embedding=6, pooling="mean")
    refused(ClassifyTask(data=(texts,)), mean, "a model with mean pooling cannot stream")
    refused(ClassifyTask(data=(rows,), kind="numbers", permute=1), GRU, "permute")
    refused(ForecastTask(horizon=3, head="normal"), GRU, "drawn step by step")


def test_bytes_and_numbers_are_the_same_sound(folder):
    stream, data = stream_of("transcribe", folder), prepared("transcribe", folder)[3]
    expected = whole("transcribe", folder)["text"]
    for form in (
        np.array(data, "<i2").tobytes(),
        np.array(data, np.int16),
        [value / 32768 for value in data],
    ):
        assert stream.feed(form)["text"] + stream.flush()["text"] == expected
    with pytest.raises(InputError, match="an even number of bytes"):
        stream.feed(b"abc")


@pytest.mark.parametrize("count", [1, 199, 200, 201, 360, 361, 439, 440, 441, 520, 2000, 2001, 2119, 2120])
def test_sound_of_any_length_has_the_steps_of_the_whole(folder, count):
    task, assets, model, data, _ = prepared("transcribe", folder)
    processor, samples = task.processor(model, assets), torch.tensor(data[:count]).float() / 32768
    for size in (1, 120, count):
        carried, found = {}, []
        for piece in samples.split(size):
            steps, carried = processor.read(piece, carried)
            found.append(steps)
        found.append(processor.flush(carried)[0])
        assert torch.equal(torch.cat(found), task.front(assets).of(samples))


def test_rows_of_a_series_that_are_missing_are_steps_too(folder):
    task, assets, model, data, _ = prepared("forecast", folder)
    processor, carried = task.processor(model, assets), {}
    for record in (data[0], data[1], data[5], 31.5, None, data[9] | {"sunspots": None}):
        _, carried = processor.read([record], carried)
    assert carried["steps"] == 10
    assert carried["time"] == data[9]["year"]
    with pytest.raises(InputError, match="is there twice"):
        processor.read([data[9]], carried)


@pytest.mark.parametrize("native", [True, False])
def test_one_output_for_a_sequence_however_it_is_run(folder, native):
    if native and unavailable() is not None:
        pytest.skip(f"no native library: {unavailable()}")
    _, _, model, data, _ = prepared("classify, numbers", folder)
    x = torch.tensor(data)
    with torch.no_grad():
        expected, _ = model(x[:, None])
    with SessionPool(model, max_steps=5, native=native) as pool:
        a, b = pool.open(), pool.open()
        for y in (*pool.feed_many([(a, 1, x), (b, 1, x)]), tt.stream(model, native=native).feed(x)):
            torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
