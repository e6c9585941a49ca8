"""Dialogue as a task: what is read and written, the state kept over turns, no leaks, runs from end to end."""

from __future__ import annotations

import json
import random
import signal

import pytest
import torch

import throughtime
from throughtime.cli import main
from throughtime.data.batch import IGNORE, Source
from throughtime.data.exchanges import Turn
from throughtime.errors import InputError, RunError
from throughtime.models.config import CELLS, ModelConfig
from throughtime.models.dialogue import last_steps
from throughtime.runs import Run
from throughtime.runtime.chat import UNSURE, ChatState
from throughtime.tasks import ChatTask
from throughtime.tasks.baselines.chat import _ranking
from throughtime.tasks.chat import last_turns, marks
from throughtime.tasks.recorded import task_of
from throughtime.training import TrainingConfig
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import start_run, train
from throughtime.training.reporting import Silent

MODEL = ModelConfig(cell="gru", hidden=32, embedding=16)
TRAINING = TrainingConfig(
    bptt="full", batch=16, steps=60, lr=0.02, no_baselines=True, evaluate_every=60, watch=0
)
SOUNDS = {"cat": "Meow", "dog": "Woof", "cow": "Moo", "duck": "Quack", "hen": "Cluck", "pig": "Oink"}
FOOD = {"cat": "milk", "dog": "bones", "cow": "grass", "duck": "bread", "hen": "corn", "pig": "roots"}

