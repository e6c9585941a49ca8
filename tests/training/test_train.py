"""The loop: what a step is, what is carried, what is written."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
import torch.nn.functional as F

from throughtime import bptt
from throughtime.errors import InputError, RunError
from throughtime.training import (
    Diverged,
    Interrupted,
    Progress,
    Silent,
    TrainingConfig,
    check,
    evaluate,
    train,
    window_of,
)
from throughtime.training.schedule import factor

TIMES = ("seconds", "tokens_per_second")


def weights(run) -> bytes:
    """The bytes of model.safetensors after its header, whose two remarks may stand in either order."""
    data = (run.path / "model.safetensors").read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def without_times(records):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def test_it_is_the_loop_that_one_would_write(make):
    """Against a loop with nothing of ours but the model: window, clip, step, with the state carried."""
    task, config, run = make(validation=0, clip="norm:0.3", optimizer="sgd", lr=2.0, epochs=2.5, warmup=3.0)
    summary = train(task, config, run)

    torch.manual_seed(config.seed)
    model = task.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    streams = task.streams(7, 4, seed=0)
    steps, total, length = 0, round(2.5 * len(streams)), len(streams)
    norms, losses = [], []
    while steps < total:
        state = None
        for window in streams.epoch():
            assert window.fresh == (state is None)
            logits, state = model(window.inputs, state)
            loss = F.cross_entropy(logits.flatten(0, 1), window.targets.flatten())
            loss.backward()
            state = state.detach()
            norms.append(math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters())))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            optimizer.param_groups[0]["lr"] = 2.0 * factor("cosine", 3.0, steps / length / 2.5, steps)
            optimizer.step()
            optimizer.zero_grad()
            losses.append((loss.item(), window.targets.numel()))
            steps += 1
            if steps == total:
                break

    assert (summary.step, summary.epoch) == (total, pytest.approx(2.5, abs=1 / length))
    assert summary.tokens == sum(count for _, count in losses)
    for name, value in run.load_model().items():
        # float32, and torch's clipping adds 1e-6 to the norm that it divides by.
        torch.testing.assert_close(value, model.state_dict()[name], atol=2e-4, rtol=0)
    records = run.history()
    assert records[0]["gradient_norm"] == pytest.approx(sum(norms[:5]) / 5, rel=1e-4)
    assert records[0]["gradient_norm_max"] == pytest.approx(max(norms[:5]), rel=1e-4)
    assert records[0]["clipped"] == sum(norm > 0.3 for norm in norms[:5]) / 5
    counts = sum(count for _, count in losses[:5])
    mean = sum(loss * count for loss, count in losses[:5]) / counts
    assert records[0]["loss"] == pytest.approx(mean, rel=1e-4)
    assert records[0]["bits"] == pytest.approx(mean / math.log(2), rel=1e-4)
    assert [record["step"] for record in records] == [*range(5, total, 5), total]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(make):
    settings = {"dropout": 0.3, "bptt": "randomized:5", "layers": 2, "evaluate_every": 6}
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        task, config, run = make(name, seed=seed, **settings)
        train(task, config, run)
        found.append((weights(run), without_times(run.history())))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


def test_looking_on_changes_nothing(make):
    """Evaluating, saving and sampling draw no random number that the training would have drawn."""
    plain = make("plain", dropout=0.3, evaluate_every=10**6, keep="last")
    train(*plain)
    busy = make("busy", dropout=0.3, evaluate_every=3, checkpoint_steps=2, keep="last")

    def sample(model):
        assert not model.training
        return str(torch.rand(3).tolist())

    told = Told()
    train(*busy, report=told, sample=sample)
    assert len(told.samples) == 20 // 3 + 2  # before, each third step, and at the end
    assert weights(plain[2]) == weights(busy[2])


class Told(Silent):
    """Keeps all that it is told."""

    def __init__(self, act=lambda progress: None):
        self.samples, self.evaluations, self.messages, self.act = [], [], [], act
        self.plan, self.summary = None, "not told"

    def start(self, plan):
        self.plan = plan

    def step(self, progress: Progress):
        self.act(progress)

    def evaluation(self, step, evaluation, best):
        self.evaluations.append((step, evaluation, best))

    def sample(self, text):
        self.samples.append(text)

    def message(self, text):
        self.messages.append(text)

    def finish(self, summary):
        self.summary = summary


def test_the_best_weights_are_kept_or_the_last(make):
    # A learning rate that ruins the model in the end: the best is not the last.
    settings = {
        "lr": 9.0,
        "clip": "none",
        "optimizer": "sgd",
        "schedule": "constant",
        "steps": 24,
        "evaluate_every": 4,
    }
    told = Told()
    task, config, run = make("best", **settings)
    summary = train(task, config, run, report=told)
    losses = [evaluation.loss for _, evaluation, _ in told.evaluations]
    assert losses[-1] > min(losses)
    assert (summary.best.loss, summary.evaluation.loss) == (min(losses), losses[-1])
    assert [best for *_, best in told.evaluations] == [
        x == min(losses[: n + 1]) for n, x in enumerate(losses)
    ]
    assert told.summary == summary

    def loss_of(run):
        model = task.build()
        model.load_state_dict(run.load_model())
        return evaluate(model, task.validation(7, 4), task.loss).loss

    assert loss_of(run) == pytest.approx(min(losses), rel=1e-9)
    *others, last = make("last", keep="last", **settings)
    train(*others, last)
    assert loss_of(last) == pytest.approx(losses[-1], rel=1e-9)
    kinds = [(record["step"], record["kind"]) for record in run.history() if record["kind"] == "evaluation"]
    assert kinds == [(step, "evaluation") for step in range(4, 25, 4)]


def test_the_best_so_far_is_remembered_through_an_interruption(make):
    # The last evaluation is worse than the best before the interruption: it must not pass for the best.
    settings = {"lr": 9.0, "clip": "none", "optimizer": "sgd", "schedule": "constant", "steps": 24}
    *others, whole = make("whole", **settings, evaluate_every=4)
    summary = train(*others, whole)
    assert summary.evaluation.loss > summary.best.loss
    *others, run = make("run", **settings, evaluate_every=4)
    told = Told()
    told.evaluation = lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 20 else None
    with pytest.raises(Interrupted, match="at step 21"):
        train(*others, run, report=told)
    assert train(*others, run, resume=True).best == summary.best
    assert weights(run) == weights(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(make, number):
    reference = make("reference", dropout=0.3)
    train(*reference)
    task, config, run = make("a run", dropout=0.3)
    told = Told(lambda progress: os.kill(os.getpid(), number) if progress.step == 1 else None)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as error:
        train(task, config, run, report=told)
    assert signal.getsignal(number) is before
    assert error.value.status == 128 + number
    assert told.summary is None
    steps = run.load_checkpoint()["steps"]
    assert steps == 2  # the signal came while step 1 was reported
    assert str(error.value) == (
        "training was interrupted at step 2; all of it is saved, go on with: "
        f"throughtime train text --resume --out '{run.path}'"
    )
    with pytest.raises(RunError, match="holds a training; choose another --out, or --resume to go on"):
        train(task, config, run)
    told = Told()
    train(task, config, run, resume=True, report=told)
    assert told.plan.resumed_at == 2
    assert run.load_model().keys() == reference[2].load_model().keys()
    assert weights(run) == weights(reference[2])
    assert without_times(run.history()) == without_times(reference[2].history())


def test_a_complete_training_resumed_stays_as_it_is(make):
    task, config, run = make()
    first = train(task, config, run)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    told = Told()
    assert train(task, config, run, resume=True, report=told) == first
    assert told.messages == ["the training is complete: 20 steps, 20 steps"]
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_other_data_than_the_checkpoints_is_refused(make, text):
    task, config, run = make()
    train(task, config, run)
    text.write_text(text.read_text().replace("time", "tame"))
    with pytest.raises(InputError, match="checksum"):
        train(type(task).from_run(run), config, run, resume=True)


def test_a_loss_that_is_no_number_stops_it(make):
    settings = {
        "cell": "rnn",
        "nonlinearity": "identity",
        "optimizer": "sgd",
        "schedule": "constant",
        "warmup": 0.0,
    }
    task, config, run = make(**settings, lr=1e6, clip="none", checkpoint_steps=1, steps=50, validation=0)
    with pytest.raises(Diverged) as error:
        train(task, config, run)
    assert "gradient norms of the steps before: " in str(error.value)
    assert "clip = norm:1" in str(error.value)
    saved = run.load_checkpoint()
    assert f"at step {saved['steps'] + 1}:" in str(error.value)
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_minutes_end_it(make):
    task, config, run = make(minutes=0.005)
    summary = train(task, config, run)
    assert 0.3 <= summary.seconds < 5
    assert summary.step >= 1
    assert [record for record in run.history() if "lr" in record][-1][
        "lr"
    ] < 0.5 * config.lr  # the schedule follows the clock


def test_random_windows_start_from_nothing(make):
    task, config, run = make(sampling="random")
    states = []
    build = task.build

    def watched():
        model = build()
        model.register_forward_pre_hook(
            lambda module, args: states.append(args[1]) if module.training else None
        )
        return model

    task.build = watched
    train(task, config, run)
    assert len(states) == 20
    assert set(states) == {None}


@pytest.mark.parametrize(
    "settings", [{"bidirectional": True}, {"cell": "indrnn"}, {"layers": 2, "cell": "lnlstm"}]
)
def test_models_of_every_state(make, settings):
    """None, and a tuple of NamedTuples: also through a checkpoint."""
    task, config, run = make(**settings, checkpoint_steps=3)
    reference = make("reference", **settings)
    train(*reference)
    told = Told(lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == 1 else None)
    with pytest.raises(Interrupted):
        train(task, config, run, report=told)
    assert bool(told.messages) == ("bidirectional" in settings)
    train(task, config, run, resume=True)
    assert weights(run) == weights(reference[2])


def test_bfloat16_forward_float32_weights(make):
    task, config, run = make(precision="bf16", cell="lstm", bptt="truncated:3")
    other = make("fp32", cell="lstm", bptt="truncated:3")
    summary, reference = train(task, config, run), train(*other)
    assert all(value.dtype == torch.float32 for value in run.load_model().values())
    assert summary.loss != reference.loss
    assert summary.loss == pytest.approx(reference.loss, rel=0.02)  # bfloat16 has 8 bits


@pytest.mark.parametrize(
    ("spec", "window"),
    [
        ("truncated:35", 35),
        ("truncated:35/5", 140),
        ("full", 64),
        ("checkpointed:8", 64),
        ("random_window:20-50", 200),
        ("randomized:35", 140),
        ("polynomial:10", 40),
    ],
)
def test_the_window_of_a_strategy(spec, window):
    assert window_of(TrainingConfig(bptt=spec)) == window
    assert window_of(TrainingConfig(bptt=spec, window=9)) == 9


def test_the_strategy_cuts_inside_the_window(make, monkeypatch):
    pieces = []
    original = bptt.Truncated.backward

    def watched(self, run, *args, **options):
        def counted(x, state):
            pieces.append(len(x))
            return run(x, state)

        return original(self, counted, *args, **options)

    monkeypatch.setattr(bptt.Truncated, "backward", watched)
    train(*make(bptt="truncated:3", steps=2))
    assert pieces == [3, 3, 1, 3, 3, 1]


def test_what_can_be_known_before_a_run_is_made(make):
    task, config, _ = make()
    check(config, task)
    with pytest.raises(InputError, match="Did you mean 'truncated'"):
        check(TrainingConfig(bptt="trunkated:3"))
    with pytest.raises(InputError, match=r"\d+ streams of one window of 64 steps need"):
        check(TrainingConfig(batch=100), task)
    with pytest.raises(InputError, match="device must be auto, cpu, cuda"):
        check(TrainingConfig(device="gpu0"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device cuda:0 is not on this machine, which has cpu"):
            check(TrainingConfig(device="cuda:0"))
