"""Settings from tables and back; a mistake is one line that names the nearest right word."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w

from throughtime.errors import InputError
from throughtime.models import ModelConfig, settings_from, settings_to_dict
from throughtime.tasks import TextConfig
from throughtime.training import TrainingConfig

KINDS = (TextConfig, ModelConfig, TrainingConfig)


def test_what_is_written_is_read_back_through_toml():
    configs = (
        TextConfig(data=("a.txt", "b.txt"), tokens="bpe", vocab_size=300, validation=0),
        ModelConfig(cell="gru", hidden=(13, 7), layers=2, embedding="onehot", reset_after=False),
        TrainingConfig(lr=1, epochs=500, betas=(0.8, 0.95), clip="value:0.1", weight_decay=0.2),
    )
    text = tomli_w.dumps(settings_to_dict(*configs))
    assert settings_from(tomllib.loads(text), *KINDS) == configs


def test_what_is_left_out_keeps_its_default():
    assert settings_from({}, *KINDS) == (TextConfig(), ModelConfig(), TrainingConfig())
    (model,) = settings_from({"model": {"hidden": 9}}, ModelConfig)
    assert model == ModelConfig(hidden=9)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"modle": {}},
            r"sections are \[text\], \[model\], \[training\], got 'modle'. Did you mean 'model'\?",
        ),
        ({"model": 3}, r"\[model\] must be a section with settings, got model = 3"),
        ({"model": {"hiden": 3}}, r"\[model\] has no setting 'hiden'. Did you mean 'hidden'\?"),
        ({"model": {"section": "x"}}, r"\[model\] has no setting 'section'"),
        ({"model": {"layers": "two"}}, "model.layers must be a whole number, got 'two'"),
        ({"model": {"layers": True}}, "model.layers must be a whole number, got True"),
        ({"model": {"layers": 1.5}}, "model.layers must be a whole number, got 1.5"),
        ({"model": {"tied": 1}}, "model.tied must be true or false, got 1"),
        ({"model": {"hidden": [8, "x"]}}, "model.hidden must be a whole number, got 'x'"),
        ({"model": {"embedding": []}}, r"model.embedding must be a whole number or text, got \[\]"),
        ({"training": {"epochs": "many"}}, "training.epochs must be a number, got 'many'"),
        ({"model": {"cell": "lsmt"}}, "cell must be one of .*, got 'lsmt'. Did you mean 'lstm'"),
    ],
)
def test_a_mistake_is_named(tables, message):
    with pytest.raises(InputError, match=message) as error:
        settings_from(tables, *KINDS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"hidden": ()}, r"hidden must be at least 1, got \(\)"),
        ({"hidden": (4, -1), "layers": 2}, "hidden must be at least 1"),
        ({"hidden": (4, 5, 6), "layers": 2}, "one size or one for each of 2 layers, got 3"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"embedding": 0}, "embedding must be at least 1, or onehot, got 0"),
        ({"embedding": "one-hot"}, "embedding must be one of onehot, got 'one-hot'. Did you mean 'onehot'"),
        ({"dropout": 1.0}, "dropout must be a share from 0 up to 1, got 1.0"),
        ({"zoneout": -0.1}, "zoneout must be a share"),
        ({"cell": "gru", "forget_bias": 1.0}, "forget_bias = 1.0 is a setting of lstm; gru has none"),
        (
            {"cell": "mingru", "layer_norm": True},
            "layer_norm = True is a setting of rnn, gru, lstm; mingru has none",
        ),
        ({"tied": True, "embedding": "onehot"}, "tied needs a learned embedding, got onehot"),
        ({"tied": True, "embedding": 13, "hidden": 26}, "as wide as the last layer's output, 26, got 13"),
        ({"tied": True, "embedding": 13, "hidden": 13, "bidirectional": True}, "output, 26, got 13"),
    ],
)
def test_a_model_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ModelConfig(**settings)


def test_sizes_of_each_layer():
    assert ModelConfig(hidden=13, layers=3).sizes == (13, 13, 13)
    assert ModelConfig(hidden=(13, 7)).sizes == (13, 7)
    assert ModelConfig(hidden=[13, 7], layers=2).hidden == (13, 7)