ASKED = ["what says the", "tell me about the", "the sound of a"]
KINDS = ["big", "small", "old", "young", "white", "black", "brown", "wild"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Dialogues about animals: what "it" eats follows from the turn before."""
    draws, rows = random.Random(2), []
    openings = [(ask, kind, name) for ask in ASKED for kind in KINDS for name in SOUNDS]
    for number, (ask, kind, name) in enumerate(draws.sample(openings, 120)):
        turns = [
            f"{ask} {kind} {name}?",
            f"{SOUNDS[name]}.",
            "and what does it eat?",
            f"It eats {FOOD[name]}.",
        ]
        rows += [f"{number}\t{'ab'[place % 2]}\t{turn}\n" for place, turn in enumerate(turns)]
    path = tmp_path_factory.mktemp("chat") / "animals.tsv"
    path.write_text("".join(rows))
    return path


@pytest.fixture(scope="module")
def trained(file, tmp_path_factory):
    """A model that knows the animals."""
    training = TrainingConfig(
        bptt="full", batch=12, epochs=14, lr=0.02, no_baselines=True, evaluate_every=1000, watch=0
    )
    path = tmp_path_factory.mktemp("run") / "run"
    torch.manual_seed(0)
    task, run = start_run(ChatTask(data=(str(file),), attention="none"), MODEL, training, path)
    train(task, training, run, report=Silent())
    return throughtime.load(path)


def test_a_batch_holds_the_history_as_source_and_the_reply(file):
    task = ChatTask(data=(str(file),))
    assets = task.prepare()
    both, size = marks(assets), len(assets.vocabulary)
    assert (both.other, both.own, both.end, both.symbols) == (size, size + 1, size + 2, size + 3)
    (batch,) = task.batches(assets, steps=1, batch=1000).epoch()
    assert batch.size == 2 * len(assets.splits["train"])
    for row in range(0, batch.size, 17):
        steps, length = int(batch.lengths[row]), int(batch.context.lengths[row])
        reply = batch.inputs[1:steps, row].tolist()
        assert batch.inputs[0, row] == both.own
        assert batch.targets[:steps, row].tolist() == [*reply, both.end]
        assert batch.targets[steps:, row].eq(IGNORE).all()
        source = batch.context.values[row, :length].tolist()
        turns = "".join("|" if s >= size else assets.vocabulary.decode([s]) for s in source).split("|")[1:]
        assert [s for s in source if s >= size] == [both.other, both.own, both.other][: len(turns)]
        assert all(turn == turn.lower() for turn in turns) and len(turns) in (1, 3)
        if len(turns) == 3:
            sound = turns[1].strip().rstrip(".").capitalize()
            name = next(name for name, each in SOUNDS.items() if each == sound)
            assert assets.vocabulary.decode(reply).strip() == f"It eats {FOOD[name]}."


def test_dialogues_are_held_out_whole_and_equal_openings_stay_together(tmp_path):
    rows = [{"turns": [f"hi {n % 40}", f"r{n}", f"again {n}", "end"]} for n in range(120)]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = ChatTask(data=(str(path),), validation=0.2, test=0.2)
    assets = task.prepare()
    part_of = {n: part for part, numbers in assets.splits.items() for n in numbers}
    assert len(part_of) == 120 and len(set(part_of.values())) == 3
    for n in range(40):
        assert part_of[n] == part_of[n + 40] == part_of[n + 80]
    replies = {
        part: {each.reply for each in task._exchanges(assets, part)} - {"end"} for part in assets.splits
    }
    assert (
        not replies["train"] & (replies["validation"] | replies["test"])
        and not replies["validation"] & replies["test"]
    )
    assert assets.values["remarks"] == []


def test_turns_that_training_answers_too_are_counted(file):
    assets = ChatTask(data=(str(file),)).prepare()
    assert len(assets.values["remarks"]) == 2
    for remark, part in zip(assets.values["remarks"], ("validation", "test"), strict=True):
        count = len(assets.splits[part])
        assert remark.startswith(
            f"{count} of the {2 * count} {part} replies answer a turn that training answers too"
        )


def test_the_vocabulary_is_that_of_the_training_part(tmp_path):
    for part, word in (("train", "tea"), ("test", "coffee")):
        (tmp_path / f"{part}.tsv").write_text("".join(f"some {word} {n}\tyes {word}\n" for n in range(3)))
    task = ChatTask(data=(str(tmp_path / "train.tsv"),), validation=0, test=str(tmp_path / "test.tsv"))
    assets = task.prepare()
    assert assets.vocabulary.unknown_symbols(" tea coffee") == [" coffee"]
    assert [len(numbers) for numbers in assets.splits.values()] == [3, 0, 3]


def test_evaluation_batches_hold_candidates_of_the_same_part(file):
    task = ChatTask(data=(str(file),), validation=0.2)
    assets = task.prepare()
    own = {tuple(each.tolist()) for each in task._encoded(assets, "validation")[0]}
    batches = list(task.evaluation_batches(assets, "validation", steps=1, batch=32))
    replies = len(task._exchanges(assets, "validation"))
    assert sum(batch.num_targets for batch in batches) == sum(
        len(each) for each in task._encoded(assets, "validation")[1]
    )
    assert sum(int((batch.targets != IGNORE).any(0).sum()) for batch in batches) == replies
    assert {tuple(b.inputs[: b.lengths[row], row].tolist()) for b in batches for row in range(b.size)} == own
    again = list(task.evaluation_batches(assets, "validation", steps=1, batch=32))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches, again, strict=True))
    assert next(task.flow_batches(assets, "validation", steps=1, batch=4)).size == 4


def test_the_last_turn_alone(file):
    task = ChatTask(data=(str(file),), validation=0.2)
    assets = task.prepare()
    both = marks(assets)
    batch = next(iter(task.evaluation_batches(assets, "validation", steps=1, batch=60)))
    rows, cut = last_turns(batch, both)
    for row, number in enumerate(rows.tolist()):
        source = batch.context.values[number, : batch.context.lengths[number]].tolist()
        assert sum(s in (both.other, both.own) for s in source) == 3
        last = max(place for place, s in enumerate(source) if s == both.other)
        assert cut.context.values[row, : cut.context.lengths[row]].tolist() == source[last:]
        assert torch.equal(cut.inputs[:, row], batch.inputs[:, number])
    assert cut.size == len(rows) > 0


def test_the_last_steps_of_rows_of_other_lengths():
    outputs = torch.arange(7.0)[:, None, None].expand(7, 4, 2).clone()
    lengths = torch.tensor([7, 3, 1, 4])
    for row, length in enumerate(lengths.tolist()):
        outputs[length:, row] = float("nan")
    found, counts = last_steps(outputs, lengths, 3)
    assert counts.tolist() == [3, 3, 1, 3] and found.shape == (3, 4, 2)
    expected = [[4, 5, 6], [0, 1, 2], [0], [1, 2, 3]]
    for row, values in enumerate(expected):
        assert found[: len(values), row, 0].tolist() == values
    assert last_steps(outputs, lengths, None)[0] is outputs and last_steps(outputs, lengths, 7)[0] is outputs


TURNS = [
    "what says the cat?",
    "and what does it eat?",
    "tell me about the cow",
    "and what does it eat?",
    "ok",
]


def read_at_once(chat, turns):
    """The encoder's state and memory of a dialogue that is read in one call."""
    ids = chat.task.source(chat.assets, turns)
    with torch.inference_mode():
        return chat.model.encoder(Source(ids[None], torch.tensor([len(ids)])))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("attention", "memory"), [("general", None), ("general", 9), ("none", None)])
