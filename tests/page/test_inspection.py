"""What an inspector shows is what the model does."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from throughtime.errors import InputError
from throughtime.layers.eval_mode import evaluating
from throughtime.page import Edit, Inspector, sources
from throughtime.page.features import correlations, text_features

TEXT = 'a fox (the "lazy" one) sleeps.\nthe [0] dog'
CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # the native kernels and the reference sum in another order


def outputs_of(trained, inputs: Tensor) -> Tensor:
    with evaluating(trained.model), torch.no_grad():
        found, _ = trained.model(inputs)
    return found


def test_hidden_states_are_the_layers_outputs_and_gates_make_them(runs):
    trained = runs("text")
    reading = sources.of_text(trained, TEXT)
    parts = Inspector(trained).read(reading).parts
    assert {name: list(kept) for name, kept in parts.items()} == {
        layer: list("hcifgo") for layer in ("l0", "l1")
    }
    with torch.no_grad():
        top, (h, c) = trained.model.layers(trained.model.embedding(reading.inputs))
    torch.testing.assert_close(parts["l1"]["h"], top[:, 0], **CLOSE)
    torch.testing.assert_close(parts["l0"]["h"][-1], h[0][0], **CLOSE)
    torch.testing.assert_close(parts["l0"]["c"][-1], c[0][0], **CLOSE)
    one = parts["l0"]
    torch.testing.assert_close(one["h"], one["o"] * one["c"].tanh())
    torch.testing.assert_close(one["c"][1:], one["f"][1:] * one["c"][:-1] + one["i"][1:] * one["g"][1:])


def test_distributions_are_the_models_logits(runs):
    trained = runs("text")
    reading = sources.of_text(trained, TEXT)
    found = Inspector(trained).read(reading)
    chances = outputs_of(trained, reading.inputs)[:, 0].log_softmax(-1)
    for step in range(len(TEXT)):
        ids = found.top[step]
        torch.testing.assert_close(found.probabilities[step], chances[step].exp()[ids], **CLOSE)
        assert float(found.probabilities[step, 0]) == pytest.approx(
            float(chances[step].exp().max()), abs=1e-5
        )
    wanted = chances[:-1].gather(1, reading.inputs[1:])[:, 0]
    assert found.log_probability[0].isnan()
    torch.testing.assert_close(found.log_probability[1:], wanted, **CLOSE)


def test_a_long_text_is_that_of_its_pieces(runs, monkeypatch):
    trained = runs("text")
    reading = sources.of_text(trained, TEXT * 3)
    whole = Inspector(trained).read(reading)
    monkeypatch.setattr("throughtime.page.running.CHUNK", 7)
    pieces = Inspector(trained).read(reading)
    torch.testing.assert_close(pieces.parts["l1"]["c"], whole.parts["l1"]["c"], **CLOSE)
    torch.testing.assert_close(pieces.log_probability, whole.log_probability, equal_nan=True, **CLOSE)
    edits = (Edit("l0", "c", 3, 20, 2.0, hold=True),)
    torch.testing.assert_close(
        pieces.parts["l0"]["c"], Inspector(trained).read(reading, ()).parts["l0"]["c"], **CLOSE
    )
    cut = Inspector(trained).read(reading, edits).parts["l0"]["c"]
    assert bool((cut[20:, 3] == 2).all()) and not bool((cut[:20, 3] == 2).any())


def test_influence_is_the_gradient_of_one_log_probability(runs):
    trained = runs("text")
    reading, position = sources.of_text(trained, TEXT), 17
    inspector = Inspector(trained)
    first, found = inspector.influence(reading, position)
    model = trained.model
    vectors = model.embedding(reading.inputs).detach().requires_grad_()
    y, _ = model.layers(vectors)
    logits = model.head(y)
    chance = logits[position - 1, 0].log_softmax(-1)[reading.inputs[position, 0]]
    (gradient,) = torch.autograd.grad(chance, vectors)
    assert first == 0 and found.shape == (position,)
    torch.testing.assert_close(found.float(), gradient[:position, 0].norm(dim=1), **CLOSE)
    assert float(gradient[position:].abs().max()) == 0
    near, last = inspector.influence(reading, position, last=5)
    assert near == position - 5
    torch.testing.assert_close(last.float(), found[-5:].float(), **CLOSE)
    for other in (30, 12, 33):  # in any order, from the states that are kept
        _, fresh = Inspector(trained).influence(sources.of_text(trained, TEXT), other)
        torch.testing.assert_close(inspector.influence(reading, other, last=6)[1], fresh[-6:], **CLOSE)
    assert inspector.influence(reading, 0)[1].shape == (0,)
    with pytest.raises(InputError, match="position must lie between 0 and"):
        inspector.influence(reading, len(TEXT))


@pytest.mark.parametrize("task", ["tag", "transcribe"])
def test_influence_of_a_model_that_reads_both_ways_is_on_all_steps(runs, task):
    trained = runs(task)
    reading = sources.of_run(trained, steps=40)
    first, found = Inspector(trained).influence(reading, 5)
    assert first == 0 and found.shape == (len(reading),)
    assert float(found[6:].max()) > 0


def test_an_edit_changes_later_steps_and_nothing_before(runs):
    trained = runs("text")
    inspector, reading = Inspector(trained), sources.of_text(trained, TEXT)
    plain = inspector.read(reading)
    edited = inspector.read(reading, (Edit("l0", "h", 4, 9, 0.9),))
    assert torch.equal(edited.parts["l0"]["h"][:9], plain.parts["l0"]["h"][:9])
    assert torch.equal(edited.probabilities[:9], plain.probabilities[:9])
    assert float(edited.parts["l0"]["h"][9, 4]) == pytest.approx(0.9)
    assert not torch.equal(
        edited.parts["l1"]["h"][9], plain.parts["l1"]["h"][9]
    )  # the layer above reads it at once
    assert not torch.equal(
        edited.parts["l0"]["c"][10], plain.parts["l0"]["c"][10]
    )  # its own layer one step later
    assert torch.equal(edited.parts["l0"]["c"][9], plain.parts["l0"]["c"][9])
    held = inspector.read(reading, (Edit("l1", "c", 2, 9, -1.5, hold=True),))
    assert bool((held.parts["l1"]["c"][9:, 2] == -1.5).all())
    assert torch.equal(held.parts["l0"]["h"], plain.parts["l0"]["h"])  # below it nothing changes
    wanted = plain.parts["l1"]["h"][9:, 2]
    assert not torch.equal(held.parts["l1"]["h"][10:, 2], wanted[1:])
    again = inspector.read(reading)
    assert torch.equal(again.probabilities, plain.probabilities)  # nothing is left of it


def test_edits_of_what_is_not_there_are_refused(runs):
    inspector = Inspector(runs("text"))
    reading = sources.of_text(runs("text"), TEXT)
    for edit, words in (
        (Edit("l2", "h", 0, 0, 0.0), "l0 h, l0 c, l1 h, l1 c, got l2 h"),
        (Edit("l0", "i", 0, 0, 0.0), "got l0 i"),
        (Edit("l0", "h", 13, 0, 0.0), "unit must lie between 0 and 12, got 13"),
        (Edit("l1", "h", 11, 0, 0.0), "unit must lie between 0 and 10, got 11"),
        (Edit("l0", "h", 0, len(TEXT), 0.0), "step must lie between"),
        (Edit("l0", "h", 0, 0, float("nan")), "value must be a finite number"),
    ):
        with pytest.raises(InputError, match=words):
            inspector.read(reading, (edit,))
    both = runs("tag")
    with pytest.raises(InputError, match="reads from left to right"):
        Inspector(both).read(sources.of_run(both), (Edit("l0", "h", 0, 0, 0.0),))


def test_a_text_continues_the_same_however_it_is_divided(runs):
    trained = runs("text")
    ids = sources.of_text(trained, TEXT).inputs[:, 0].tolist()
    whole = Inspector(trained).extend(ids, 12, seed=3)
    inspector, written, surprises = Inspector(trained), list(ids), []
    for steps in (1, 5, 2, 4):
        part = inspector.extend(written, steps, seed=3)
        assert part.first == len(written)
        surprises.append(part.log_probability)
        written = part.reading.inputs[:, 0].tolist()
    assert written == whole.reading.inputs[:, 0].tolist()
    torch.testing.assert_close(torch.cat(surprises), whole.log_probability, **CLOSE)
    read = Inspector(trained).read(whole.reading)
    torch.testing.assert_close(whole.parts["l1"]["h"], read.parts["l1"]["h"][len(ids) :], **CLOSE)
    torch.testing.assert_close(whole.log_probability, read.log_probability[len(ids) :], **CLOSE)
    others = {tuple(inspector.extend(ids, 12, seed=seed).reading.inputs[:, 0].tolist()) for seed in range(4)}
    assert len(others) > 1
    held = inspector.extend(ids, 6, seed=3, edits=(Edit("l1", "h", 1, len(ids) - 1, 1.0, hold=True),))
    assert bool((held.parts["l1"]["h"][:, 1] == 1).all())


def test_frames_show_labels_of_each_step_and_their_numbers(runs):
    trained = runs("frames")
    reading, inspector = sources.of_run(trained, example=2), Inspector(trained)
    found = inspector.read(reading)
    assert inspector.kind == "numbers" and inspector.predicts == "step" and not inspector.generates
    assert found.log_probability is None and len(reading.truth) == len(reading)
    logits = outputs_of(trained, reading.inputs)[:, 0]
    assert torch.equal(found.top[:, 0], logits.argmax(-1))
    values = torch.rand(5, reading.inputs.shape[2]).tolist()
    own = sources.of_numbers(trained, values)
    predicted = trained.predict({trained.task.columns[0]: values})["labels"]
    assert [inspector.labels[n] for n in inspector.read(own).top[:, 0].tolist()] == predicted


def test_a_classifier_answers_for_every_prefix(runs):
    trained = runs("classify")
    inspector = Inspector(trained)
    reading = sources.of_text(trained, "expected a number, got text")
    found = inspector.read(reading)
    assert inspector.predicts == "whole"
    for step in (0, 7, len(reading) - 1):
        logits = outputs_of(trained, reading.inputs[: step + 1])
        torch.testing.assert_close(found.probabilities[step, 0], logits.softmax(-1).max(), **CLOSE)


@pytest.mark.parametrize("task", ["tag", "transcribe"])
def test_a_model_that_reads_both_ways_is_never_cut(runs, monkeypatch, task):
    reading = sources.of_run(runs(task), steps=40)
    whole = Inspector(runs(task)).read(reading)
    monkeypatch.setattr("throughtime.page.running.CHUNK", 7)
    again = Inspector(runs(task)).read(reading)
    assert torch.equal(again.probabilities, whole.probabilities)
    assert torch.equal(again.parts["l0_reverse"]["h"], whole.parts["l0_reverse"]["h"])


def test_sound_is_read_as_the_task_reads_it(runs):
    trained = runs("transcribe")
    reading, inspector = sources.of_run(trained), Inspector(trained)
    found = inspector.read(reading)
    assert inspector.labels[0] == "blank" and list(found.parts) == ["l0", "l0_reverse"]
    assert isinstance(reading.truth, str) and reading.truth
    chances = outputs_of(trained, reading.inputs).log_probabilities()[:, 0]
    torch.testing.assert_close(found.probabilities[:, 0], chances.exp().max(-1).values, **CLOSE)
    sound = sources.of_sound(trained, torch.randn(4000) * 0.1, 4000)
    front = trained.task.front(trained.assets)
    assert sound.inputs.shape[1:] == (1, front.embedding_dim)
    for bad in (torch.zeros(0), torch.tensor([torch.nan])):
        with pytest.raises(InputError, match="samples must be"):
            sources.of_sound(trained, bad, 4000)


def test_sources_refuse_what_the_model_does_not_read(runs):
    with pytest.raises(InputError, match="reads numbers, not text"):
        sources.of_text(runs("frames"), "a")
    with pytest.raises(InputError, match="reads text, not numbers"):
        sources.of_numbers(runs("text"), [[1.0]])
    with pytest.raises(InputError, match="got none"):
        sources.of_text(runs("text"), "")
    with pytest.raises(InputError, match="at most 20,000 steps, got 20,001"):
        sources.of_text(runs("text"), "a" * 20_001)
    with pytest.raises(InputError, match="ids must be whole numbers between 0 and"):
        sources.of_ids(runs("text"), [10**6])


def test_unknown_symbols_are_shown_as_they_were_typed(runs):
    reading = sources.of_text(runs("text"), "a\u2028\U0001f642\0b")
    assert reading.names == ("a", "\u2028", "\U0001f642", "\0", "b")
    assert reading.unknown == (1, 2, 3)


def test_the_model_is_not_disturbed_and_threads_may_share_an_inspector(runs):
    trained = runs("text")
    reading, inspector = sources.of_text(trained, TEXT), Inspector(trained)
    before = outputs_of(trained, reading.inputs)
    plain, found = inspector.read(reading), []

    def work(number: int) -> None:
        edits = (Edit("l0", "h", number, 3, 1.0, hold=True),) if number % 2 else ()
        same = inspector.read(reading, edits)
        inspector.influence(reading, 9)
        found.append(number % 2 == 1 or torch.equal(same.probabilities, plain.probabilities))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 6
    assert torch.equal(outputs_of(trained, reading.inputs), before)
    assert all(parameter.grad is None for parameter in trained.model.parameters())
    shared = {each.data_ptr() for each in trained.model.parameters()}
    assert {each.data_ptr() for each in inspector.model.parameters()} == shared


def test_features_find_quotes_and_brackets():
    text = "say \"no(w)\" don't, it's 'so it is' [a(b)] \n\n  end \"open\n\n"
    found = text_features(list(text))
    inside = {
        name: "".join(text[n] for n in values.nonzero()[:, 0].tolist()) for name, values in found.items()
    }
    assert inside['inside "..."'] == '"no(w)'
    assert inside["inside '...'"] == "'so it is"
    assert inside["inside ()"] == "(w(b"
    assert inside["inside []"] == "[a(b)"
    assert found["bracket depth"].max() == 2
    assert found["place in line"][text.index("end")] == 3
    assert found["indentation"][text.index("end")] == 2
    words = text_features(["say", ' "no', 't"', " x"])
    assert words['inside "..."'].tolist() == [0, 1, 0, 0]


def test_correlations_are_pearsons(runs):
    values = torch.randn(50, 7)
    values[:, 3] = 1.0
    features = {"a": torch.randn(50), "b": values[:, 2] * -3 + 1}
    found = correlations(values, features)
    table = torch.stack([features["a"], values[:, 5]])
    assert float(found[0, 5]) == pytest.approx(float(torch.corrcoef(table)[0, 1]), abs=1e-5)
    assert float(found[1, 2]) == pytest.approx(-1, abs=1e-5)
    assert found[:, 3].tolist() == [0, 0]
