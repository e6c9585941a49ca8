"""Readers of tagged sentences: what they read, and one line for what they refuse."""

from __future__ import annotations

import json

import pytest

from throughtime.data.inside.roles import ROLES, name_roles, python_tokens
from throughtime.data.readers.tagged import SUFFIXES, Sentence, read_tagged
from throughtime.errors import InputError
from throughtime.tasks import TagTask

UD = "{}\t{}\t_\t{}\t{}\t{}\t_\t_\t_\t_"


def write(tmp_path, text, name="some.conll"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(tmp_path, text, name="some.conll", **options):
    return read_tagged([write(tmp_path, text, name)], **options).sentences


def refused(tmp_path, text, name="some.conll", **options):
    with pytest.raises(InputError) as error:
        read(tmp_path, text, name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


FIRST = Sentence(("Anna", "sleeps"), ("B-per", "O"))
SECOND = Sentence(("Yes",), ("O",))


@pytest.mark.parametrize(
    "text",
    [
        "Anna\tB-per\nsleeps\tO\n\nYes\tO\n",
        "Anna\tB-per\r\nsleeps\tO\r\n\t\r\nYes\tO",  # a blank line that holds a tab, as in WNUT 17
        "Anna B-per\nsleeps O\n   \n\n\nYes O\n\n",
        "-DOCSTART- -X- O\n\nAnna NNP B-per\nsleeps VBZ O\n\nYes UH O\n",
        "# id = 1\nAnna\tx\tB-per\nsleeps\tx\tO\n\n# id = 2\nYes\tx\tO\n",
        b"\xef\xbb\xbfAnna\tB-per\nsleeps\tO\n\nYes\tO\n",
        "Anna\tB-per\rsleeps\tO\r\rYes\tO\r",
    ],
)
def test_columns(tmp_path, text):
    assert read(tmp_path, text) == [FIRST, SECOND]


def test_columns_are_chosen_by_number(tmp_path):
    text = "1 B-per Anna NNP\n2 O sleeps VBZ\n"
    assert read(tmp_path, text, label="2", token=3) == [FIRST]
    assert "label must be a column from 1 to 4" in refused(tmp_path, text, label="5")
    assert "token must be a column from 1 to 4" in refused(tmp_path, text, token=9)
    assert "label must be the number of a column" in refused(tmp_path, text, label="tag")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Anna\tB-per\nsleeps\n", "some.conll:2: expected a token and its tag, in columns with tabs between, got one"),
        ("Anna\tB-per\nsleeps\tVBZ\tO\n", "some.conll:2: expected 2 columns, as on line 1, got 3"),
        ("Anna\tB-per\n\tO\n", "some.conll:2: expected a value in each column, got an empty one"),
        (b"Anna\tB-per\n\ncaf\xe9\tO\n", "some.conll:3: expected UTF-8"),
        (b"\xff\xfeA\0", "must be UTF-8, got UTF-16"),
        (" \n\n", "is empty: expected tagged sentences"),
        ("-DOCSTART- -X- O\n\n", "expected tagged sentences, found none"),
        ("Anna\nsleeps\n", "some.conll:1: expected a token and its tag, in columns with spaces or tabs between, got one column"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_read(tmp_path, text, message):
    assert message in refused(tmp_path, text)


def test_bad_sentences_are_left_out_and_counted(tmp_path):
    text = "Anna\tB-per\nsleeps\n\nYes\tO\n\nNo\tO\tx\nO\tO\n"
    found = read_tagged([write(tmp_path, text)], skip_bad=True)
    assert found.sentences == [SECOND]
    assert len(found.remarks) == 1 and "bad sentences skipped: 2; the first is" in found.remarks[0]
    assert "some.conll:2" in found.remarks[0]


def test_a_label_column_that_holds_words(tmp_path):
    text = "".join(f"O\tword{number}\n" for number in range(200))
    assert "the label column has 200 different values for 200 tokens" in refused(tmp_path, text)
    assert len(read(tmp_path, text, label="1")) == 1
    many = "".join(f"word\ttag{number % 60}\n" for number in range(2000))  # a large tag set is none
    assert len(read(tmp_path, many)) == 1


def conllu(*words, comment="# text = some"):
    return "\n".join([comment, *(UD.format(*word) for word in words)]) + "\n\n"


def test_conllu(tmp_path):
    words = [
        ("1-2", "don't", "_", "_", "_"),
        ("1", "do", "AUX", "VBP", "Mood=Ind|Tense=Pres"),
        ("2", "n't", "PART", "RB", "_"),
        ("2.1", "go", "VERB", "VB", "_"),
        ("3", "a b", "VERB", "VB", "_"),
    ]
    text = conllu(*words) + conllu(words[1])
    both = read(tmp_path, text, "some.conllu")
    assert both[0] == Sentence(("do", "n't", "a b"), ("AUX", "PART", "VERB")) and len(both) == 2
    assert read(tmp_path, text, "some.txt") == both  # by its first line
    assert read(tmp_path, text, "some.conllu", label="xpos")[0].tags == ("VBP", "RB", "VB")
    assert read(tmp_path, text, "some.conllu", label="feats")[0].tags == ("Mood=Ind|Tense=Pres", "_", "_")
    assert "label must be one of upos, xpos, feats, got 'upo'. Did you mean 'upos'?" in refused(
        tmp_path, text, "some.conllu", label="upo"
    )
    wrong = conllu(words[1], words[4])
    assert "some.conllu:3: expected the word with ID 2, got '3'" in refused(tmp_path, wrong, "some.conllu")
    empty = conllu(("1", "do", "_", "VB", "_"))
    assert "some.conllu:2: expected a word and its upos, got 'do' and '_'" in refused(
        tmp_path, empty, "some.conllu"
    )
    short = conllu(words[1]).replace("\t_\t_\n", "\n")
    assert "some.conllu:2: expected 10 columns with tabs between, got 8" in refused(
        tmp_path, short, "some.conllu"
    )


@pytest.mark.parametrize("column", ["upos", "xpos"])
def test_universal_dependencies_are_read_as_the_library_conllu_reads_them(data_dir, column):
    conllu = pytest.importorskip(
        "conllu", reason="conllu is not installed: pip install 'throughtime[tagging]'"
    )
    path = data_dir / "ud_english_ewt" / "en_ewt-ud-dev.conllu"
    if not path.exists():
        pytest.skip("ud_english_ewt is not in THROUGHTIME_DATA")
    found = read_tagged([path], label=column).sentences
    blocks = path.read_text(encoding="utf-8").split("\n\n")[
        :300
    ]  # words written as one, and not written, are among them
    for block, sentence in zip(blocks, found, strict=False):
        (expected,) = conllu.parse(block + "\n\n")
        words = [word for word in expected if isinstance(word["id"], int)]
        assert sentence == Sentence(
            tuple(word["form"] for word in words), tuple(word[column] for word in words)
        )


def spans(text, *found):
    return json.dumps(
        {"text": text, "spans": [dict(zip(("start", "end", "label"), each, strict=True)) for each in found]}
    )


def test_json_lines(tmp_path):
    text = "\n".join(
        [
            spans("Anna lives in New York.", (14, 22, "loc"), (0, 4, "per")),
            json.dumps({"tokens": ["Yes", "."], "tags": ["O", "O"]}),
            spans("   "),
            spans("Annas Buch", (0, 4, "per")),
        ]
    )
    found = read_tagged([write(tmp_path, text, "some.jsonl")])
    assert found.sentences == [
        Sentence(("Anna", "lives", "in", "New", "York", "."), ("B-per", "O", "O", "B-loc", "I-loc", "O")),
        Sentence(("Yes", "."), ("O", "O")),
        Sentence(("Annas", "Buch"), ("B-per", "O")),
    ]
    assert ["1 spans begin or end inside a token" in remark for remark in found.remarks] == [True]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (spans("Anna", (0, 5, "per")), "a span must lie inside the text, 0 <= start < end <= 4, got 0 to 5"),
        (spans("Anna", (2, 2, "per")), "a span must lie inside the text"),
        (spans("Anna B", (4, 5, "per")), "the span 4 to 5 holds no token"),
        (spans("Anna B", (0, 4, "per"), (2, 6, "loc")), "spans must not overlap"),
        (spans("Anna", (0, 4, "a b")), "the label of a span must be text without spaces"),
        ('{"text": "a", "spans": [3]}', 'a span must have "start", "end" and "label"'),
        ('{"text": "a"}', 'expected "text" and "spans"'),
        ('{"tokens": ["a"], "tags": ["x", "y"]}', "tags must be one for each of 1 tokens, got 2"),
        ('{"tokens": ["a"], "tags": [1]}', "tags must be a list of texts"),
        ('{"tokens": "a", "tags": ["O"]}', "tokens must be a list of texts"),
        ("[1]", "expected one JSON object on a line"),
    ],
)  # fmt: skip
def test_json_lines_that_cannot_be_read(tmp_path, line, message):
    text = spans("Anna", (0, 4, "per")) + "\n" + line
    found = refused(tmp_path, text, "some.jsonl")
    assert message in found and "some.jsonl:2" in found
    kept = read_tagged([write(tmp_path, text, "some.jsonl")], skip_bad=True)
    assert len(kept.sentences) == 1 and "skipped: 1" in kept.remarks[0]


def test_wnut_17_is_read_whole(data_dir):
    """Its training file ends 2,394 sentences with a line that holds a tab."""
    folder = data_dir / "wnut17_ner"
    if not folder.exists():
        pytest.skip("wnut17_ner is not in THROUGHTIME_DATA")
    (sentences,) = [read_tagged([folder / "wnut17train.conll"]).sentences]
    assert (len(sentences), sum(len(each.tokens) for each in sentences)) == (3394, 62730)


def test_the_task_knows_the_suffixes_of_the_readers():
    assert dict(TagTask.formats) == SUFFIXES


def test_roles_of_names_in_the_standard_library():
    roles = name_roles(60)
    assert len(roles.functions) == len(roles.modules) == 60
    tags = {tag for each in roles.functions for tag in each.tags}
    assert tags <= {"", *ROLES} and {"parameter", "local", "call"} <= tags
    for function in roles.functions:
        assert function.tokens[0] in ("def", "async")
        first = function.tokens.index("(")
        if function.tokens[first + 1] == "self":
            assert function.tags[first + 1] == "parameter"
        for token, tag in zip(*function, strict=True):
            assert not tag or token.isidentifier()


def test_roles_by_hand():
    from throughtime.data.inside.roles import _functions

    source = '''
class A:
    def f(self, a, *b):
        """About f."""
        x = len(a)  # a comment
        for y in self.z:
            g(y, key=x.w)
        return "text %s" % K, 3
'''
    (found,) = _functions(source)
    named = [(token, tag) for token, tag in zip(*found, strict=True) if tag]
    assert named == [
        ("self", "parameter"), ("a", "parameter"), ("b", "parameter"),
        ("x", "local"), ("len", "call"), ("a", "parameter"),
        ("y", "local"), ("self", "parameter"), ("z", "attribute"),
        ("g", "call"), ("y", "local"), ("key", "keyword"), ("x", "local"), ("w", "attribute"),
        ("K", "outer"),
    ]  # fmt: skip
    assert "About f." not in found.tokens and found.tokens[-3:] == ("K", ",", "0")
    assert python_tokens("x = f('a'") == ["x", "=", "f", "(", "text"]
