"""Packed weights: made once for a model, never those of weights that have changed since, and freed with the model."""

from __future__ import annotations

import copy
import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from throughtime.data.char import CharVocabulary
from throughtime.kernels.native.generation.generator import Generator, unavailable
from throughtime.layers import LSTM, RNN
from throughtime.models.many_to_many import ManyToMany
from throughtime.runtime import Session, clear_generation_cache, generate
from throughtime.runtime import native as native_module
from throughtime.runtime.native import generator_of

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")

VOCABULARY = CharVocabulary("abcdefghijk\n")  # and <unk>: 13 symbols


def model(seed: int = 0) -> ManyToMany:
    torch.manual_seed(seed)
    made = ManyToMany(nn.Embedding(13, 5), LSTM(5, 9, 2), 9, 13)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


def text(made: nn.Module, **options: object) -> str:
    return "".join(generate(Session(made, VOCABULARY), "abc", length=80, seed=1, **options))  # type: ignore[arg-type]


def step(made: ManyToMany) -> None:
    optimizer = torch.optim.SGD(made.parameters(), lr=5.0)
    outputs, _ = made(torch.arange(12)[:, None])
    outputs.logsumexp(-1).sum().backward()
    optimizer.step()


def add(made: ManyToMany) -> None:
    with torch.no_grad():
        made.layers.weight_hh_l1.add_(0.5)


def one_weight(made: ManyToMany) -> None:
    made.head.bias.data[3] = 50.0


def replace_data(made: ManyToMany) -> None:
    made.layers.weight_hh_l0.data = -made.layers.weight_hh_l0.data


def copy_into_data(made: ManyToMany) -> None:
    made.layers.weight_ih_l0.data.copy_(made.layers.weight_ih_l0.data.flip(0))


def write_by_numpy(made: ManyToMany) -> None:
    made.embedding.weight.detach().numpy()[:] *= -1


def write_in_inference_mode(made: ManyToMany) -> None:
    with torch.inference_mode():
        made.head.weight.neg_()


def replace_parameter(made: ManyToMany) -> None:
    made.layers.bias_hh_l0 = nn.Parameter(torch.randn(36))


def replace_head(made: ManyToMany) -> None:
    made.head = nn.Linear(9, 13)


def replace_layers(made: ManyToMany) -> None:
    made.layers = LSTM(5, 9, 1)


def swap_rows(made: ManyToMany) -> None:
    made.embedding.weight.data = made.embedding.weight.data.flip(0)


def move_and_back(made: ManyToMany) -> None:
    made.bfloat16().float()


CHANGES = [
    step,
    add,
    one_weight,
    replace_data,
    copy_into_data,
    write_by_numpy,
    write_in_inference_mode,
    replace_parameter,
    replace_head,
    replace_layers,
    swap_rows,
    lambda made: made.load_state_dict(model(7).state_dict()),
    lambda made: made.load_state_dict(model(7).state_dict(), assign=True),
]


@pytest.mark.parametrize("change", [*CHANGES, move_and_back])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_text_is_that_of_the_weights_at_the_call(
    change: Callable[[ManyToMany], object], weights: str
) -> None:
    made = model()
    before, packed = text(made, weights=weights), generator_of(made, weights)
    change(made)
    after = text(made, weights=weights)
    assert generator_of(made, weights) is not packed
    assert after == text(copy.deepcopy(made), weights=weights)  # another object, so nothing was kept of it
    if change is not move_and_back:  # whose rounding may change no symbol
        assert after != before


def test_a_change_and_its_undoing_give_the_first_text_again() -> None:
    made, other = model(), model(7).state_dict()
    own = copy.deepcopy(made.state_dict())
    texts = []
    for weights in (own, other, own):
        made.load_state_dict(weights)
        texts.append(text(made))
    assert texts[0] == texts[2] != texts[1]


