"""Options: what a field accepts, from Python, from a TOML file and from the command line; a mistake is one line."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
import tomllib
from dataclasses import dataclass

import pytest
import tomli_w

import throughtime
from throughtime.errors import InputError, RunError
from throughtime.models.config import CELLS, INITS, LARGEST, ModelConfig
from throughtime.options import WHOLE, Settings, default_text, fields_of, from_tables, option, parse
from throughtime.runs import Run
from throughtime.tasks import TextTask
from throughtime.tasks.recorded import model_config_of, restore_model, task_of
from throughtime.tasks.registry import BUILT_IN, find_task
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

KINDS = (TextTask, ModelConfig, TrainingConfig)
EVERY = (*(find_task(name).kind for name in BUILT_IN), ModelConfig, TrainingConfig)


def check_even(value, name):
    if value % 2:
        raise InputError(f"{name} must be even, got {value}")


@dataclass(frozen=True)
class Every(Settings):
    """A field of each hint that a setting may have."""

    section = "every"

    whole: int = option(3, "", low=1, high=9)
    number: float = option(0.5, "", above=0, below=2)
    text: str = option("a", "")
    choice: str = option("red", "", choices=("red", "green"))
    flag: bool = option(False, "")
    maybe: int | None = option(None, "", low=0)
    maybe_number: float | None = option(None, "")
    maybe_text: str | None = option(None, "")
    names: tuple[str, ...] = option((), "")
    numbers: tuple[float, ...] = option((0.1, 0.2), "", low=0, below=1)
    sizes: int | tuple[int, ...] = option(4, "", low=1, high=9)
    size_or_word: int | str = option(4, "", choices=("all",), low=1, high=9)
    fraction_or_file: float | str = option(0.1, "", low=0, below=1)
    even: int = option(2, "", check=check_even)


GOOD = [
    ("whole", 9, 9),
    ("number", 1, 1.0),  # a whole number is a number
    ("text", "", ""),
    ("choice", "green", "green"),
    ("flag", True, True),
    ("maybe", 0, 0),
    ("maybe", None, None),
    ("maybe_number", 2, 2.0),
    ("maybe_text", "x", "x"),
    ("names", ["a", "b"], ("a", "b")),
    ("names", [], ()),
    ("numbers", [0, 0.5], (0.0, 0.5)),
    ("sizes", 9, 9),
    ("sizes", [1, 2, 3], (1, 2, 3)),
    ("size_or_word", "all", "all"),
    ("size_or_word", 1, 1),
    ("fraction_or_file", "x.txt", "x.txt"),
    ("fraction_or_file", 0, 0.0),
    ("even", 4, 4),
]
BAD = [
    ("whole", 0, "at least 1 and at most 9, got 0"),
    ("whole", 10, "at least 1 and at most 9, got 10"),
    ("whole", 2.0, "a whole number, got 2.0"),
    ("whole", True, "a whole number, got True"),
    ("whole", "3", "a whole number, got '3'"),
    ("whole", None, "a whole number, got None"),
    ("whole", [3], r"a whole number, got \[3\]"),
    ("number", 0.0, "above 0 and below 2, got 0.0"),
    ("number", 2, "above 0 and below 2, got 2.0"),
    ("number", math.nan, "above 0 and below 2, got nan"),
    ("number", "1", "a number, got '1'"),
    ("number", True, "a number, got True"),
    ("number", 10**400, "a number that a float can hold, got one of 401 digits"),
    ("text", 1, "text, got 1"),
    ("choice", "rde", "one of red, green, got 'rde'. Did you mean 'red'"),
    ("choice", "", "one of red, green, got ''"),
    ("flag", 1, "true or false, got 1"),
    ("flag", "true", "true or false, got 'true'"),
    ("maybe", -1, "at least 0, got -1"),
    ("maybe", 2**63, f"at least 0, got {2**63}"),  # larger than JSON and float64 hold exactly
    ("maybe_number", math.inf, "a finite number, got inf"),
    ("maybe_number", math.nan, "a finite number, got nan"),
    ("names", ["a", 1], "text, got 1"),
    ("names", "a", "a list, each item text, got 'a'"),
    ("numbers", [0.1, 1.0], "at least 0 and below 1, got 1.0"),
    ("numbers", [], r"a list, each item a number, got \[\]"),
    ("sizes", [], r"a whole number or a list, each item a whole number, got \[\]"),
    ("sizes", [1, 0], "at least 1 and at most 9, got 0"),
    ("sizes", [1, [2]], "whole number"),
    ("size_or_word", "none", "one of a whole number, all, got 'none'"),
    ("size_or_word", 0, "at least 1"),
    ("fraction_or_file", 1.0, "at least 0 and below 1, got 1.0"),
    ("even", 3, "must be even, got 3"),
]


@pytest.mark.parametrize(("name", "value", "kept"), GOOD)
def test_every_kind_of_hint(name, value, kept):
    found = Every(**{name: value})
    assert getattr(found, name) == kept and type(getattr(found, name)) is type(kept)
    if value is not None:
        assert Every.from_table({name: value}) == found
        assert Every.from_table(tomllib.loads(tomli_w.dumps(found.to_table()))) == found


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_what_a_hint_or_a_range_refuses(name, value, message):
    with pytest.raises(InputError, match=f"^{name} must be .*{message}|^{name} {message}") as error:
        Every(**{name: value})
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=rf"^every\.{name} must be .*{message}|^every\.{name} {message}"):
        Every.from_table({name: value})


@pytest.mark.parametrize(
    ("name", "texts", "value"),
    [
        ("whole", ["7"], 7),
        ("whole", ["7", "8"], 8),  # given twice: the last
        ("number", ["1e-3"], 1e-3),
        ("text", ["7"], "7"),
        ("maybe", ["7"], 7),
        ("names", ["a", "b,c"], ("a", "b,c")),
        ("numbers", ["0.1,0.9"], (0.1, 0.9)),
        ("numbers", ["0.1"], (0.1,)),
        ("sizes", ["3"], 3),
        ("sizes", ["3,4"], (3, 4)),
        ("size_or_word", ["3"], 3),
        ("size_or_word", ["all"], "all"),
        ("fraction_or_file", ["0.5"], 0.5),
        ("fraction_or_file", ["0.5.txt"], "0.5.txt"),
    ],
)
def test_what_is_typed(name, texts, value):
    (field,) = (each for each in fields_of(Every) if each.name == name)
    found = parse(field, texts, f"--{name}")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("whole", "1.5", "--whole must be a whole number, got '1.5'"),
        ("whole", "", "--whole must be a whole number, got ''"),
        ("number", "x", "--number must be a number, got 'x'"),
        ("sizes", "3,x", "--sizes must be a whole number or a list, each item a whole number, got 'x'"),
        ("sizes", "3,", "got ''"),
        ("numbers", "0.1;0.2", "--numbers must be a list, each item a number, got '0.1;0.2'"),
    ],
)
def test_what_cannot_be_typed(name, text, message):
    (field,) = (each for each in fields_of(Every) if each.name == name)
    with pytest.raises(InputError, match=message):
        parse(field, [text], f"--{name}")


def test_the_default_as_the_help_shows_it():
    texts = {field.name: default_text(field) for field in fields_of(Every)}
    assert texts == {
        "whole": "3", "number": "0.5", "text": "a", "choice": "red", "flag": "", "maybe": "", "maybe_number": "",
        "maybe_text": "", "names": "", "numbers": "0.1,0.2", "sizes": "4", "size_or_word": "4", "fraction_or_file": "0.1",
        "even": "2",
    }  # fmt: skip


@pytest.mark.parametrize("kind", EVERY)
def test_every_option_of_the_package_has_a_help_text_and_a_default_that_it_accepts(kind):
    for field in fields_of(kind):
        assert field.option.help.endswith(")" if field.option.help.endswith(")") else "."), field.name
    assert kind.from_table(kind().to_table()) == kind()


def test_what_is_written_is_read_back_through_toml():
    configs = (
        TextTask(data=("a.txt", "b.txt"), tokens="bpe", vocab_size=300, validation=0, test="c.txt"),
        ModelConfig(cell="gru", hidden=(13, 7), layers=2, embedding="onehot", reset_before=True),
        TrainingConfig(lr=1, epochs=500, betas=(0.8, 0.95), clip="value:0.1", weight_decay=0.2),
    )
    text = tomli_w.dumps({each.section: each.to_table() for each in configs})
    assert from_tables(tomllib.loads(text), *KINDS) == configs


def test_what_is_left_out_keeps_its_default():
    assert from_tables({}, *KINDS) == (TextTask(), ModelConfig(), TrainingConfig())
    (model,) = from_tables({"model": {"hidden": 9}}, ModelConfig)
    assert model == ModelConfig(hidden=9)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"modle": {}}, r"sections are \[text\], \[model\], \[training\], got 'modle'. Did you mean 'model'\?"),
        ({"model": 3}, r"\[model\] must be a section with settings, got model = 3"),
        ({"model": {"hiden": 3}}, r"\[model\] has no setting 'hiden'. Did you mean 'hidden'\?"),
        ({"model": {"section": "x"}}, r"\[model\] has no setting 'section'"),
        ({"text": {"name": "x"}}, r"\[text\] has no setting 'name'"),
        ({"model": {"layers": "two"}}, "model.layers must be a whole number, got 'two'"),
        ({"model": {"layers": True}}, "model.layers must be a whole number, got True"),
        ({"model": {"layers": 1.5}}, "model.layers must be a whole number, got 1.5"),
        ({"model": {"tied": 1}}, "model.tied must be true or false, got 1"),
        ({"model": {"hidden": [8, "x"]}}, "model.hidden must be a whole number, got 'x'"),
        ({"model": {"embedding": []}}, r"model.embedding must be a whole number or text, got \[\]"),
        ({"training": {"epochs": "many"}}, "training.epochs must be a number, got 'many'"),
        ({"model": {"cell": "lsmt"}}, "model.cell must be one of .*, got 'lsmt'. Did you mean 'lstm'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_named(tables, message):
    with pytest.raises(InputError, match=message) as error:
        from_tables(tables, *KINDS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1 and at most 65,536, got 0"),
        ({"hidden": ()}, r"hidden must be a whole number or a list, each item a whole number, got \(\)"),
        ({"hidden": (4, -1), "layers": 2}, "hidden must be at least 1"),
        ({"hidden": (4, 5, 6), "layers": 2}, "one size or one for each of 2 layers, got 3"),
        ({"layers": 0}, "layers must be at least 1 and at most 1,000, got 0"),
        ({"embedding": 0}, "embedding must be at least 1 and at most 65,536, got 0"),
        ({"embedding": "one-hot"}, "embedding must be one of a whole number, onehot, got 'one-hot'. Did you mean 'onehot'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"zoneout": -0.1}, "zoneout must be at least 0 and below 1, got -0.1"),
        ({"cell": "gru", "forget_bias": 1.0}, "forget_bias = 1.0 is a setting of lstm; gru has none"),
        ({"cell": "mingru", "layer_norm": True}, "layer_norm = True is a setting of rnn, gru, lstm; mingru has none"),
        ({"tied": True, "embedding": "onehot"}, "tied needs a learned embedding, got onehot"),
        ({"tied": True, "embedding": 13, "hidden": 26}, "as wide as the last layer's output, 26, got 13"),
        ({"tied": True, "embedding": 14, "hidden": 13, "bidirectional": True}, "output, 26, got 14"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message) as error:
        ModelConfig(**settings)
    assert "\n" not in str(error.value)


def test_sizes_of_each_layer():
    assert ModelConfig(hidden=13, layers=3).sizes == (13, 13, 13)
    assert ModelConfig(hidden=(13, 7)).sizes == (13, 7)
    assert ModelConfig(hidden=[13, 7], layers=2).hidden == (13, 7)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().hidden = 3


# Values that a hand may write into the config.toml of a run, by section.
HOSTILE = [
    *(
        ("model", name, value)
        for name, value in (
            ("hidden", 2147483648),
            ("hidden", 2**63),
            ("hidden", LARGEST + 1),
            ("hidden", [2147483648]),
            ("hidden", -1),
            ("hidden", "512"),
            ("hidden", []),
            ("layers", 2147483648),
            ("layers", 10**9),
            ("embedding", 2**62),
            ("forget_bias", 1e308),
            ("forget_bias", math.nan),
            ("dropout", math.nan),
            ("cell", "../lstm"),
            ("cell", 3),
            ("unknown", 3),
        )
    ),
    *(
        ("training", name, value)
        for name, value in (
            *(("batch", value) for value in ("", math.nan, math.inf, [], 2**40, 2**63, 0, 1.5, True)),
            ("lr", 1e308),
            ("lr", math.nan),
            ("lr", 10**400),
            ("warmup", 1e308),
            ("warmup", math.inf),
            ("window", 2**63),
            ("steps", 2**63),
            ("epochs", 1e308),
            ("seed", 2**63),
            ("betas", []),
            ("betas", [0.9]),
            ("clip", "norm:nan"),
            ("unknown", 3),
        )
    ),
    *(("text", name, value) for name, value in (("validation", 1e308), ("limit", 2**63), ("vocab_size", 2**63), ("data", "x"))),
]  # fmt: skip


def identify(case):
    return f"{case[0]}.{case[1]}={str(case[2])[:12]}"


@pytest.mark.parametrize(("section", "name", "value"), HOSTILE, ids=map(identify, HOSTILE))
def test_a_value_that_cannot_be_is_refused_when_settings_are_built(section, name, value):
    (kind,) = (each for each in KINDS if each.section == section)
    with pytest.raises(InputError) as error:
        kind.from_table({name: value})
    assert name in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300
    if name != "unknown":
        with pytest.raises(InputError, match=name):
            kind(**{name: value})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a very small model."""
    folder = tmp_path_factory.mktemp("options")
    text = folder / "text.txt"
    text.write_text("the time traveller " * 60)
    task, run = start_run(
        TextTask(data=(str(text),)),
        ModelConfig(hidden=5, embedding=3, cell="lstm", forget_bias=1.0),
        TrainingConfig(steps=1, batch=2, window=4, no_baselines=True),
        folder / "run",
    )
    train(task, TrainingConfig.from_table(run.config["training"]), run)
    return run.path, tomllib.loads((run.path / "config.toml").read_text())


