"""`init_from`: a training that starts from the weights, vocabulary and labels of another run."""

from __future__ import annotations

import pytest
import torch

from throughtime.errors import InputError, RunError
from throughtime.runs import Run
from throughtime.tasks import ClassifyTask, TextTask
from throughtime.tasks.recorded import model_config_of
from throughtime.training.loop import train


def first_weights(task, config, run):
    """The model before the first step."""
    seen = []

    def sample(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return ""

    train(task, config, run, sample=sample)
    return seen[0]


def test_weights_and_vocabulary_are_copied(make, tmp_path):
    *others, source = make("source")
    train(*others, source)
    other = tmp_path / "other.txt"
    other.write_text("a moment for the traveller " * 100)  # has fewer characters, in another order
    task, config, run = make("run", data=(str(other),), init_from=str(source.path), seed=5)
    assert run.assets.vocabulary == source.assets.vocabulary
    assert TextTask(data=(str(other),)).prepare().vocabulary != source.assets.vocabulary
    start, copied = first_weights(task, config, run), source.load_model()
    assert start.keys() == copied.keys()
    assert all(torch.equal(start[name], copied[name]) for name in copied)
    fresh = first_weights(*make("fresh", data=(str(other),), seed=5))
    assert not all(start[name].shape == fresh[name].shape for name in copied)  # another vocabulary
    assert run.load_model().keys() == copied.keys()
    assert any(not torch.equal(run.load_model()[name], copied[name]) for name in copied)  # it was trained


def test_labels_are_copied(make_classify, table, tmp_path):
    *others, source = make_classify("source")
    train(*others, source)
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("".join(line for line in table.read_text().splitlines(True) if ",b" not in line))
    task, config, run = make_classify("run", data=(str(fewer),), init_from=str(source.path))
    assert ClassifyTask(data=(str(fewer),)).prepare().labels == {"label": ("a", "c")}
    assert run.assets.labels == source.assets.labels == {"label": ("a", "b", "c")}
    start, copied = first_weights(task, config, run), source.load_model()
    assert all(torch.equal(start[name], copied[name]) for name in copied)
    # A class that the model does not know has no output.
    more = tmp_path / "more.csv"
    more.write_text(table.read_text() + "".join(f"dxyz{n},d\n" for n in range(30)))
    with pytest.raises(
        InputError, match=r"the train part has labels that the model cannot give \('d'\)"
    ) as error:
        make_classify("unknown", data=(str(more),), init_from=str(source.path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"hidden": 14}, "layers.weight_ih_l0"),
        ({"embedding": 6}, "embedding.weight"),
        ({"layers": 2}, "layers.weight_ih_l1"),
        ({"cell": "lstm"}, "layers.weight_ih_l0"),
    ],
)
def test_a_model_of_other_sizes_is_refused_before_a_run_is_made(make, settings, name, tmp_path):
    *others, source = make("source", steps=1)
    train(*others, source)
    with pytest.raises(
        RunError, match=rf"init_from needs a model of the same settings and vocabulary: {name}"
    ) as error:
        make("run", init_from=str(source.path), **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_there_or_has_no_weights(make, tmp_path):
    with pytest.raises(RunError, match="no such run"):
        make("a", init_from=str(tmp_path / "none"))
    assert not (tmp_path / "a").exists()
    *_, source = make("source")
    with pytest.raises(RunError, match="no weights yet"):
        make("b", init_from=str(source.path))
    assert not (tmp_path / "b").exists()


def test_a_resumed_training_does_not_start_from_them_again(make, weights, Recording):
    *others, source = make("source")
    train(*others, source)
    task, config, run = make("run", init_from=str(source.path), checkpoint_steps=4)
    train(task, config, run)
    before = weights(run)
    assert run.config["training"]["init_from"] == str(source.path.resolve())
    source.save_model({name: torch.zeros_like(value) for name, value in source.load_model().items()})
    train(task, config, Run.open(run.path), resume=True)
    assert weights(run) == before
    assert model_config_of(run) == model_config_of(source)
