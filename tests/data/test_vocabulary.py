"""Text to ids and back, and every damaged vocabulary refused."""

import json
import os
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from throughtime.data import KINDS, Vocabulary, embedded_text, letters_only
from throughtime.data.text import read_sources
from throughtime.errors import InputError

TEXT = "The time, the Time!\n\n    it's 3 o'clock:\tnaïve “日本” 🎉 <unk> the\r\n" * 3
EXACT = ("char", "word", "bpe")  # "space" gives back single spaces whatever white space there was
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize("kind", EXACT)
def test_known_text_round_trips_exactly(kind):
    vocabulary = Vocabulary.build(kind, TEXT, size=None)
    ids = vocabulary.encode(TEXT)
    assert ids.dtype == torch.int64
    assert ids.dim() == 1
    assert vocabulary.decode(ids) == vocabulary.decode(ids.tolist()) == TEXT
    assert vocabulary.unknown_symbols(TEXT) == []
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""
    assert int(ids.max()) < len(vocabulary)


@given(any_text)
def test_bpe_round_trips_any_text(text):
    assert BPE.decode(BPE.encode(text)) == text


@given(any_text.filter(bool))
def test_word_and_char_round_trip_the_text_they_were_built_from(text):
    for kind in ("word", "char"):
        vocabulary = Vocabulary.build(kind, text, size=10_000)
        assert vocabulary.decode(vocabulary.encode(text)) == text


BPE = Vocabulary.build("bpe", TEXT, size=300)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_decoder_says_what_decode_says(kind):
    vocabulary = Vocabulary.build(kind, TEXT, size=260)
    ids = vocabulary.encode(TEXT).tolist()
    decoder = vocabulary.decoder()
    parts = [decoder.feed(number) for number in ids]
    assert "".join(parts) + decoder.finish() == vocabulary.decode(ids)
    assert "\ufffd" not in "".join(parts)


def test_the_stream_decoder_never_gives_half_a_character():
    bytes_only = Vocabulary.build("bpe", TEXT, size=256)
    ids = bytes_only.encode("🎉")
    assert len(ids) == 4
    decoder = bytes_only.decoder()
    assert [decoder.feed(number) for number in ids] == ["", "", "", "🎉"]
    assert decoder.feed(int(ids[0])) == ""
    assert decoder.finish() == "\ufffd" == bytes_only.decode(ids[:1])


@pytest.mark.parametrize(("kind", "unknown"), [("char", "<unk>"), ("word", " <unk>"), ("space", "<unk>")])
def test_unknown_symbols_are_reported_once_in_order(kind, unknown):
    vocabulary = Vocabulary.build(kind, "a b c\n")
    assert vocabulary.unknown == 0
    assert vocabulary.unknown_symbols("z b\ny c\nz") == ["z", "y"]
    assert vocabulary.encode(" z")[-1] == 0
    assert vocabulary.decode([0]) == unknown


def test_a_char_vocabulary_is_ordered_by_frequency_then_code_point():
    vocabulary = Vocabulary.build("char", "bbccad" + "é" * 3)
    assert json.loads(vocabulary.to_json())["symbols"] == ["<unk>", "é", "b", "c", "a", "d"]
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 700)))
    assert Vocabulary.build("char", rare[::-1]).symbols[1:] == tuple(symbol.encode() for symbol in rare)


def test_the_char_vocabulary_of_the_time_machine(time_machine):
    text = letters_only(time_machine)
    vocabulary = Vocabulary.build("char", text)
    assert len(vocabulary) == 28
    expected = sorted(Counter(text).items(), key=lambda pair: (-pair[1], pair[0]))
    assert [s.decode() for s in vocabulary.symbols[1:]] == [symbol for symbol, _ in expected]


def test_size_caps_every_kind():
    assert len(Vocabulary.build("char", TEXT, size=5)) == 5
    assert len(Vocabulary.build("word", TEXT, size=5)) == 5
    assert len(Vocabulary.build("space", TEXT, size=5)) == 5
    assert len(Vocabulary.build("bpe", TEXT, size=270)) == 270
    for kind, size in (("char", 1), ("word", 1), ("space", 2), ("bpe", 255), ("word", -3)):
        with pytest.raises(InputError, match="must have at least"):
            Vocabulary.build(kind, TEXT, size=size)
    with pytest.raises(InputError, match="Did you mean 'word'"):
        Vocabulary.build("words", TEXT)
    with pytest.raises(InputError, match="got none"):
        Vocabulary.build("char", "")


