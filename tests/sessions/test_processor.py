"""Streams and pools with a processor: data in any chunks, answers as of the whole, and nothing changed by what fails."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading

import pytest
import torch

import throughtime as tt
from throughtime.cli import main
from throughtime.data.vocabulary import Vocabulary
from throughtime.errors import InputError, SessionError
from throughtime.kernels.native.generation.interface import unavailable
from throughtime.sessions import Processor, SessionPool, Snapshot, SqliteStore
from throughtime.sessions.processor import floats_from_text, floats_to_text
from throughtime.tasks.text_processor import TextProcessor

needs_native = pytest.mark.skipif(unavailable() is not None, reason=f"no native library: {unavailable()}")


class Triples(Processor):
    """Numbers in, a step for every three of them; the last step is filled up with zeros. Answers are lists."""

    broken = False  # whether `write` fails

    def about(self):
        return {"kind": "numbers", "takes": "numbers", "gives": "outputs", "features": 3}

    def read(self, data, carried):
        if not isinstance(data, list):
            raise InputError(f"a chunk must be a list, got {type(data).__name__}")
        held = carried.get("held", []) + data
        whole = len(held) // 3 * 3
        return torch.tensor(held[:whole]).reshape(-1, 3), {**carried, "held": held[whole:]}

    def write(self, outputs, carried):
        if self.broken:
            raise MemoryError("no memory")
        if not len(outputs):
            assert tuple(outputs.shape) == (0, 0)
        answers = carried.get("answers", 0) + 1
        return {"answers": answers, "outputs": outputs.tolist()}, {**carried, "answers": answers}

    def flush(self, carried):
        held = carried.get("held", [])
        return torch.tensor([*held, *[0.0] * (-len(held) % 3)]).reshape(-1, 3), {**carried, "held": []}


def layer_of(seed=0):
    torch.manual_seed(seed)
    return tt.GRU(3, 21, 2)


def numbers(count=50, seed=1):
    draws = random.Random(seed)
    return [round(draws.gauss(0, 1), 3) for _ in range(count)]


def pieces(data, seed, sizes=(0, 1, 1, 2, 7, 13)):
    draws, place = random.Random(seed), 0
    while place < len(data):
        size = draws.choice(sizes)
        yield data[place : place + size]
        place += size


def joined(answers):
    return [row for answer in answers for row in answer["outputs"]]


def cause(call, *arguments):
    with pytest.raises(SessionError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value.cause


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
def test_a_stream_of_data_in_any_chunks(native):
    data = numbers()
    whole = tt.stream(layer_of(), Triples(), native=native)
    expected = [*joined([whole.feed(data)]), *joined([whole.flush()])]
    assert len(expected) == 17
    assert (whole.steps, whole._carried) == (0, {})
    with torch.no_grad():
        y, _ = layer_of()(torch.tensor([*data, 0.0]).reshape(17, 3))
    torch.testing.assert_close(torch.tensor(expected), y, atol=1e-5, rtol=1e-5)
    for seed in range(4):
        stream = tt.stream(layer_of(), Triples(), native=native)
        for _ in range(2):  # the second input begins as the first did
            answers = [stream.feed(piece) for piece in pieces(data, seed)] + [stream.flush()]
            assert answers[-1]["answers"] == len(answers)
            if native:
                assert joined(answers) == expected
            else:
                torch.testing.assert_close(torch.tensor(joined(answers)), y, atol=1e-5, rtol=1e-5)


def test_a_stream_is_its_state_and_what_is_carried():
    data, processor = numbers(), Triples()
    stream = tt.stream(layer_of(), processor)
    stream.feed(data[:20])
    twin, saved = stream.fork(), stream.snapshot({"user": 1})
    with pytest.raises(InputError, match="a list"):
        stream.feed("text")
    processor.broken = True
    for fail in (lambda: stream.feed(data[20:30]), lambda: stream.feed([]), stream.flush):
        with pytest.raises(MemoryError):
            fail()
    processor.broken = False
    expected = stream.feed(data[20:])
    assert twin.feed(data[20:]) == expected
    assert stream.restore(saved) == {"user": 1}
    assert stream.steps == 6
    assert stream.feed(data[20:]) == expected
    stream.reset()
    assert stream.feed(data[:20]) != twin.feed(data[:20])
    plain = tt.stream(layer_of())
    assert cause(plain.restore, saved) == "snapshot"
    assert cause(stream.restore, plain.snapshot()) == "snapshot"
    with pytest.raises(InputError, match="with a processor"):
        plain.flush()


def test_company_changes_nothing_in_a_pool():
    inputs = [numbers(40, seed) for seed in range(20)]
    expected = []
    for data in inputs:
        stream = tt.stream(layer_of(), Triples())
        expected.append([*joined([stream.feed(data)]), *joined([stream.flush()])])
    with SessionPool(layer_of(), Triples(), max_steps=2, max_batch=7) as pool:
        found, errors = {}, []

        def client(number):
            try:
                name, answers = pool.open(), []
                for seq, piece in enumerate(pieces(inputs[number], number), start=1):
                    answers.append(pool.feed(name, seq, piece))
                    assert pool.feed(name, seq, "repeated, so it is not read") == answers[-1]
                answers.append(pool.flush(name, len(answers) + 1))
                assert pool.flush(name, len(answers)) == answers[-1]
                again = pool.feed(name, len(answers) + 1, inputs[number])  # another input
                assert joined([again]) == expected[number][:13]
                found[number] = joined(answers)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
    assert not errors
    assert [found[number] for number in range(20)] == expected


@pytest.mark.parametrize("many", [True, False])
def test_a_chunk_that_fails_changes_neither_state_nor_carried(many, monkeypatch):
    data, processor = numbers(), Triples()
    with SessionPool(layer_of(), processor, max_steps=3) as pool:
        name, other = pool.open(), pool.open()
        pool.feed(name, 1, data[:4])
        expected = tt.stream(layer_of(), Triples())
        expected.feed(data[:4])

        def feed(seq, chunk):
            return pool.feed_many([(name, seq, chunk)])[0] if many else pool.feed(name, seq, chunk)

        def fails(kind, seq, chunk):
            if many:
                assert isinstance(feed(seq, chunk), kind)
            else:
                with pytest.raises(kind):
                    feed(seq, chunk)

        before = pool.snapshot(name)
        fails(InputError, 2, "text")
        fails(SessionError, 3, [])
        processor.broken = True
        for chunk in (data[4:7], data[4:30], []):  # one call, several calls, no step
            fails(MemoryError, 2, chunk)
            assert pool.snapshot(name) == before
        with pytest.raises(MemoryError):
            pool.flush(name, 2)
        processor.broken = False
        run = pool._engine.run
        monkeypatch.setattr(pool._engine, "run", lambda *_: (_ for _ in ()).throw(MemoryError("no memory")))
        fails(MemoryError, 2, data[4:30])
        assert feed(2, [])["outputs"] == []  # answered without the model
        monkeypatch.setattr(pool._engine, "run", run)
        expected.feed([])
        assert feed(3, data[4:30]) == expected.feed(data[4:30])
        assert pool.feed(other, 1, data) == tt.stream(layer_of(), Triples()).feed(data)
        with pytest.raises(InputError, match="with a processor"):
            SessionPool(layer_of()).flush("a", 1)


def test_sessions_with_a_processor_move_to_the_store_and_back(tmp_path):
    data = numbers()
    stream = tt.stream(layer_of(), Triples())
    expected = [stream.feed(data[n : n + 5]) for n in range(0, 50, 5)] + [stream.flush()]
    store = SqliteStore(tmp_path / "sessions.db")
    with SessionPool(layer_of(), Triples(), max_live=1, store=store) as pool:
        found = {"a": [], "b": []}
        for name in found:
            pool.open(name)
        for n in range(10):
            for name, answers in found.items():
                answers.append(pool.feed(name, n + 1, data[5 * n : 5 * n + 5]))
        for name, answers in found.items():
            assert pool.feed(name, 10, []) == answers[-1]  # the answer came back from the store
            answers.append(pool.flush(name, 11))
            assert answers == expected
        saved = pool.snapshot("b")
        assert Snapshot.from_bytes(saved).answer == expected[-1]
        assert Snapshot.from_bytes(saved).last is None
    with SessionPool(layer_of(1), Triples()) as pool:
        assert cause(pool.open, "b", saved) == "snapshot"
    with SessionPool(layer_of()) as pool:
        assert cause(pool.open, "b", saved) == "snapshot"
        assert len(pool) == 0


def test_snapshots_of_another_format():
    data = Snapshot("model", {}).to_bytes()
    assert b'\\"format\\": 2' in data
    with pytest.raises(InputError, match="must be JSON"):
        Snapshot("model", {}, carried={"x": torch.zeros(1)}).to_bytes()
    from throughtime.runs.tensors import tensors_to_bytes

    old = {"format": 1, "model": "model", "seq": 0, "steps": 0, "extra": {}}
    with pytest.raises(SessionError, match="has format 1, this version reads format 2"):
        Snapshot.from_bytes(tensors_to_bytes({}, {"throughtime.session": json.dumps(old)}))


def test_floats_keep_their_bits():
    values = torch.tensor([0.1, -0.0, float("inf"), 1e-45, 3e38])
    assert torch.equal(floats_from_text(floats_to_text(values)).view(torch.int32), values.view(torch.int32))
    for wrong in ("a", "äöü", None, "AAA="):
        with pytest.raises(InputError, match="base64"):
            floats_from_text(wrong)


SENTENCES = (
    "Don't stop. The  state \n\n is   carried: (h, c)!\r\nΟΔΟΣ, ΣΑΣ' Σ. <unk> naïve ΜΕΣΑ 学习 123 x\n İi ΑΣ\n"
    "  end <eos> \r and on"
)


@pytest.mark.parametrize("kind", ["char", "word", "space", "bpe"])
@pytest.mark.parametrize("normalize", ["none", "lower", "letters"])
def test_text_has_the_same_symbols_in_any_chunks(kind, normalize):
    from throughtime.data.text import normalized

    whole = normalized(SENTENCES, normalize)
    vocabulary = Vocabulary.build(kind, whole, 300 if kind == "bpe" else None)
    processor, expected = TextProcessor(vocabulary, normalize), vocabulary.encode(whole).tolist()
    assert len(expected) > (60 if kind == "char" else 5)
    for seed in range(12):
        carried, found = {}, []
        for piece in pieces(SENTENCES, seed, (1,) if seed == 0 else (0, 1, 2, 5, 30)):
            ids, carried = processor.read(piece, carried)
            found += ids.tolist()
            _, carried = processor.write(torch.randn(len(ids), len(vocabulary)), carried)
            assert json.loads(json.dumps(carried)) == carried
        ids, _ = processor.flush(carried)
        assert found + ids.tolist() == expected
        if kind == "char" and normalize == "none":
            assert not len(ids)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "book.txt").write_text("The state is carried from step to step, and the gradient back.\n" * 30)
    arguments = ["--cell", "gru", "--hidden", "13", "--steps", "3", "--window", "10"]
    command = ["train", "text", "--data", str(folder / "book.txt")]
    assert main([*command, *arguments, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_language_model_reads_as_it_evaluates(run):
    trained, text = tt.load(run), "The gradient is carried back.\n"
    answer = trained.stream().feed(text)
    ids = trained.assets.vocabulary.encode(text)
    with torch.no_grad():
        expected = trained.model(ids[:, None])[0][:, 0].log_softmax(-1)
    assert answer["symbols"] == list(text)
    assert answer["logprobs"][0] is None
    torch.testing.assert_close(
        torch.tensor(answer["logprobs"][1:]),
        expected[torch.arange(len(ids) - 1), ids[1:]],
        atol=1e-5,
        rtol=1e-5,
    )
    assert len(answer["next"]) == 8
    assert answer["next"][0][0] == trained.assets.vocabulary.decode([int(expected[-1].argmax())])
    assert answer["next"][0][1] == pytest.approx(float(expected[-1].exp().max()), rel=1e-4)
    for sizes in ([1], [1, 2, 5]):
        stream = trained.stream()
        answers = [stream.feed(piece) for piece in pieces(text, 3, sizes)]
        assert [score for each in answers for score in each["logprobs"]] == answer["logprobs"]
        assert answers[-1]["next"] == answer["next"]
        assert stream.feed("") == {"symbols": [], "logprobs": [], "next": answer["next"]}
        assert stream.flush()["next"] == answer["next"]
        assert stream.feed("")["next"] is None
    with pytest.raises(InputError, match="must be a text"):
        trained.stream().feed([1, 2])
    about = trained.stream().processor.about()
    assert about["kind"] == "text"
    assert set(about["symbols"]) > set(text)
    json.dumps(about)
    with trained.pool(max_batch=3) as pool:
        names = [pool.open() for _ in range(5)]
        assert pool.feed_many([(name, 1, text) for name in names]) == [answer] * 5


def test_a_language_model_continues_in_another_process(run, tmp_path):
    text = "The gradient is carried back.\n"
    stream = tt.load(run).stream()
    stream.feed(text[:11])
    (tmp_path / "session").write_bytes(stream.snapshot())
    code = (
        "import json, sys, throughtime as tt; stream = tt.load(sys.argv[1]).stream();"
        "stream.restore(open(sys.argv[2], 'rb').read()); print(json.dumps(stream.feed(sys.argv[3])))"
    )
    command = [sys.executable, "-c", code, str(run), str(tmp_path / "session"), text[11:]]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    assert json.loads(found) == stream.feed(text[11:])
