"""Readers of dialogues, the dialogues that ship inside, and candidates for a reply."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from throughtime.data.batch import IGNORE
from throughtime.data.exchanges import Turn, candidate_batches, draw_candidates, exchanges_of
from throughtime.data.inside.dialogues import inside_dialogues
from throughtime.data.inside.questions import intents
from throughtime.data.readers.dialogues import Dialogue, read_dialogues
from throughtime.errors import InputError

TSV = "dialogue\tspeaker\ttext\n"
TSV += "d1\tanna\thi\nd2\tbob\tgood day\nd1\tcarl\t hello  you \n\nd1\tcarl\twho is it?\nd2\tanna\tbye\r\n"
YAML = "categories:\n- small talk\nconversations:\n- - hi\n  - hello\n  - 42\n- - is it so?\n  - Yes\n"


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_tsv_of_turns_joins_a_speakers_turns_and_needs_no_order(tmp_path):
    found = read_dialogues([write(tmp_path, "a.tsv", TSV)])
    first, second = found.dialogues
    assert first.turns == ("hi", "hello you who is it?") and first.speakers == ("anna", "carl")
    assert second.turns == ("good day", "bye") and first.place.endswith("a.tsv:2")
    assert len(found.sources) == 1 and found.remarks == ()


@pytest.mark.parametrize("header", ["", "prompt\treply\n", "Question\tANSWER\n"])
def test_tsv_of_pairs_with_and_without_a_header(tmp_path, header):
    found = read_dialogues([write(tmp_path, "a.txt", f"{header}hi\thello\nhi\tbye\n")])
    assert [each.turns for each in found.dialogues] == [("hi", "hello"), ("hi", "bye")]


def test_yaml_takes_every_turn_as_it_is_written(tmp_path):
    found = read_dialogues([write(tmp_path, "a.yml", YAML)])
    assert [each.turns for each in found.dialogues] == [("hi", "hello", "42"), ("is it so?", "Yes")]
    assert {each.category for each in found.dialogues} == {"small talk"}
    assert found.dialogues[1].place.endswith("a.yml:7")


def test_yaml_makes_no_objects(tmp_path):
    text = "conversations:\n- - !!python/object/apply:os.system ['touch hacked']\n  - x\n"
    with pytest.raises(InputError, match=r"a\.yml:2: expected a list of turns"):
        read_dialogues([write(tmp_path, "a.yml", text)])
    found = read_dialogues(
        [write(tmp_path, "b.yml", "conversations:\n- - !!python/name:os.system x\n  - y\n")]
    )
    assert found.dialogues[0].turns == ("x", "y")


def test_json_lines_and_a_folder_of_all_formats(tmp_path):
    rows = [
        {"turns": ["a", "b", "c"]},
        {"turns": [{"speaker": "x", "text": "d"}, {"speaker": "y", "text": "e"}]},
    ]
    write(tmp_path, "c.jsonl", "\n".join(map(json.dumps, rows)))
    (tmp_path / "more").mkdir()
    write(tmp_path / "more", "a.yaml", YAML)
    write(tmp_path, "README.md", "no dialogue")
    found = read_dialogues([tmp_path])
    assert [each.turns[0] for each in found.dialogues] == ["a", "d", "hi", "is it so?"]
    assert found.dialogues[1].speakers == ("x", "y") and len(found.sources) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no such file in the folder"):
        read_dialogues([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "d\ta\thi\n", r"a\.tsv:1: expected a dialogue of at least two turns of two speakers, got 1"),
        ("a.tsv", "d\ta\thi\nd\tb\t \n", r"a\.tsv:2: expected the text of a turn, got none"),
        ("a.tsv", "a\tb\nc\td\te\n", r"a\.tsv:2: expected 2 columns, got 3"),
        ("a.tsv", "a\tb\tc\td\n", r"a\.tsv:1: expected two columns \(prompt, reply\) or three .*, got 4"),
        ("a.dat", "no tab at all", r"a\.dat: expected TSV .*, YAML .*, or JSON lines .*, got something else"),
        ("a.yml", "conversations:\n- - hi\n  -\n", r"a\.yml:3: expected the text of a turn, got none"),
        ("a.yml", "conversations:\n- - hi\n", r"a\.yml:2: expected a dialogue of at least two turns"),
        ("a.yml", "conversations:\n- - hi\n  - {a: b}\n", r"a\.yml:2: expected a list of turns, each a text"),
        ("a.yml", "conversations: hello\n", r"a\.yml:1: expected 'conversations', a list of lists"),
        ("a.yml", "- a\n- b\n", r"a\.yml:1: expected 'conversations'"),
        ("a.yml", "conversations:\n  - [\n", r"a\.yml:\d: this is no YAML"),
        ("a.jsonl", '{"turns": ["a"]}', r"a\.jsonl:1: expected a dialogue of at least two turns"),
        ("a.jsonl", '{"turns": ["a", 5]}', r"a\.jsonl:1: turn 2 must be a text, .* got 5"),
        ("a.jsonl", '{"talk": []}', r'a\.jsonl:1: expected \{"turns"'),
        ("a.jsonl", '["a", "b"]', r'a\.jsonl:1: expected \{"turns"'),
        ("a.jsonl", "{oops", r"a\.jsonl:1: expected one JSON object"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_with_file_and_row(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_dialogues([write(tmp_path, name, text)])
    assert "\n" not in str(error.value)


def test_bytes_that_are_not_utf_8(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"hi\tgood\n\xff\tx\n")
    with pytest.raises(InputError, match=r"a\.tsv:2: expected UTF-8"):
        read_dialogues([path])


def test_bad_dialogues_are_left_out_and_counted(tmp_path):
    text = "d1\ta\thi\nd1\tb\thello\nd2\ta\talone\nd3\ta\tx\nd3\tb\ty\textra\n"
    found = read_dialogues([write(tmp_path, "a.tsv", text)], skip_bad=True)
    assert len(found.dialogues) == 1
    assert found.remarks[0].startswith(f"{tmp_path / 'a.tsv'}: 2 bad dialogues skipped; the first is ")
    with pytest.raises(InputError, match=r"found none in .*1 bad dialogue skipped"):
        read_dialogues([write(tmp_path, "b.tsv", "d\ta\thi\n")], skip_bad=True)


def test_yaml_without_its_library_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InputError, match=r"needs PyYAML: pip install 'throughtime\[chat\]'"):
        read_dialogues([write(tmp_path, "a.yml", YAML)])


def test_what_ships_inside_needs_no_yaml_and_every_intent_has_a_reply(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    found = inside_dialogues()
    own = [each for each in found.dialogues if each.category == "dialogues"]
    assert len(own) >= 150 and all(len(each.turns) % 2 == 0 for each in own)
    assert sum(len(each.turns) > 2 for each in own) >= 150
    questions = sum(len(each.questions) for each in intents().values())
    assert len(found.dialogues) == len(own) + questions
    # The same words after other turns have other replies: only who read those turns can tell.
    replies: dict[str, set[str]] = {}
    for each in own:
        for place in range(2, len(each.turns), 2):
            replies.setdefault(each.turns[place], set()).add(each.turns[place + 1])
    assert sum(len(each) > 3 for each in replies.values()) > 30


DIALOGUE = Dialogue(("a", "b", "c", "d", "e"), ("x", "y", "x", "y", "x"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["b", "d"]),
        ({"speaker": "x"}, ["c", "e"]),
        ({"both_sides": True}, ["b", "c", "d", "e"]),
        ({"speaker": "nobody"}, []),
    ],
)
def test_replies_of_a_dialogue(settings, expected):
    found = exchanges_of(DIALOGUE, **settings)
    assert [each.reply for each in found] == expected
    for each in found:  # the history is all that comes before, and who replies next does not speak last
        place = DIALOGUE.turns.index(each.reply)
        assert [turn.text for turn in each.history] == list(DIALOGUE.turns[:place])
        assert not each.history[-1].own
    assert exchanges_of(DIALOGUE, turns=2)[1].history == (Turn(True, "b"), Turn(False, "c"))


def test_candidates_are_other_texts_and_the_same_for_the_same_seed():
    replies = [f"r{number % 13}" for number in range(40)] + ["R1  "]
    found = draw_candidates(replies, 3)
    assert found == draw_candidates(replies, 3) != draw_candidates(replies, 4)
    for reply, others in zip(replies, found, strict=True):
        texts = [replies[number].strip().lower() for number in others]
        assert len(texts) == len(set(texts)) == 9 and reply.strip().lower() not in texts
    assert [len(each) for each in draw_candidates(["a", "b", "a"], 0)] == [1, 1, 1]
    assert draw_candidates(["a", "A"], 0) == [[], []]


def test_groups_of_candidates_are_whole_and_only_true_replies_are_targets():
    lengths = [3, 1, 5, 2, 4]
    inputs = [torch.arange(10 * n, 10 * n + length) for n, length in enumerate(lengths)]
    targets = [each + 1 for each in inputs]
    context = [torch.full((length,), n) for n, length in enumerate([2, 7, 1, 3, 3])]
    candidates = [[1, 2], [0, 3], [4], [0, 1], []]
    batches = list(candidate_batches(inputs, targets, context, candidates, batch=4))
    assert [batch.size for batch in batches] == [6, 5] or sum(batch.size for batch in batches) == 12
    assert sum(batch.num_targets for batch in batches) == sum(lengths)
    seen = []
    for batch in batches:
        for row in range(batch.size):
            history, reply = int(batch.context.values[row, 0]), int(batch.inputs[0, row]) // 10
            true = bool((batch.targets[:, row] != IGNORE).any())
            assert true == (history == reply)
            seen.append((history, reply))
    assert seen[0] == (1, 1)  # the longest history first
    assert sorted(seen) == sorted(
        [(n, n) for n in range(5)] + [(n, m) for n, each in enumerate(candidates) for m in each]
    )