@pytest.mark.parametrize("size", [1, 2, 5, 17])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", [TEXT, "a " * 40 + "x’s,y don't。z <unk>,<unk>  \t b\u0301c", "no\r\nline\rends \n\n"]
)
def test_encoding_in_chunks_changes_nothing(monkeypatch, kind, text, size):
    from throughtime.data import char, space, subword

    vocabulary = Vocabulary.build(kind, text)
    expected = vocabulary.encode(text)
    for module, name in ((char, "_CHUNK"), (space, "_CHUNK"), (subword, "CHUNK"), (subword, "_TOGETHER")):
        monkeypatch.setattr(module, name, size)
    assert torch.equal(vocabulary.encode(text), expected)
    assert size > 2 or len(list(vocabulary.encode_chunks(text))) > 1
    assert vocabulary == Vocabulary.build(kind, text)


@given(any_text, st.integers(1, 9))
def test_a_chunk_never_ends_inside_a_pre_token(text, size):
    """The tokenizer's own pre-tokens of the whole text are those of the chunks, one after the other."""
    from throughtime.data import subword

    split = subword.WordVocabulary.empty().pre_tokenizer

    def pre_tokens(part):
        return [token for token, _ in split.pre_tokenize_str(part)]

    chunks = subword.text_chunks(text, subword._BOUNDARY, size)
    assert [token for chunk in chunks for token in pre_tokens(chunk)] == pre_tokens(text)


def test_a_word_without_end_is_cut(monkeypatch):
    from throughtime.data import subword

    monkeypatch.setattr(subword, "CHUNK", 10)
    monkeypatch.setattr(subword, "LONGEST", 5)
    assert list(subword._chunks("x" * 40 + " y")) == ["x" * 15, "x" * 15, "x" * 10, " y"]
    vocabulary = Vocabulary.build("bpe", "x" * 40)
    assert vocabulary.decode(vocabulary.encode("x" * 40)) == "x" * 40


def test_a_space_vocabulary_reads_as_ptb_and_wikitext_are_read():
    text = " the <unk> sat \n \n the\u00a0 end <eos>"
    vocabulary = Vocabulary.build("space", text)
    assert json.loads(vocabulary.to_json())["symbols"] == ["<unk>", "<eos>", "the", "end", "sat"]
    ids = vocabulary.encode(text)
    assert ids.tolist() == [2, 0, 4, 1, 1, 2, 3, 1]
    assert vocabulary.decode(ids) == "the <unk> sat\n\nthe end\n"
    assert torch.equal(vocabulary.encode(vocabulary.decode(ids)), ids)
    assert vocabulary.encode("end\r\nend\rdog").tolist() == [3, 1, 3, 1, 0]
    assert vocabulary.unknown_symbols("dog <unk> cat dog\nsat") == ["dog", "cat"]
    after_prompt = vocabulary.decoder(new_line=False)
    assert [after_prompt.feed(number) for number in (2, 1, 3)] == [" the", "\n", "end"]


def test_wikitext_2_has_its_published_number_of_symbols(data_dir):
    texts = [read_sources(data_dir / "wikitext2_valid_test" / name)[0] for name in ("valid.txt", "test.txt")]
    vocabulary = Vocabulary.build("space", "".join(texts))
    assert [len(vocabulary.encode(text)) for text in texts] == [217_646, 245_569]