def test_weights_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[str] = []

    def counted(*arguments: object, **options: str) -> Generator:
        packed.append(options["weights"])
        return Generator(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(native_module, "Generator", counted)
    made = model().eval()
    texts = {text(made) for _ in range(3)}
    made.train()
    texts.add(text(made))
    made.requires_grad_(False)
    texts.add(text(made))
    assert len(texts) == 1
    assert packed == ["float32"]
    text(made, weights="int8"), text(made), text(made, weights="int8")
    assert packed == ["float32", "int8"]
    text(model())
    assert packed == ["float32", "int8", "float32"]


def hook(made: ManyToMany) -> None:
    made.layers.register_forward_hook(lambda _, given, out: (out[0] * -1, out[1]))


def own_forward(made: ManyToMany) -> None:
    plain = made.head.forward
    made.head.forward = lambda x: -plain(x)  # type: ignore[method-assign]


class Special(nn.Parameter):
    """A parameter that may compute otherwise than its numbers say, as quantized ones do."""


class Negative(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return -weight


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hook, "forward hooks"),
        (own_forward, "replaced forward"),
        (lambda made: prune.random_unstructured(made.layers, "weight_hh_l0", 0.9), "forward hooks"),
        (lambda made: parametrize.register_parametrization(made.head, "weight", Negative()), "linear head"),
        (
            lambda made: parametrize.register_parametrization(made.layers, "weight_hh_l0", Negative()),
            "runs RNN",
        ),
        (lambda made: made.double(), "float64"),
        (lambda made: setattr(made.head, "weight", Special(made.head.weight.data)), "has Special"),
        (lambda made: setattr(made.layers, "zoneout", (0.5, 0.5)), "zoneout"),
    ],
)
def test_a_model_that_native_can_no_longer_run_is_run_by_the_reference(
    change: Callable[[ManyToMany], object], reason: str
) -> None:
    made = model()
    text(made)
    change(made)
    pieces = generate(Session(made, VOCABULARY), "abc", length=80, seed=1)
    assert pieces.backend == "reference"
    assert reason in str(pieces.reason)
    assert "".join(pieces) == text(copy.deepcopy(made), backend="reference")


def test_a_hook_on_all_modules_is_called() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert generate(Session(model(), VOCABULARY), "a").backend == "reference"
    finally:
        handle.remove()
    assert generate(Session(model(), VOCABULARY), "a").backend == "native"


def test_pruning_that_is_made_permanent_is_generated_with() -> None:
    made = model()
    before = text(made)
    prune.random_unstructured(made.head, "weight", 0.9)
    prune.remove(made.head, "weight")
    pieces = generate(Session(made, VOCABULARY), "abc", length=80, seed=1)
    assert pieces.backend == "native"
    assert "".join(pieces) == text(copy.deepcopy(made)) != before


def test_another_nonlinearity_is_another_generator() -> None:
    made = ManyToMany(nn.Embedding(13, 5), RNN(5, 9), 9, 13)
    before = generator_of(made)
    made.layers.nonlinearity = "relu"
    assert generator_of(made) is not before
    assert generator_of(made)._layers[0].nonlinearity == "relu"


def test_deleting_the_model_frees_its_packed_weights() -> None:
    made = model()
    text(made), text(made, weights="bf16")
    packed = [weakref.ref(generator_of(made, weights)) for weights in ("float32", "bf16")]
    assert all(each() is not None for each in packed)
    del made
    gc.collect()
    assert all(each() is None for each in packed)


def test_they_can_be_freed_before_that() -> None:
    models = [model(), model(1)]
    for clear, left in (
        (lambda: clear_generation_cache(models[0]), [False, True]),
        (clear_generation_cache, [False] * 2),
    ):
        texts, packed = [text(made) for made in models], [weakref.ref(generator_of(made)) for made in models]
        clear()
        gc.collect()
        assert [each() is not None for each in packed] == left
        assert [text(made) for made in models] == texts
    clear_generation_cache(nn.Linear(2, 2))  # of which nothing is kept


def test_packed_weights_of_before_a_change_are_freed() -> None:
    made = model()
    packed = weakref.ref(generator_of(made))
    add(made)
    generator_of(made)
    gc.collect()
    assert packed() is None


def test_a_copy_of_a_model_shares_nothing() -> None:
    made = model()
    before = text(made)
    other = copy.deepcopy(made)
    add(other)
    assert text(other) != before
    assert text(made) == before


def test_threads_share_them_and_write_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[object] = []

    def slow(*arguments: object, **options: str) -> Generator:
        packed.append(options)
        time.sleep(0.05)  # the others ask in this time
        return Generator(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(native_module, "Generator", slow)
    made = model().eval()
    barrier, found = threading.Barrier(4), []

    def run() -> None:
        barrier.wait()
        found.append([text(made) for _ in range(5)])

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert {each for one in found for each in one} == {text(made)}
    assert len(packed) == 1


def test_a_text_that_has_begun_keeps_its_weights() -> None:
    made = model()
    whole = text(made)
    pieces = generate(Session(made, VOCABULARY), "abc", length=80, seed=1)
    begun = next(pieces)
    add(made)
    assert begun + "".join(pieces) == whole
    assert text(made) != whole
