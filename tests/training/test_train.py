"""The loop: what a step is, what is carried, what is written."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from throughtime.errors import InputError
from throughtime.tasks.recorded import model_config_of
from throughtime.training import TrainingConfig
from throughtime.training.loop import check, train
from throughtime.training.schedule import factor
from throughtime.training.spikes import Diverged


def test_it_is_the_loop_that_one_would_write(make):
    """Against a loop with nothing of ours but the model: window, clip, step, with the state carried."""
    task, config, run = make(validation=0, clip="norm:0.3", optimizer="sgd", lr=2.0, epochs=2.5, warmup=3.0)
    result = train(task, config, run)

    torch.manual_seed(config.seed)
    model = task.build(model_config_of(run), run.assets)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    streams = task.batches(run.assets, steps=7, batch=4, seed=0)
    steps, total, length = 0, round(2.5 * len(streams)), len(streams)
    norms, losses = [], []
    while steps < total:
        state = None
        for batch in streams.epoch():
            assert batch.reset == (state is None)
            logits, state = model(batch.inputs, state)
            loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
            loss.backward()
            state = state.detach()
            norms.append(math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters())))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            optimizer.param_groups[0]["lr"] = 2.0 * factor("cosine", 3.0, steps / length / 2.5, steps)
            optimizer.step()
            optimizer.zero_grad()
            losses.append((loss.item(), batch.targets.numel()))
            steps += 1
            if steps == total:
                break

    assert (result.step, result.epoch) == (total, pytest.approx(2.5, abs=1 / length))
    assert result.targets == sum(count for _, count in losses)
    for name, value in run.load_model().items():
        # float32, and torch's clipping adds 1e-6 to the norm that it divides by.
        torch.testing.assert_close(value, model.state_dict()[name], atol=2e-4, rtol=0)
    records = [record for record in run.history() if record["kind"] == "training"]
    assert records[0]["gradient_norm"] == pytest.approx(sum(norms[:5]) / 5, rel=1e-4)
    assert records[0]["gradient_norm_max"] == pytest.approx(max(norms[:5]), rel=1e-4)
    assert records[0]["clipped"] == sum(norm > 0.3 for norm in norms[:5]) / 5
    counts = sum(count for _, count in losses[:5])
    mean = sum(loss * count for loss, count in losses[:5]) / counts
    assert records[0]["loss"] == pytest.approx(mean, rel=1e-4)
    assert task.describe_loss(mean) == f"loss {mean:.3f}, {mean / math.log(2):.3f} bits per character"
    assert [record["step"] for record in records] == [*range(5, total, 5), total]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(make, weights, without_times):
    settings = {"dropout": 0.3, "bptt": "randomized:5", "layers": 2, "evaluate_every": 6}
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        task, config, run = make(name, seed=seed, **settings)
        train(task, config, run)
        found.append((weights(run), without_times(run.history())))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


def test_evaluating_saving_and_sampling_change_nothing(make, weights, Recording):
    """Evaluating, saving and sampling draw no random number that the training would have drawn."""
    plain = make("plain", dropout=0.3, evaluate_every=10**6, keep="last")
    train(*plain)
    busy = make("busy", dropout=0.3, evaluate_every=3, checkpoint_steps=2, keep="last")

    def sample(model):
        assert not model.training
        return str(torch.rand(3).tolist())

    report = Recording()
    train(*busy, report=report, sample=sample)
    assert len(report.samples) == 20 // 3 + 2  # before, each third step, and at the end
    assert weights(plain[2]) == weights(busy[2])


def test_a_loss_that_is_not_finite_stops_it(make):
    settings = {
        "cell": "rnn",
        "nonlinearity": "identity",
        "optimizer": "sgd",
        "schedule": "constant",
        "warmup": 0.0,
    }
    task, config, run = make(**settings, lr=1e4, clip="none", checkpoint_steps=1, steps=50, validation=0)
    with pytest.raises(Diverged) as error:
        train(task, config, run)
    assert "gradient norms of the steps before: " in str(error.value)
    assert "clip = norm:1" in str(error.value)
    saved = run.load_checkpoint()
    assert f"at step {saved['steps'] + 1}:" in str(error.value)
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_minutes_end_it(make):
    task, config, run = make(minutes=0.005)
    result = train(task, config, run)
    assert 0.3 <= result.seconds < 5
    assert result.step >= 1
    assert [record for record in run.history() if "lr" in record][-1][
        "lr"
    ] < 0.5 * config.lr  # the schedule follows the clock


def test_bfloat16_forward_float32_weights(make):
    task, config, run = make(precision="bf16", cell="lstm", bptt="truncated:3")
    other = make("fp32", cell="lstm", bptt="truncated:3")
    result, reference = train(task, config, run), train(*other)
    assert all(value.dtype == torch.float32 for value in run.load_model().values())
    assert result.loss != reference.loss
    assert result.loss == pytest.approx(reference.loss, rel=0.02)  # bfloat16 has 8 bits


def test_what_can_be_known_before_a_run_is_made(make):
    task, config, run = make()
    model, assets = model_config_of(run), run.assets
    check(task, model, config, assets)
    with pytest.raises(InputError, match="Did you mean 'truncated'"):
        check(task, model, TrainingConfig(bptt="trunkated:3"), assets)
    with pytest.raises(InputError, match=r"\d+ streams of one window of 64 steps need"):
        check(task, model, TrainingConfig(batch=100), assets)
    with pytest.raises(InputError, match="device must be auto, cpu, cuda"):
        check(task, model, TrainingConfig(device="gpu0"), assets)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device cuda:0 is not on this machine, which has cpu"):
            check(task, model, TrainingConfig(device="cuda:0"), assets)
