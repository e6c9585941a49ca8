"""The library's matrix product against float64, and both ways of the products over all steps against each other."""

import pytest
import torch

from throughtime.kernels.native.library import Library, load
from throughtime.kernels.native.recurrence import compute
from throughtime.kernels.native.recurrence.call import Plan
from throughtime.kernels.native.recurrence.rows import full_rows

library = load()
if isinstance(library, str):
    pytest.skip(library, allow_module_level=True)

DTYPES = [torch.float32, torch.float64]
# n, D, gates, H: one of each, odd ones, more than one block of each dimension (144, 4,096 and 256), nothing padded.
SIZES = [
    (1, 2, 1, 1),
    (5, 3, 3, 7),
    (13, 40, 4, 17),
    (149, 300, 3, 33),
    (301, 9, 4, 1030),
    (300, 5, 1, 32),
    (37, 4200, 1, 20),
    (600, 31, 4, 64),
]


def plan(native, bf16=0):
    used = Library(library.handle, library.isa, "native" if native else "torch")
    return Plan(used, "lstm", "tanh", full_rows(1, 1), False, True, bf16=bf16)


def error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def limit(dtype):
    return 5e-6 if dtype == torch.float32 else 1e-14


def matrices(n, inputs, gates, hidden, dtype):
    """x, W, rows of gates with NaN in the padding and more behind them, what is real of those, and the padded H."""
    size = library.pad(hidden, dtype == torch.float64)
    generator = torch.Generator().manual_seed(n + hidden)
    x = torch.randn(n, inputs, dtype=dtype, generator=generator)
    weight = torch.randn(gates * hidden, inputs, dtype=dtype, generator=generator)
    wide = torch.randn(n, gates * size + 16, dtype=dtype, generator=generator)
    rows = wide[:, : gates * size]
    rows.view(n, gates, size)[..., hidden:] = torch.nan
    real = rows.reshape(n, gates, size)[..., :hidden].reshape(n, gates * hidden)
    return x, weight, rows, real, size


@pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products_against_float64(sizes, dtype, native):
    n, _, gates, hidden = sizes
    x, weight, rows, real, size = matrices(*sizes, dtype)
    use = plan(native)

    dx = torch.full_like(x, torch.nan)
    compute.input_gradient(use, rows, weight, dx, size)
    assert error(dx, real.double() @ weight.double()) < limit(dtype)

    dweight = torch.full_like(weight, torch.nan)
    compute.accumulate_weight_gradient(use, rows, x, dweight, size, True)
    expected = real.double().t() @ x.double()
    assert error(dweight, expected) < limit(dtype)
    compute.accumulate_weight_gradient(use, rows, x, dweight, size, False)
    assert error(dweight, 2 * expected) < limit(dtype)

    compute.input_projection(use, x, weight, rows, size)
    blocks = rows.reshape(n, gates, size)
    expected = (x.double() @ weight.double().t()).view(n, gates, hidden)
    assert error(blocks[..., :hidden], expected) < limit(dtype)
    assert (blocks[..., hidden:] == 0).all()


@pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
def test_infinite_rows_stay_in_their_rows_and_out_of_the_padding(native):
    x, weight, rows, _, size = matrices(20, 6, 3, 7, torch.float32)
    x[4, 2] = torch.inf
    compute.input_projection(plan(native), x, weight, rows, size)
    blocks = rows.reshape(20, 3, size)
    assert (blocks[..., 7:] == 0).all()
    assert blocks[4, :, :7].isinf().all()
    assert blocks[[0, 1, 2, 3, 5, 19]].isfinite().all()


@pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
def test_no_rows_are_no_gradient(native):
    x, weight, rows, _, size = matrices(3, 6, 3, 7, torch.float32)
    dweight = torch.full_like(weight, torch.nan)
    compute.accumulate_weight_gradient(plan(native), rows[:0], x[:0], dweight, size, True)
    assert (dweight == 0).all()
    compute.accumulate_weight_gradient(plan(native), rows[:0], x[:0], dweight.fill_(3), size, False)
    assert (dweight == 3).all()
    compute.input_projection(plan(native), x[:0], weight, rows[:0], size)
    compute.input_gradient(plan(native), rows[:0], weight, x[:0], size)


def test_factors_as_they_lie():
    """Columns apart, rows upside down in a larger matrix, a negative bit: none of them is what the library reads."""
    _, weight, rows, real, size = matrices(50, 6, 3, 7, torch.float32)
    x = torch.randn(6, 50, dtype=torch.complex64).conj().imag.t()
    assert x.is_neg()
    assert x.stride(1) != 1
    dweight = torch.empty_like(weight)
    compute.accumulate_weight_gradient(plan(True), rows, x, dweight, size, True)
    assert error(dweight, real.double().t() @ x.double()) < limit(torch.float32)
    apart = torch.stack([weight, -weight], 2)[..., 0]
    dx = torch.empty(50, 6)
    compute.input_gradient(plan(True), rows, apart, dx, size)
    assert error(dx, real.double() @ weight.double()) < limit(torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_bits_with_any_number_of_threads(dtype):
    sizes = (501, 300, 3, 33)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x, weight, rows, _, size = matrices(*sizes, dtype)
            dx, dweight = torch.empty_like(x), torch.empty_like(weight)
            compute.input_gradient(plan(True), rows, weight, dx, size)
            compute.accumulate_weight_gradient(plan(True), rows, x, dweight, size, True)
            found.append((dx, dweight))
    finally:
        torch.set_num_threads(before)
    for dx, dweight in found[1:]:
        assert torch.equal(dx, found[0][0])
        assert torch.equal(dweight, found[0][1])


def test_bfloat16_factors_are_torchs():
    x, weight, rows, real, size = matrices(50, 6, 3, 7, torch.float32)
    use = plan(True, bf16=1)
    assert not compute.uses_library(use, 6)
    dx = torch.empty_like(x)
    compute.input_gradient(use, rows, weight, dx, size)
    expected = real.bfloat16().double() @ weight.bfloat16().double()
    assert error(dx, expected) < 0.05  # torch's sums come back rounded too
    dweight = torch.empty_like(weight)
    compute.accumulate_weight_gradient(use, rows, x, dweight, size, True)
    assert error(dweight, real.bfloat16().double().t() @ x.bfloat16().double()) < 0.05
    compute.input_projection(use, x, weight, rows, size)
    expected = (x.bfloat16().double() @ weight.bfloat16().double().t()).view(50, 3, 7)
    assert error(rows.reshape(50, 3, size)[..., :7], expected) < 0.05
