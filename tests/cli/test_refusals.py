"""What cannot be trained is refused in one line that names the option, before there is a run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("task", "options", "line"),
    [
        ("text", ["--cell", "lsmt"],
         "--cell must be one of rnn, gru, lstm, mingru, indrnn, lnlstm, none, cnn, got 'lsmt'. Did you mean 'lstm'?"),
        ("text", ["--tokens", "chars"], "--tokens must be one of char, word, bpe, space, got 'chars'. Did you mean 'char'?"),
        ("text", ["--bptt", "truncate:7"], "Did you mean 'truncated'?"),
        ("text", ["--bptt", "truncated:x"], "--bptt must read truncated:WINDOW"),
        ("text", ["--clip", "norms:1"], "Did you mean 'norm'?"),
        ("text", ["--optimizer", "adamv"], "Did you mean 'adam"),
        ("text", ["--schedule", "cosin"], "Did you mean 'cosine'?"),
        ("text", ["--sampling", "sequentiel"], "Did you mean 'sequential'?"),
        ("text", ["--normalize", "letter"], "Did you mean 'letters'?"),
        ("text", ["--init", "orthogonall"], "Did you mean 'orthogonal'?"),
        ("text", ["--precision", "bf15"], "Did you mean 'bf16'?"),
        ("text", ["--keep", "bests"], "Did you mean 'best'?"),
        ("text", ["--on-spike", "rolback"], "Did you mean 'rollback'?"),
        ("text", ["--hidden", "0"], "--hidden must be at least 1 and at most 65,536, got 0"),
        ("text", ["--hidden", "12,x"], "--hidden must be a whole number"),
        ("text", ["--embedding", "onehott"], "--embedding must be one of a whole number, onehot, got 'onehott'"),
        ("text", ["--layers", "0"], "--layers must be at least 1"),
        ("text", ["--batch", "0"], "--batch must be at least 1"),
        ("text", ["--batch", "5000"], "5000 streams of one window of 7 steps need"),
        ("text", ["--window", "4000"], "3 streams of one window of 4000 steps need"),
        ("text", ["--hidden", "65000", "--layers", "100"], "make hidden, layers, embedding or vocab_size smaller"),
        ("text", ["--hidden", "99999999"], "--hidden must be at least 1 and at most 65,536, got 99999999"),
        ("text", ["--bidirectional", "true"], "--bidirectional takes no value, got 'true': a flag that is set means yes"),
        ("text", ["--layer-norm", "--tied", "no"], "--layer-norm and --tied take no value, got 'no'"),
        ("text", ["--dropout", "1.5"], "--dropout must be"),
        ("text", ["--lr", "-1"], "--lr must be above 0"),
        ("text", ["--lr", "nan"], "--lr must be above 0"),
        ("text", ["--lr", "fast"], "--lr must be a number, got 'fast'"),
        ("text", ["--steps", "3", "--epochs", "2"], "the end is one of steps, epochs and minutes"),
        ("text", ["--steps", "0"], "--steps must be at least 1"),
        ("text", ["--tied"], "--tied needs an embedding as wide as"),
        ("text", ["--device", "abacus"], "--device must be auto, cpu"),
        ("text", ["--validation", "1"], "--validation must be"),
        ("text", ["--validation", ""], "--validation must be a fraction from 0 up to 1, or a file, got an empty name"),
        ("text", ["--validation", "0.6", "--test", "0.4"], "must leave some data to train on, got 0.6 and 0.4"),
        ("text", ["--validation", "nope.txt"], "nope.txt. Check its name."),
        ("text", ["--test", "nope.txt"], "nope.txt. Check its name."),
        ("text", ["--limit", "9"], "the text is too short"),
        ("text", ["--limit", "0"], "--limit must be at least 1"),
        ("text", ["--vocab-size", "1"], "vocabulary must have at least 2 symbols"),
        ("text", ["--patience", "0"], "--patience must be at least 1"),
        ("text", ["--init-from", "nowhere"], "no such run: "),
        ("text", ["--pooling", "mean"], "no such option: --pooling"),
        ("classify", ["--pooling", "men"], "Did you mean 'mean'?"),
        ("classify", ["--label", "lable"], "Did you mean 'label'?"),
        ("classify", ["--window", "9"], "no such option: --window"),
        ("classify", ["--tied"], "no such option: --tied"),
        ("classify", ["--limit", "3"], "at least two labels"),
        ("classify", ["--pooling", "mean", "--bptt", "truncated:4"], "train with --bptt full"),
        ("classify", ["--bidirectional", "--bptt", "truncated:4"], "bidirectional"),
        ("adding", ["--length", "1"], "--length must be at least 2"),
        ("echo", ["--length", "8"], "--length must be at least 9"),
        ("copy", ["--length", "0"], "--length must be at least 1"),
        ("adding", ["--cell", "lst"], "Did you mean 'lstm'"),
        ("adding", ["--cell", "gru", "--forget-bias", "1"], "--forget-bias 1.0 is a setting of lstm"),
        ("adding", ["--bptt", "ful"], "Did you mean 'full'"),
        ("adding", ["--steps", "3", "--minutes", "1"], "the end is one of steps, epochs and minutes"),
        ("adding", ["book.txt"], "unexpected extra argument"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be(
    fails,
    text: Path,
    reviews: Path,
    tmp_path: Path,
    task: str,
    options: list[str],
    line: str,
    small: list[str],
) -> None:
    run = tmp_path / "run"
    data = {"text": ["--data", text, *small], "classify": ["--data", reviews]}.get(task, [])
    said = fails("train", task, *data, *options, "--out", run)
    assert line in said
    assert not run.exists()


def test_files_that_are_no_text(fails, text: Path, tmp_path: Path, small: list[str]) -> None:
    run = tmp_path / "run"
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(b"abc\0def")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "short.txt").write_text("abc abc")
    for name, line in {
        "emty.txt": "emty.txt. Did you mean 'empty.txt'?",
        "nope.txt": "nope.txt. Check its name.",
        "empty.txt": "is empty: expected text; name a file that holds some",
        "binary.txt": "a NUL byte at position 3",
        "latin.txt": "got byte 0xe9 at position 3",
        "short.txt": "the text is too short",
        ".": "expected a file, got a folder",
    }.items():
        assert line in fails("train", "text", "--data", tmp_path / name, *small, "--out", run), name
        assert not run.exists()
    assert "Did you mean 'empty.txt'?" in fails("train", "text", tmp_path / "emty.txt", "--out", run)


def test_tables_that_cannot_be_learned_from(fails, tmp_path: Path) -> None:
    file, run = tmp_path / "table.csv", tmp_path / "run"
    for content, line in {
        "": "the columns are none",
        "text,label\n": "expected labelled examples, found none",
        "text,label\na,b,c\n": "table.csv:2: expected 2 fields (text, label), got 3: ",
        "text,mood\na,b\n": "expected a column 'label' (or category, class, intent), the columns are 'text', 'mood'",
        "text,label\n" + "one,a\n" * 20: "expected at least two labels to tell apart, got 1: a",
        'text,label\n"one,a\n': "expected a closing quote",
    }.items():
        file.write_text(content)
        assert line in fails("train", "classify", "--data", file, "--out", run), content
        assert not run.exists()
    assert "no such file" in fails("train", "classify", "--data", tmp_path / "nope.csv", "--out", run)


def test_files_of_settings_that_cannot_be_read(fails, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    for content, line in {
        "[modle]\n": "Did you mean 'model'?",
        "[model]\nhiden = 3\n": "Did you mean 'hidden'?",
        "[model]\nhidden = true\n": "model.hidden must be",
        "[text]\ntokens = 'chars'\n": "text.tokens must be one of",
        "hidden = 3\n": "got 'hidden'",
        "model = 3\n": "must be a section",
        "[model\n": "c.toml is not TOML: ",
        "training = [1]\n": "must be a section",
        "training = 1\n": "must be a section",
        "task = 'echo'\n": "use 'throughtime train echo'",
    }.items():
        file.write_text(content)
        line_said = fails("train", "text", text, "--config", file, "--out", tmp_path / "run", "--steps", 1)
        assert line in line_said, content
    assert "Did you mean 'c.toml'?" in fails("train", "text", text, "--config", tmp_path / "c.tml")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["txt", "nope", "no/task.py:Task"])
def test_a_task_that_there_is_not(fails, name: str) -> None:
    expected = {
        "txt": "Did you mean 'text'?",
        "nope": "task must be one of text, classify, intent, tag, fill, search, recommend, frames, forecast, "
        "transcribe, adding, copy, echo, "
        "or a file with a class",
        "no/task.py:Task": "cannot read the task file no/task.py: No such file or directory",
    }
    assert expected[name] in fails("train", name)
    assert expected[name] in fails("train", name, "--hidden", 3, "--help")
