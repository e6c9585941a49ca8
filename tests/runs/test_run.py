"""The folder: what makes a run, what is refused, and how each damage is named."""

import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from throughtime.data import Assets, Vocabulary
from throughtime.data.text import Source
from throughtime.errors import InputError, RunError
from throughtime.runs import Run

CONFIG = {
    "seed": 3,
    "model": {"cell": "lstm", "hidden": (7, 13), "tied": None},
    "lr": 1e-3,
    "data": [Path("a b.txt")],
}


@pytest.fixture
def assets():
    return Assets(
        vocabularies={"symbols": Vocabulary.build("char", "the time machine, é")},
        labels={"label": ("é", "x")},
        splits={"train": [0, 2], "test": [1]},
        sources=(Source("a b.txt", "0" * 64, 19),),
        values={"scale": [1.5, None], "name": "é"},
    )


@pytest.fixture
def run(tmp_path, assets):
    return Run.create(tmp_path / "a rün" / "1", CONFIG, assets)


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_open_returns_what_create_was_called_with(tmp_path, kind, assets):
    assets.vocabularies = {"symbols": Vocabulary.build(kind, "the time machine")}
    assets.cache["read"] = "not saved"
    created = Run.create(str(tmp_path / "run"), CONFIG, assets)
    opened = Run.open(str(tmp_path / "run"))
    plain = {"seed": 3, "lr": 1e-3, "data": ["a b.txt"], "model": {"cell": "lstm", "hidden": [7, 13]}}
    assert opened.config == created.config == plain
    assert opened.assets == created.assets == assets
    assert opened.assets.vocabulary == assets.vocabulary
    assert opened.assets.cache == {}
    assert opened.path == tmp_path / "run"
    lines = (opened.path / "config.toml").read_text().splitlines()
    assert lines[:2] == ['format = "throughtime-run"', "version = 2"]


def test_weights_and_checkpoint_come_back(run):
    assert run.load_checkpoint() is None
    with pytest.raises(RunError, match="no weights yet: training was stopped before the first checkpoint"):
        run.load_model()
    weights = torch.nn.GRU(7, 13).state_dict()
    run.save_model(weights)
    run.save_checkpoint({"step": 7, "model": weights})
    again = Run.open(run.path)
    assert again.load_model().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in again.load_model().items())
    assert again.load_checkpoint()["step"] == 7


def test_create_refuses_what_is_in_the_way(tmp_path, run, assets):
    before = sorted(run.path.iterdir())
    with pytest.raises(RunError, match="holds another run; choose another --out, or --resume"):
        Run.create(run.path, {}, assets)
    assert sorted(run.path.iterdir()) == before
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RunError, match="got a file"):
        Run.create(file, {}, assets)
    with pytest.raises(RunError, match="got a file"):
        Run.create(file / "below", {}, assets)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.png").write_text("x")
    with pytest.raises(RunError, match=r"holds other files \(cat.png\)"):
        Run.create(folder, {}, assets)
    assert [entry.name for entry in folder.iterdir()] == ["cat.png"]


def test_a_run_that_lost_its_configuration_is_not_made_anew(run, assets):
    run.save_model({"w": torch.ones(1)})
    (run.path / "config.toml").unlink()
    with pytest.raises(RunError, match=r"holds other files \(model.safetensors\)"):
        Run.create(run.path, {}, assets)
    with pytest.raises(RunError, match=r"is not a run: it has no config.toml"):
        Run.open(run.path)


def test_a_folder_of_runs_names_one_inside_it(run):
    with pytest.raises(RunError, match=rf"it has no config.toml; name one inside it, such as {run.path}$"):
        Run.open(run.path.parent)
    (run.path / "empty").mkdir()
    with pytest.raises(RunError, match=r"it has no config.toml; name the folder of a training, its --out"):
        Run.open(run.path / "empty")


def test_create_continues_what_a_killed_create_left(tmp_path, assets):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".lock", ".assets.json.0a1b2c3d.new", "assets.json"):
        (folder / name).write_text("half")
    with pytest.raises(RunError, match="training never started"):
        Run.open(folder)
    Run.create(folder, CONFIG, assets)
    assert Run.open(folder).assets == assets
    assert sorted(entry.name for entry in folder.iterdir()) == [".lock", "assets.json", "config.toml"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"format": "mine"}, "'format' is a name of the run's own"),
        ({"model": {"x": object()}}, "cannot be written as TOML"),
        ({"x": "\udcff"}, "cannot be written as TOML"),
        ({"x": [1, None]}, "cannot be written as TOML"),
    ],
)
def test_a_configuration_that_is_no_toml_leaves_no_folder(tmp_path, assets, config, message):
    with pytest.raises(InputError, match=message):
        Run.create(tmp_path / "run", config, assets)
    assert not (tmp_path / "run").exists()