def test_turn_by_turn_is_the_whole_history_at_once(file, tmp_path, cell, attention, memory):
    torch.manual_seed(1)
    task = ChatTask(data=(str(file),), attention=attention, memory=memory, max_length=5)
    assets = task.prepare()
    model = task.build(ModelConfig(cell=cell, hidden=7, embedding=5, layers=2), assets)
    from throughtime.runtime.chat import Chat

    chat = Chat(model, task, assets)
    for text in TURNS:
        chat.say(text)
        whole = read_at_once(chat, chat.turns)
        kept = chat.snapshot()
        torch.testing.assert_close(kept.outputs, whole.outputs, atol=1e-5, rtol=1e-4)
        if cell not in ("none", "cnn"):
            torch.testing.assert_close(kept.layers, whole.state, atol=1e-5, rtol=1e-4)
        assert len(kept.outputs) == min(memory or 10**6, len(task.source(assets, chat.turns)))
    # What comes next is what the model writes from the whole history.
    (expected,) = task.predict(model, assets, [{"turns": [*(turn.text for turn in chat.turns), "the pig?"]}])
    assert chat.say("the pig?") == expected["reply"]


def test_a_session_of_the_last_turns_reads_no_others(file):
    torch.manual_seed(1)
    from throughtime.runtime.chat import Chat

    task = ChatTask(data=(str(file),), history=1)
    assets = task.prepare()
    assert all(len(each.history) == 1 for each in task._exchanges(assets, "train"))
    model = task.build(MODEL, assets)
    one, other = Chat(model, task, assets), Chat(model, task, assets)
    one.say("what says the cow?")
    assert one.say("and?") == other.say("and?") and len(one.turns) == 4
    torch.testing.assert_close(one.snapshot().outputs, other.snapshot().outputs)


def test_the_model_uses_the_turns_before(trained):
    """The same question after other turns gets other replies; the metric says how much the turns before are worth."""
    chat = trained.chat()
    right = 0
    for name, sound in SOUNDS.items():
        right += chat.say(f"tell me about the wild {name}?") == f"{sound}."
        right += chat.say("and what does it eat?") == f"It eats {FOOD[name]}."
        chat.reset()
    assert right >= 10
    values = trained.evaluate("test").values
    assert list(values) == [
        "perplexity",
        "recall@1",
        "mrr",
        "exact",
        "distinct_1",
        "distinct_2",
        "history_gain",
        "loss",
    ]
    assert values["exact"] > 0.8 and values["recall@1"] > 0.8 and values["history_gain"] > 0.2


def test_snapshots_reset_and_files(trained, tmp_path):
    chat = trained.chat()
    assert chat.snapshot() == ChatState()
    chat.say("what says the old duck?")
    kept, path = chat.snapshot(), tmp_path / "state.safetensors"
    chat.save(path)
    replies = [chat.say("and what does it eat?"), chat.say("tell me about the old pig?")]
    chat.restore(kept)
    assert [chat.say("and what does it eat?"), chat.say("tell me about the old pig?")] == replies
    other = throughtime.load(trained.path).chat()
    other.load(path)
    assert other.turns == kept.turns
    assert [other.say("and what does it eat?"), other.say("tell me about the old pig?")] == replies
    chat.reset()
    chat.save(path)
    other.load(path)
    assert other.snapshot() == ChatState()


def test_a_state_of_other_weights_or_a_damaged_one_is_refused(trained, file, tmp_path):
    chat, path = trained.chat(), tmp_path / "state"
    chat.say("hi")
    chat.save(path)
    before = chat.turns
    changed = throughtime.load(trained.path)
    with torch.no_grad():
        changed.model.head.bias[0] += 1
    with pytest.raises(InputError, match="is the state of another model"):
        changed.chat().load(path)
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(RunError, match="is damaged or not ours"):
        chat.load(path)
    with pytest.raises(InputError, match="no such file"):
        chat.load(tmp_path / "none")
    with pytest.raises((InputError, RunError), match="something else"):
        chat.load(trained.path / "checkpoint.safetensors")
    assert chat.turns == before