@pytest.mark.parametrize("kind", KINDS)
def test_the_characters_of_the_symbols_are_those_of_the_text(kind):
    vocabulary = Vocabulary.build(kind, TEXT, size=300 if kind == "bpe" else None)
    ids = vocabulary.encode(TEXT)
    text = vocabulary.decode(ids)
    lines = [line for line in text.split("\n") if line]
    # A word of the kind "space" stands for itself and the space before it, also at the beginning of a line.
    assert int(vocabulary.characters()[ids].sum()) == len(text) + (len(lines) if kind == "space" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_without_line_ends_takes_little_memory(kind):
    """Ten megabytes on one line, built and encoded: the peak stays within 50 bytes for each."""
    script = (
        "import resource\nfrom throughtime.data import Vocabulary, embedded_text\n"
        "text = (embedded_text().replace('\\n', ' ') * 30)[:10_000_000]\n"
        f"Vocabulary.build({kind!r}, 'a')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"ids = Vocabulary.build({kind!r}, text).encode(text)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, len(ids))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    peak, length = map(int, done.stdout.split())
    assert peak < 500_000 and length > 1_000_000


def test_a_lone_surrogate_is_unknown_and_never_an_error():
    text = "ab\udcffc"
    for kind in KINDS:
        vocabulary = Vocabulary.build(kind, text)
        vocabulary.decode(vocabulary.encode(text)).encode()
        vocabulary.to_json().encode()
    assert Vocabulary.build("char", text).unknown_symbols(text) == ["\udcff"]


@pytest.mark.parametrize("number", [-1, 300, 10**9])
def test_an_id_outside_the_vocabulary_is_an_error(number):
    with pytest.raises(InputError, match=f"are 0 to {len(BPE) - 1}, got {number}"):
        BPE.decode([number])


@pytest.mark.parametrize("kind", KINDS)
def test_json_keeps_everything(kind):
    vocabulary = Vocabulary.build(kind, TEXT, size=280)
    copy = Vocabulary.from_json(vocabulary.to_json())
    assert copy == vocabulary
    assert copy.symbols == vocabulary.symbols
    assert torch.equal(copy.encode(TEXT + "xyz"), vocabulary.encode(TEXT + "xyz"))
    assert vocabulary != Vocabulary.build(kind, TEXT[:40], size=270)


def test_builds_are_the_same_in_every_process():
    script = (
        "import hashlib\nfrom throughtime.data import KINDS, Vocabulary, embedded_text\ntext = embedded_text()[:100000]\n"
        "print([hashlib.sha256(Vocabulary.build(kind, text).to_json().encode()).hexdigest() for kind in KINDS])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def damaged(kind, change):
    data = json.loads(Vocabulary.build(kind, TEXT, size=280).to_json())
    change(data)
    return json.dumps(data)


def model(data):
    return data["tokenizer"]["model"]


def set_in(part, key, value):
    return lambda data: part(data).__setitem__(key, value)


def itself(data):
    return data


def tokenizer(data):
    return data["tokenizer"]


def rename_a_byte(data):
    numbers = model(data)["vocab"]
    numbers["日"] = numbers.pop("!")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("char", set_in(itself, "kind", "chars"), "Did you mean 'char'"),
        ("char", set_in(itself, "kind", None), "with a 'kind'"),
        ("char", set_in(itself, "symbols", ["a", "b"]), "starts with '<unk>'"),
        ("char", set_in(itself, "symbols", "<unk>abc"), "a list"),
        ("char", set_in(itself, "symbols", ["<unk>", "a", "bc"]), "symbol 2 .* got 'bc'"),
        ("char", set_in(itself, "symbols", ["<unk>", 5]), "symbol 1 .* got 5"),
        ("char", set_in(itself, "symbols", ["<unk>", "\ud800"]), "must be one character"),
        ("char", set_in(itself, "symbols", ["<unk>", "a", "b", "a"]), "'a' more than once"),
        ("char", set_in(itself, "extra", 1), "must have 'kind' and 'symbols'"),
        ("space", set_in(itself, "symbols", ["<unk>", "a"]), "starts with '<unk>' and '<eos>'"),
        ("space", set_in(itself, "symbols", ["<unk>", "<eos>", "a b"]), "symbol 2 .* got 'a b'"),
        ("space", set_in(itself, "symbols", ["<unk>", "<eos>", ""]), "without white space, got ''"),
        ("space", set_in(itself, "symbols", ["<unk>", "<eos>", 5]), "got 5"),
        ("space", set_in(itself, "symbols", ["<unk>", "<eos>", "\ud800"]), "symbol 2"),
        ("space", set_in(itself, "symbols", ["<unk>", "<eos>", "a", "a"]), "'a' more than once"),
        ("space", set_in(itself, "extra", 1), "must have 'kind' and 'symbols'"),
        ("word", lambda data: data.pop("tokenizer"), "damaged"),
        ("word", set_in(itself, "tokenizer", 3), "damaged"),
        ("word", set_in(itself, "kind", "bpe"), "not a bpe vocabulary"),
        ("word", set_in(tokenizer, "pre_tokenizer", {"type": "Whitespace"}), "cuts text in another way"),
        ("word", set_in(tokenizer, "normalizer", {"type": "Lowercase"}), "cuts text in another way"),
        ("word", set_in(model, "vocab", {" <unk>": 1, "a": 0}), "id 0 of a word vocabulary"),
        ("word", set_in(model, "vocab", {" <unk>": 0, "a": 7}), "0 to 1, each once"),
        ("bpe", set_in(model, "dropout", 0.1), "cuts text in another way"),
        ("bpe", set_in(model, "merges", [["not", "there"]]), "damaged"),
        ("bpe", set_in(model, "vocab", {"a": 0}), "damaged|each of the 256 bytes"),
        ("bpe", rename_a_byte, "damaged|each of the 256 bytes"),
    ],
)
def test_a_damaged_vocabulary_says_what_is_wrong(kind, change, message):
    with pytest.raises(InputError, match=message):
        Vocabulary.from_json(damaged(kind, change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"char"', "{}", "[" * 100_000])
def test_what_is_no_vocabulary_is_an_error(text):
    with pytest.raises(InputError, match="a vocabulary must be"):
        Vocabulary.from_json(text)


def test_ten_million_characters_take_less_than_a_second():
    text = embedded_text() * 22
    vocabulary = Vocabulary.build("char", text)
    start = time.process_time()  # not the clock: other processes may be busy
    ids = vocabulary.encode(text)
    assert time.process_time() - start < 1.0  # it takes 0.2 s on one slow core
    assert len(ids) == len(text) > 7_000_000