@pytest.fixture
def edit(trained):
    """Change a setting in the run's config.toml, for the length of a test."""
    path, before = trained
    text = (path / "config.toml").read_text()

    def edited(section, name, value):
        tables = {**before, section: {**before[section], name: value}}
        (path / "config.toml").write_text(tomli_w.dumps(tables))
        return path

    yield edited
    (path / "config.toml").write_text(text)


@pytest.mark.parametrize(("section", "name", "value"), HOSTILE, ids=map(identify, HOSTILE))
def test_a_run_with_such_a_value_is_refused_in_one_line(edit, section, name, value):
    path = edit(section, name, value)
    run = Run.open(path)  # what is in the tables is read later
    readers = {
        "model": model_config_of,
        "text": task_of,
        "training": lambda run: throughtime.load(run.path).training,
    }
    with pytest.raises(RunError, match=r"config\.toml is damaged: ") as error:
        readers[section](run)
    assert name in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    if section != "training":
        with pytest.raises(RunError, match=r"config\.toml is damaged: "):
            throughtime.load(path)


@pytest.mark.parametrize("section", ["text", "model"])
@pytest.mark.parametrize("value", [3, "x", [], None])
def test_a_run_without_a_section_is_refused(trained, edit, section, value):
    path, tables = trained
    edit("model", "hidden", 5)  # restores the file afterwards
    tables = {name: table for name, table in tables.items() if name != section}
    (path / "config.toml").write_text(tomli_w.dumps(tables if value is None else {section: value, **tables}))
    with pytest.raises(RunError, match=rf"config\.toml is damaged: it has no section \[{section}\]"):
        throughtime.load(path)


