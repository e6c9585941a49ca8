"""Evaluation: one loss for all targets, whatever the windows, and no trace left in the model or the random numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from throughtime.data import evaluation_windows
from throughtime.data.batch import Batch
from throughtime.errors import InputError
from throughtime.metrics import Accuracy, Bits, MeanLoss, Perplexity
from throughtime.models.build import many_to_many, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.tasks import TextTask
from throughtime.tasks.recorded import model_config_of
from throughtime.training.evaluation import Evaluation, evaluate
from throughtime.training.loop import train
from throughtime.training.reporting import Silent

V = 9


def summed(outputs, batch):
    return F.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), reduction="sum", ignore_index=-100)


def summed_over(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum")


@pytest.fixture
def model():
    torch.manual_seed(1)
    config = ModelConfig(cell="gru", hidden=13, embedding=4, dropout=0.5)
    made = many_to_many(config, symbol_embedding(config, V), V).double()
    for parameter in made.parameters():
        parameter.data *= 4  # so that the state matters
    return made


def test_the_windows_do_not_matter(model):
    ids = torch.randint(V, (60,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits, _ = model.eval()(ids[:-1, None])
        expected = summed_over(logits, ids[1:, None]).item() / 59
    for steps in (1, 7, 59, 100):
        found = evaluate(model, evaluation_windows(ids, steps, 1), summed)
        assert found.count == 59
        assert found.loss == pytest.approx(expected, rel=1e-12)
    # The mean of the windows' means is another number.
    wrong = [evaluate(model, [w._replace(reset=True)], summed).loss for w in evaluation_windows(ids, 7, 1)]
    assert sum(wrong) / len(wrong) != pytest.approx(expected, rel=1e-3)


def test_masked_targets_do_not_count(model):
    ids = torch.randint(V, (60,), generator=torch.Generator().manual_seed(2))
    found = evaluate(model, evaluation_windows(ids, 7, 8), summed)
    streams = [ids[start : min(start + 9, 60)] for start in range(0, 59, 8)]
    total = sum(summed_over(model.eval()(s[:-1, None])[0], s[1:, None]).item() for s in streams)
    assert (found.count, found.loss) == (59, pytest.approx(total / 59, rel=1e-12))


def test_it_leaves_no_trace(model):
    model.train()
    before = torch.get_rng_state()
    evaluate(model, evaluation_windows(torch.arange(9).repeat(3), 5, 2), summed)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_to_evaluate(model):
    with pytest.raises(InputError, match="at least one target to evaluate, got none"):
        evaluate(model, [], summed)


def test_a_loss_as_bits_and_perplexity():
    batch = Batch(torch.zeros(1, 5), torch.zeros(1, 5, dtype=torch.long), num_targets=5)
    for loss, bits, perplexity in ((math.log(8), 3, 8), (1e4, 1e4 / math.log(2), math.inf)):
        found = [Bits(), Perplexity()]
        for metric in found:
            metric.update(None, batch, torch.tensor(5 * loss, dtype=torch.float64))
        assert [metric.value() for metric in found] == pytest.approx([bits, perplexity])
    assert Evaluation(1.5, 5).values == {"loss": 1.5} and Evaluation(1.5, 5).main == 1.5


def test_the_first_metric_decides_which_is_better():
    def with_accuracy(right, loss):
        metric = Accuracy()
        metric.totals += torch.tensor([right, 10.0], dtype=torch.float64)
        return Evaluation(loss, 10, (metric,))

    assert with_accuracy(6, 9.0).better_than(with_accuracy(5, 1.0))
    assert not with_accuracy(5, 1.0).better_than(with_accuracy(5, 2.0))
    assert with_accuracy(0, 9.0).better_than(None)
    assert not with_accuracy(math.nan, 0.0).better_than(with_accuracy(0, 9.0))
    assert Evaluation(1.0, 5).better_than(Evaluation(1.5, 5)) and not Evaluation(math.nan, 5).better_than(
        Evaluation(9.0, 5)
    )


def test_totals_of_two_halves_add_up_to_the_whole(model):
    ids = torch.randint(V, (61,), generator=torch.Generator().manual_seed(2))
    batches = [batch._replace(reset=True) for batch in evaluation_windows(ids, 7, 3)]
    metrics = lambda: [Perplexity(), Accuracy(), MeanLoss()]  # noqa: E731
    whole = evaluate(model, batches, summed, metrics())
    parts = [evaluate(model, part, summed, metrics()) for part in (batches[:2], batches[2:])]
    assert parts[0].values != parts[1].values
    found = parts[0] + parts[1]
    assert found.count == whole.count == 60
    for name, value in whole.values.items():
        assert found.values[name] == pytest.approx(value, rel=1e-12)
    assert list(whole.values) == ["perplexity", "accuracy", "loss"]


def test_float64_stays_float64_in_the_loss_and_the_metrics(model):
    """To 12 digits: float32 has 7."""
    ids = torch.randint(V, (61,), generator=torch.Generator().manual_seed(2))
    seen = []

    def loss(outputs, batch):
        seen.append(outputs.dtype)
        return TextTask().loss(outputs, batch)

    found = evaluate(model, evaluation_windows(ids, 7, 3), loss, [MeanLoss(), Perplexity()])
    exact = evaluate(model, evaluation_windows(ids, 7, 3), summed)
    assert set(seen) == {torch.float64}
    assert found.loss == pytest.approx(exact.loss, rel=1e-13)
    assert found.values["loss"] == pytest.approx(exact.loss, rel=1e-13)
    assert found.values["perplexity"] == pytest.approx(math.exp(exact.loss), rel=1e-12)


def frozen_in_eval_mode(model):
    """In training mode, one submodule in eval mode: the modes of all modules."""
    model.train()
    model.layers.eval()
    return [module.training for module in model.modules()]


def test_each_submodule_keeps_its_mode(model):
    modes = frozen_in_eval_mode(model)
    assert len(set(modes)) == 2
    evaluate(model, evaluation_windows(torch.arange(9).repeat(3), 5, 2), summed)
    assert [module.training for module in model.modules()] == modes

    class Broken(Exception):
        pass

    def fails(outputs, batch):
        assert not any(module.training for module in model.modules())
        raise Broken

    with pytest.raises(Broken):
        evaluate(model, evaluation_windows(torch.arange(9).repeat(3), 5, 2), fails)
    assert [module.training for module in model.modules()] == modes


class Frozen(TextTask):
    """A model with layers that are in eval mode while the rest trains."""

    def build(self, config, assets):
        model = super().build(config, assets)
        frozen_in_eval_mode(model)
        return model


def test_training_keeps_the_mode_of_each_submodule(make):
    """Through evaluations, samples, the final table and the measurement of gradient flow."""
    task, config, run = make(steps=12, evaluate_every=3, watch=4, dropout=0.5)
    frozen, trained = Frozen(**vars(task)), []

    def sample(model):
        trained.append(model)
        assert not any(module.training for module in model.modules())
        return "x"

    train(frozen, config, run, sample=sample, report=Silent())
    after = [module.training for module in trained[0].modules()]
    assert after == frozen_in_eval_mode(trained[0])


def test_the_loss_of_ragged_batches_does_not_depend_on_their_size(make_classify):
    task, _, run = make_classify(validation=0.4)
    model = task.build(model_config_of(run), run.assets).double()
    found = []
    for batch in (1, 4, 7, 100):
        batches = task.evaluation_batches(run.assets, "validation", steps=64, batch=batch)
        found.append(evaluate(model, batches, task.loss, task.metrics(run.assets)))
    assert {each.count for each in found} == {len(run.assets.splits["validation"])}
    for each in found[1:]:
        assert each.loss == pytest.approx(found[0].loss, rel=1e-12)
        assert each.values["accuracy"] == found[0].values["accuracy"]
        assert each.values["macro_f1"] == pytest.approx(found[0].values["macro_f1"], rel=1e-12)