def replace(name, old, new):
    def change(path):
        text = (path / name).read_text()
        assert old in text
        (path / name).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("config.toml", "seed = 3", "seed = = 3"), r"config.toml is damaged: .*line 4"),
        (replace("config.toml", '"throughtime-run"', '"other"'), "not the configuration of a run"),
        (
            replace("config.toml", "version = 2", "version = 3"),
            "newer throughtime.*version 3.*up to 2; upgrade",
        ),
        (replace("config.toml", "version = 2", "version = 'x'"), "version must be a number"),
        (replace("config.toml", "assets_sha256", "sha"), "assets_sha256 must be 64"),
        (replace("assets.json", '"é"', '"è"'), "assets.json is damaged or of another run"),
        (lambda path: (path / "assets.json").unlink(), "assets.json is missing"),
        (lambda path: (path / "config.toml").write_bytes(b"\xff\xfe"), "config.toml is damaged"),
        (lambda path: (path / "config.toml").write_bytes(b""), "not the configuration of a run"),
    ],
)
def test_open_names_what_is_wrong(run, change, message):
    change(run.path)
    with pytest.raises(RunError, match=message) as caught:
        Run.open(run.path)
    assert str(run.path) in str(caught.value)


def test_a_run_of_an_older_version_is_refused_in_one_line(run):
    """As version 1 wrote it: another file for the vocabulary, another name for its checksum."""
    text = (run.path / "config.toml").read_text()
    (run.path / "config.toml").write_text(
        text.replace("version = 2", "version = 1").replace("assets_sha256", "vocabulary_sha256")
    )
    (run.path / "assets.json").rename(run.path / "vocabulary.json")
    with pytest.raises(
        RunError,
        match=r"was written by an older throughtime, in version 1 of the format; this one reads version 2: train",
    ) as error:
        Run.open(run.path)
    assert str(run.path / "config.toml") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("splits"), "KeyError"),
        (lambda data: data.update(more=1), "unknown assets: more"),
        (lambda data: data["labels"].update(label=[1]), "a label must be text, got 1"),
        (
            lambda data: data["splits"].update(train=[-1]),
            "the number of an example must be 0 or more, got -1",
        ),
        (lambda data: data["splits"].update(train=[True]), "got True"),
        (lambda data: data.update(sources=[{"path": "x"}]), "TypeError"),
        (lambda data: data.update(vocabularies={"symbols": {}}), "vocabulary"),
        (lambda data: data.update(values=[1]), "expected the JSON of a run's assets"),
    ],
)
def test_assets_with_the_right_checksum_are_checked_too(run, change, message):
    """Written by somebody's own program, which also wrote the checksum."""
    data = json.loads((run.path / "assets.json").read_text())
    change(data)
    text = json.dumps(data, ensure_ascii=False).encode()
    config = (run.path / "config.toml").read_text()
    old, new = (hashlib.sha256(each).hexdigest() for each in ((run.path / "assets.json").read_bytes(), text))
    (run.path / "config.toml").write_text(config.replace(old, new))
    (run.path / "assets.json").write_bytes(text)
    with pytest.raises(RunError, match=message) as error:
        Run.open(run.path)
    assert "\n" not in str(error.value) and "assets.json cannot be read" in str(error.value)


def test_shapes_are_read_without_the_weights(run):
    weights = torch.nn.GRU(7, 13).state_dict()
    with pytest.raises(RunError, match="no weights yet"):
        run.model_shapes()
    run.save_model(weights)
    assert run.model_shapes() == {name: list(value.shape) for name, value in weights.items()}
    path = run.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        run.model_shapes()
    path.unlink()
    run.save_checkpoint({"step": 1})
    with pytest.raises(
        RunError, match=r"has lost its model\.safetensors: put it back, or train again with another --out"
    ):
        run.load_model()


def test_the_model_card_is_written_whole(run):
    run.write_card("# é\n")
    assert (run.path / "README.md").read_text(encoding="utf-8") == "# é\n"