def test_options_of_a_reply(trained):
    chat = trained.chat()
    start = chat.snapshot()

    def said(**options):
        chat.restore(start)
        return chat.say("what says the old hen?", **options)

    assert said() == said(beam=1) == said(temperature=1e-4)
    assert said(temperature=5.0, seed=1) == said(temperature=5.0, seed=1)
    assert len({said(temperature=5.0, seed=seed) for seed in range(8)}) > 2
    assert said(top_p=1e-6) == said()
    assert isinstance(said(beam=3), str)
    assert said(min_confidence=0.0) == said() and 0 < chat.confidence < 1
    assert said(min_confidence=1.0) == UNSURE and chat.turns[-1] == Turn(True, UNSURE)
    with pytest.raises(InputError, match=r"drawn .* or searched for"):
        said(beam=2, temperature=1.0)
    with pytest.raises(InputError, match="got an empty text"):
        chat.say("  ")


def test_a_reply_that_fails_leaves_the_dialogue_as_it_was(trained, monkeypatch):
    chat = trained.chat()
    chat.say("what says the old cat?")
    before = chat.turns
    monkeypatch.setattr(chat.model, "forward", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        chat.say("and what does it eat?")
    monkeypatch.undo()
    assert chat.turns == before
    assert chat.say("and what does it eat?") == "It eats milk."


def test_confidence_is_fitted_on_the_validation_part(trained, file):
    assert trained.model.confidence.fitted
    found = trained.predict("what says the old dog?")
    assert found["reply"] == "Woof." and found["confidence"] > 0.5
    assert (
        trained.predict({"turns": ["what says the dog?", "Woof.", "and what does it eat?"]})["reply"]
        == "It eats bones."
    )
    with pytest.raises(InputError, match="'turns' must be a list of texts"):
        trained.predict({"turns": []})
    task = ChatTask(data=(str(file),))
    from throughtime.runtime.chat import Chat

    fresh = Chat(task.build(MODEL, task.prepare()), task, task.prepare())
    with pytest.raises(InputError, match="min_confidence needs a run"):
        fresh.say("hi", min_confidence=0.5)


def test_baselines_rank_the_same_candidates(file):
    task = ChatTask(data=(str(file),), validation=0.2)
    assets = task.prepare()
    found = task.baseline(assets, "validation")
    assert list(found) == [
        "random order", "most frequent reply", "BM25, prompt and reply", "BM25, retrieved", "BM25, retrieved by history",
    ]  # fmt: skip
    sizes = [1 + len(each) for each in task._candidates(assets, "validation")]
    assert found["random order"]["recall@1"] == pytest.approx(sum(1 / size for size in sizes) / len(sizes))
    assert found["random order"]["mrr"] == pytest.approx(
        sum(sum(1 / rank for rank in range(1, size + 1)) / size for size in sizes) / len(sizes)
    )
    assert _ranking([[2.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]]) == {
        "recall@1": 1 / 8,
        "mrr": (1 / 2 + 25 / 48) / 2,
    }
    # The name of the animal is in the history alone, and the prompt of the second reply is always the same.
    assert found["BM25, retrieved by history"]["exact"] > found["BM25, retrieved"]["exact"]
    assert found["most frequent reply"]["exact"] < 0.3
    assert 0 < found["BM25, retrieved"]["distinct_1"] < found["BM25, retrieved"]["distinct_2"] < 1


def test_a_script_without_spaces_is_compared_by_character(tmp_path):
    rows = [
        ("你喜欢音乐吗", "喜欢"),
        ("你喜欢什么书", "历史书"),
        ("今天天气怎么样", "很好"),
        ("你好", "你好"),
    ]
    (tmp_path / "a.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    (tmp_path / "b.tsv").write_text("喜欢音乐吗\t喜欢\n天气怎么样呢\t很好\n")
    task = ChatTask(
        data=(str(tmp_path / "a.tsv"),), test=str(tmp_path / "b.tsv"), validation=0, tokens="char"
    )
    found = task.baseline(task.prepare(), "test")
    assert found["BM25, retrieved"]["exact"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speaker": "carol"}, "speaker 'carol' never replies, the speakers are 'a', 'b'"),
        ({"category": ("x",)}, "category: no dialogue is of 'x'"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"memory": 0}, "memory must be at least 1"),
    ],
)
def test_options_that_cannot_be_used(file, settings, message):
    with pytest.raises(InputError, match=message) as error:
        ChatTask(data=(str(file),), **settings).prepare()
    assert "\n" not in str(error.value)


