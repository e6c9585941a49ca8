"""torch's own module tests, run on our cells: the inputs that torch.nn.RNNCell, GRUCell and LSTMCell must take and refuse."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import throughtime as tt

CELLS = ["RNNCell", "GRUCell", "LSTMCell"]
INFO = {info.module_cls: info for info in module_db}


def samples(name: str, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> list[Any]:
    info = INFO[getattr(torch.nn, name)]
    return list(
        info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=True)
    )


def pair(name: str, sample: Any) -> tuple[Any, Any]:
    """Our cell and torch.nn's with the same weights, both in float64."""
    arguments = sample.constructor_input
    ours = getattr(tt, name)(*arguments.args, **arguments.kwargs).double()
    theirs = getattr(torch.nn, name)(*arguments.args, **arguments.kwargs).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def flat(value: Any) -> list[torch.Tensor]:
    return list(value) if isinstance(value, tuple) else [value]


def batched(name: str) -> tuple[Any, ...]:
    """An input and a state of three rows, for a cell of 5 features and 10 units."""
    state = tuple(torch.randn(3, 10).double() for _ in range(2 if name == "LSTMCell" else 1))
    return torch.randn(3, 5).double(), state if name == "LSTMCell" else state[0]


@pytest.mark.parametrize("name", CELLS)
def test_forward_is_torch_nn_s_and_that_of_the_sample_s_own_reference(name: str) -> None:
    for sample in samples(name):
        ours, theirs = pair(name, sample)
        arguments = sample.forward_input
        expected = theirs(*arguments.args, **arguments.kwargs)
        found = ours(*arguments.args, **arguments.kwargs)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(found, sample.reference_fn(ours, *arguments.args, **arguments.kwargs))
        both = batched(name)
        torch.testing.assert_close(ours(*both), theirs(*both))
        torch.testing.assert_close(ours(both[0]), theirs(both[0]))


@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_those_of_finite_differences_twice(name: str) -> None:
    for sample in samples(name, requires_grad=True):
        ours, _ = pair(name, sample)
        x, hx = sample.forward_input.args
        names, values = zip(*ours.named_parameters(), strict=True)

        def run(x: Any, *rest: Any, ours: Any = ours, names: Any = names) -> Any:
            state, weights = rest[: -len(names)], rest[-len(names) :]
            hx = state if len(state) > 1 else state[0]
            return torch.func.functional_call(ours, dict(zip(names, weights, strict=True)), (x, hx))

        inputs = (x, *flat(hx), *values)
        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("name", CELLS)
def test_errors_are_torch_nn_s_word_for_word(name: str) -> None:
    info = INFO[getattr(torch.nn, name)]
    errors = info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    )
    assert len(errors) >= 4
    for error in errors:
        made, arguments = error.module_error_input.constructor_input, error.module_error_input.forward_input
        assert error.error_on == ModuleErrorEnum.FORWARD_ERROR
        cell = getattr(tt, name)(*made.args, **made.kwargs)
        with pytest.raises(error.error_type, match=error.error_regex):
            cell(*arguments.args, **arguments.kwargs)
    with pytest.raises(ValueError, match="Expected input to be 1D or 2D, got 3D instead"):
        getattr(tt, name)(5, 10)(torch.randn(2, 3, 5))


@pytest.mark.parametrize("name", CELLS)
def test_inputs_need_not_be_contiguous(name: str) -> None:
    cell = getattr(tt, name)(5, 10).double()
    x, hx = batched(name)

    def strided(value: torch.Tensor) -> torch.Tensor:
        spread = torch.full((value.shape[1], value.shape[0], 2), float("nan"), dtype=value.dtype)
        spread[..., 0] = value.T
        assert not spread[..., 0].T.is_contiguous()
        return spread[..., 0].T

    states = tuple(strided(h) for h in flat(hx))
    torch.testing.assert_close(cell(strided(x), states if len(states) > 1 else states[0]), cell(x, hx))


@pytest.mark.parametrize("name", CELLS)
def test_copies_and_saved_weights_give_the_same_cell(name: str) -> None:
    for sample in samples(name):
        ours, theirs = pair(name, sample)
        both = batched(name)
        expected = theirs(*both)
        file = io.BytesIO()
        torch.save(theirs.state_dict(), file)
        file.seek(0)
        fresh = type(ours)(*sample.constructor_input.args, **sample.constructor_input.kwargs).double()
        fresh.load_state_dict(torch.load(file, weights_only=True))
        for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), fresh):
            torch.testing.assert_close(copied(*both), expected)
        assert copy.deepcopy(ours).weight_hh is not ours.weight_hh
        assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", CELLS)
def test_dtype_and_device(name: str) -> None:
    cell = getattr(tt, name)(5, 10)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert all(h.dtype == dtype for h in flat(cell.to(dtype)(torch.randn(3, 5, dtype=dtype))))
    assert getattr(tt, name)(5, 10, True, dtype=torch.float64).weight_hh.dtype == torch.float64
    meta = getattr(tt, name)(5, 10, device="meta")
    assert all(h.device.type == "meta" for h in flat(meta(torch.randn(3, 5, device="meta"))))