def test_open_names_a_path_that_is_not_a_run(tmp_path):
    with pytest.raises(RunError, match=r"no such run: .*; train one"):
        Run.open(tmp_path / "none")
    with pytest.raises(RunError, match=r"it has no config.toml"):
        Run.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="got a file"):
        Run.open(tmp_path / "file")


def test_no_flipped_bit_passes_open_as_other_assets(run):
    for name in ("assets.json", "config.toml"):
        good = (run.path / name).read_bytes()
        for place in range(len(good)):
            bad = bytearray(good)
            bad[place] ^= 1 << (place % 8)
            (run.path / name).write_bytes(bad)
            try:
                opened = Run.open(run.path)
            except RunError:
                continue
            assert name == "config.toml"  # text that people may edit: a changed setting is a setting
            assert opened.assets == run.assets
        (run.path / name).write_bytes(good)
    assert Run.open(run.path).config == run.config


def test_history_is_appended_read_and_rewound(run):
    assert run.history() == []
    run.rewind_history(3)
    records = [{"step": step, "loss": 1 / (step + 1), "note": "é\n"} for step in range(6)]
    for record in records:
        run.append_history(record)
    run.append_history({"event": "resumed"})
    run.append_history({"step": 9, "loss": float("inf"), "norms": [float("nan"), {"x": -float("inf")}, 2.5]})
    assert run.history()[:6] == records
    assert run.history()[7] == {"step": 9, "loss": None, "norms": [None, {"x": None}, 2.5]}
    with open(run.path / "history.jsonl", "a") as file:
        file.write('{"step": 2, "loss": NaN}\n')  # as earlier versions wrote it
    run.rewind_history(3)
    again = Run.open(run.path).history()
    assert again == [*records[:4], {"event": "resumed"}, {"step": 2, "loss": None}]
    with pytest.raises(InputError, match="must be JSON values"):
        run.append_history({"loss": torch.ones(1)})
    assert len(run.history()) == 6


def test_an_incomplete_last_line_is_not_a_record(run):
    path = run.path / "history.jsonl"
    run.append_history({"step": 1, "loss": 0.5})
    whole = path.read_bytes()
    torn = json.dumps({"step": 2, "loss": 0.25}).encode()
    for length in range(1, len(torn) + 1):
        path.write_bytes(whole + torn[:length])
        assert run.history() == [{"step": 1, "loss": 0.5}]
        run.append_history({"step": 3})
        assert path.read_bytes() == whole + b'{"step": 3}\n'
        path.write_bytes(whole + torn[:length])
        run.rewind_history(2)
        assert path.read_bytes() == whole


def test_a_damaged_line_of_history_is_named(run):
    for step in range(3):
        run.append_history({"step": step})
    for bad in (b"{", b"3", b"\xff", b""):
        lines = (run.path / "history.jsonl").read_bytes().split(b"\n")
        lines[1] = bad
        (run.path / "history.jsonl").write_bytes(b"\n".join(lines))
        with pytest.raises(RunError, match=r"history.jsonl is damaged: line 2"):
            run.history()


@pytest.mark.parametrize(
    "record",
    ['{"step": "one"}', '{"step": null}', '{"loss": [1]}', '{"seconds": true}', '{"metrics": [1]}', '{"metrics": {"a": "b"}}'],
)  # fmt: skip
def test_a_history_value_of_another_type_is_named(run, record):
    (run.path / "history.jsonl").write_text(
        '{"step": 1, "loss": null, "metrics": {"a": null}}\n' + record + "\n"
    )
    with pytest.raises(RunError, match="line 2 has a") as error:
        run.history()
    assert "\n" not in str(error.value)


def test_one_writer_at_a_time(run):
    script = (
        f"import fcntl, time\nfile = open({str(run.path / '.lock')!r}, 'r+')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(60)"
    )
    with run.lock(), pytest.raises(RunError, match="is being written by another training"), run.lock():
        pass
    with run.lock():  # released
        pass
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(RunError, match="wait for it"), run.lock():
            pass
    finally:
        other.kill()
        other.communicate()
    with run.lock():  # a killed process holds nothing
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_one_line(run, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(RunError, match=f"cannot lock .*{os.strerror(code)}.*local disk"), run.lock():
        pass
    monkeypatch.undo()
    with run.lock(), pytest.raises(OSError, match="of the work"):  # not an error of the lock
        raise OSError("of the work")