def test_both_ways_is_refused_as_the_state_cannot_be_kept(file, tmp_path):
    with pytest.raises(InputError, match="keeps its state from turn to turn") as error:
        start_run(
            ChatTask(data=(str(file),)), ModelConfig(hidden=5, bidirectional=True), TRAINING, tmp_path / "r"
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_trains(file, tmp_path, cell):
    training = TrainingConfig(bptt="full", batch=16, steps=2, no_baselines=True, evaluate_every=50)
    task = ChatTask(data=(str(file),), limit=40, max_length=4)
    task, run = start_run(task, ModelConfig(cell=cell, hidden=8, embedding=6), training, tmp_path / "r")
    result = train(task, training, run, report=Silent())
    assert result.step == 2 and result.best.values["perplexity"] > 1


@pytest.mark.parametrize("bptt", ["truncated:2", "randomized:2", "checkpointed:2"])
def test_strategies_that_cut_the_reply(file, tmp_path, bptt):
    training = TrainingConfig(bptt=bptt, batch=16, steps=2, no_baselines=True, evaluate_every=50)
    task = ChatTask(data=(str(file),), limit=40, max_length=4)
    task, run = start_run(task, ModelConfig(hidden=8, embedding=6), training, tmp_path / "r")
    assert train(task, training, run, report=Silent()).step == 2


class Stop(Silent):
    """Interrupt a training at an evaluation."""

    def __init__(self, at):
        self.at = at

    def evaluation(self, step, *rest):
        if step == self.at:
            signal.raise_signal(signal.SIGINT)


def test_a_resumed_training_ends_in_the_same_bits(file, tmp_path):
    training = TrainingConfig(bptt="full", batch=16, steps=6, no_baselines=True, evaluate_every=3)
    model = ModelConfig(cell="lstm", hidden=9, embedding=7, dropout=0.3)
    settings = ChatTask(
        data=(str(file),), limit=50, max_length=4, scheduled_sampling=0.2, label_smoothing=0.1
    )
    task, whole = start_run(settings, model, training, tmp_path / "whole")
    train(task, training, whole, report=Silent())
    task, cut = start_run(settings, model, training, tmp_path / "cut")
    with pytest.raises(Interrupted):
        train(task, training, cut, report=Stop(3))
    run = Run.open(tmp_path / "cut")
    train(task_of(run), training, run, resume=True, report=Silent())
    one, two = whole.load_model(), run.load_model()
    assert one.keys() == two.keys() and "confidence.slope" in one
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_command_line_from_end_to_end(trained, file, tmp_path, capsys):
    path = str(trained.path)
    assert main(["evaluate", path, "--split", "test"]) == 0
    assert "recall@1" in capsys.readouterr().out
    (tmp_path / "asked.txt").write_text("what says the old cow?\nwhat says the old hen?\n")
    assert main(["predict", path, str(tmp_path / "asked.txt")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split("\t")[1] == "Moo." and second.split("\t")[1] == "Cluck."
    assert main(["evaluate", path, "--data", str(file)]) == 0
    assert main(["flow", path, "--no-products", "--batch", "4"]) == 0
    capsys.readouterr()
    assert main(["generate", path]) == 2
    assert "only models of the next symbol can generate" in capsys.readouterr().err


def test_public_dialogues(data_dir):
    folder = data_dir / "chat_dialogs"
    if not folder.is_dir():
        pytest.skip("THROUGHTIME_DATA has no folder chat_dialogs")
    task = ChatTask(data=(str(folder / "chinese"),), tokens="char", category=("greetings", "food"))
    assets = task.prepare()
    assert sum(map(len, assets.splits.values())) == 30
    with pytest.raises(InputError, match=r"trivia\.yml:35: expected a list of turns"):
        ChatTask(data=(str(folder / "english"),)).prepare()
