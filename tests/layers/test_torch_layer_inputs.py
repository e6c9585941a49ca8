"""torch's own module tests, run on our layers: what torch.nn.RNN, GRU and LSTM must take, return and refuse, on every backend."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import throughtime as tt

LAYERS = ["RNN", "GRU", "LSTM"]
BACKENDS = [row[0] for row in tt.backends().rows if row[1] and row[0] != "cudnn"]
INFO = {info.module_cls: info for info in module_db}


def samples(name: str, requires_grad: bool = False, packed: bool = False) -> list[Any]:
    """The samples of torch for one class: padded and unbatched ones, or the packed ones alone."""
    info = INFO[getattr(torch.nn, name)]
    options = {"with_packed_sequence": True} if name != "LSTM" else {}
    made = info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=requires_grad, training=True, **options
    )
    if packed and name == "LSTM":  # torch makes no packed samples of its own for the LSTM: it gets the GRU's
        others = samples("GRU", requires_grad, packed=True)
        return [sample for sample in others if not sample.constructor_input.kwargs.get("nonlinearity")]
    return [s for s in made if isinstance(s.forward_input.args[0], PackedSequence) == packed]


def pair(name: str, sample: Any, backend: str | None) -> tuple[Any, Any]:
    """Our layer and torch.nn's with the same weights, both in float64."""
    arguments = sample.constructor_input
    ours = getattr(tt, name)(*arguments.args, **arguments.kwargs, backend=backend).double()
    theirs = getattr(torch.nn, name)(*arguments.args, **arguments.kwargs).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of an output or a state, in order."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors(part)]


def test_torch_gives_samples_of_both_kinds() -> None:
    for name in LAYERS:
        assert len(samples(name)) >= 16 and len(samples(name, packed=True)) >= 8


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_forward_is_torch_nn_s_and_that_of_the_sample_s_own_reference(name: str, backend: str) -> None:
    for sample in samples(name):
        ours, theirs = pair(name, sample, backend)
        arguments = sample.forward_input
        found = ours(*arguments.args, **arguments.kwargs)
        torch.testing.assert_close(found, theirs(*arguments.args, **arguments.kwargs))
        torch.testing.assert_close(found, sample.reference_fn(ours, *arguments.args, **arguments.kwargs))


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", LAYERS)
def test_packed_sequences_give_torch_nn_s_values_and_gradients(name: str, backend: str | None) -> None:
    for sample in samples(name, packed=True):
        ours, theirs = pair(name, sample, backend)
        results = []
        for layer in (ours, theirs):
            packed = sample.forward_input.args[0]
            data = packed.data.detach().clone().requires_grad_()
            y, h = layer(packed._replace(data=data))
            assert isinstance(y, PackedSequence)
            sum((value * value.detach().cos()).sum() for value in tensors((y, h))).backward()
            results.append((*tensors((y, h)), data.grad, *(p.grad for p in layer.parameters())))
            assert torch.equal(y.batch_sizes, packed.batch_sizes)
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("backend", [*BACKENDS, None])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_finite_differences_twice(name: str, backend: str | None) -> None:
    for sample in samples(name):
        ours, _ = pair(name, sample, backend)
        x, *hx = sample.forward_input.args
        parts = [x, *tensors(hx), *ours.parameters()]
        count = len(tensors(hx))

        # One vector in and one out: finite differences then need few calls, whatever the number of tensors.
        def run(vector: Any, ours: Any = ours, parts: Any = parts, count: int = count) -> Any:
            values = vector.split([part.numel() for part in parts])
            x, *rest = (value.view(part.shape) for value, part in zip(values, parts, strict=True))
            arguments = (x,) if count == 0 else (x, rest[0]) if count == 1 else (x, tuple(rest[:2]))
            weights = dict(zip([name for name, _ in ours.named_parameters()], rest[count:], strict=True))
            return torch.cat(
                [value.flatten() for value in tensors(torch.func.functional_call(ours, weights, arguments))]
            )

        vector = torch.cat([part.detach().flatten() for part in parts]).requires_grad_()
        assert torch.autograd.gradcheck(run, vector, fast_mode=True)
        if backend == "native":  # which the reference may help only where it was not asked for by name
            with pytest.raises(tt.BackendError, match="native has no second or vectorized derivatives"):
                torch.autograd.grad(run(vector).sum(), vector, create_graph=True)
        else:
            assert torch.autograd.gradgradcheck(run, vector, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_errors_are_torch_nn_s_word_for_word(name: str, backend: str) -> None:
    info = INFO[getattr(torch.nn, name)]
    source = info if info.module_error_inputs_func is not None else INFO[torch.nn.GRU]
    errors = source.module_error_inputs_func(
        source, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    )
    assert len(errors) >= 10
    for error in errors:
        made, arguments = error.module_error_input.constructor_input, error.module_error_input.forward_input
        if error.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                getattr(tt, name)(*made.args, **made.kwargs)
        else:
            layer = getattr(tt, name)(*made.args, **made.kwargs, backend=backend)
            with pytest.raises(error.error_type, match=error.error_regex):
                layer(*arguments.args, **arguments.kwargs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_inputs_need_not_be_contiguous(name: str, backend: str) -> None:
    def strided(value: torch.Tensor) -> torch.Tensor:
        spread = torch.full((*value.shape[::-1], 2), float("nan"), dtype=value.dtype)
        spread[..., 0] = value.permute(*range(value.dim() - 1, -1, -1))
        return spread[..., 0].permute(*range(value.dim() - 1, -1, -1))

    for sample in samples(name):
        ours, _ = pair(name, sample, backend)
        x, *hx = sample.forward_input.args
        moved = [tuple(map(strided, h)) if isinstance(h, tuple) else strided(h) for h in hx]
        assert not strided(x).is_contiguous()
        torch.testing.assert_close(ours(strided(x), *moved), ours(x, *hx))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_copies_and_saved_weights_give_the_same_layer(name: str, backend: str) -> None:
    for sample in samples(name):
        ours, theirs = pair(name, sample, backend)
        arguments = sample.forward_input.args
        expected = theirs(*arguments)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        fresh = type(ours)(*sample.constructor_input.args, **sample.constructor_input.kwargs).double()
        fresh.load_state_dict(theirs.state_dict())
        for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), fresh):
            torch.testing.assert_close(copied(*arguments), expected)
        assert copy.deepcopy(ours).weight_hh_l0 is not ours.weight_hh_l0