@pytest.mark.parametrize(
    ("name", "value", "parameter"),
    [
        ("hidden", 60_000, "layers.weight_ih_l0"),
        ("hidden", 6, "layers.weight_ih_l0"),
        ("embedding", 65_536, "embedding.weight"),
        ("layers", 1000, "layers.weight_ih_l1"),
        ("hidden", [60_000, 60_000], "layers.weight_ih_l0"),
        ("cell", "gru", None),
        ("bidirectional", True, "layers.weight_ih_l0_reverse"),
    ],
)
def test_sizes_are_held_against_the_weights_file(edit, name, value, parameter):
    path = edit("model", name, value)
    if name == "cell":
        with pytest.raises(RunError, match=r"forget_bias = 1\.0 is a setting of lstm; gru has none"):
            throughtime.load(path)
        return
    run = Run.open(path)
    with pytest.raises(
        RunError, match=rf"are not those of its config\.toml: {parameter} should be \["
    ) as error:
        restore_model(run, task_of(run))
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match=parameter):
        _ = throughtime.load(path).model


def test_and_before_anything_large_is_allocated(edit):
    """60,000 units are 57 GiB of weights: the check takes less than 200 MiB."""
    path = edit("model", "hidden", 60_000)
    code = (
        "import json, resource, sys, throughtime, torch\n"
        "from throughtime.tasks.recorded import restore_model, task_of\n"
        "from throughtime.runs import Run\n"
        "run = Run.open(sys.argv[1]); task = task_of(run)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    restore_model(run, task)\n    message = ''\n"
        "except throughtime.RunError as error:\n    message = str(error)\n"
        "print(json.dumps([message, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    ).stdout
    message, kilobytes = json.loads(out)
    assert "layers.weight_ih_l0 should be [240000, 3], and is [20, 3]" in message
    assert kilobytes < 200 * 1024


def test_the_largest_whole_number_without_a_range_is_held_exactly():
    assert Every(maybe=WHOLE).maybe == WHOLE == int(float(WHOLE))
    with pytest.raises(InputError):
        Every(maybe=WHOLE + 1)


@pytest.mark.parametrize(("cell", "init"), list(itertools.product(CELLS, INITS)))
def test_every_pair_of_choices_is_built_or_refused_in_words(cell, init):
    if cell in ("rnn", "gru", "lstm") or init == ModelConfig.init:
        assert ModelConfig(cell=cell, init=init).init == init
    else:
        with pytest.raises(
            InputError, match=f"init = {init} is a setting of rnn, gru, lstm; {cell} has none"
        ):
            ModelConfig(cell=cell, init=init)
