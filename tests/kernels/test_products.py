"""The library's matrix product by itself against float64, in the forms that a recurrence needs, on every instruction set."""

from __future__ import annotations

import ctypes

import pytest
import torch
from tests.kernels.instruction_sets import libraries

from throughtime.kernels.native.library import COLUMNS_OF_C, DEPTH_OF_A, ROWS_OF_A, load

if isinstance(load(), str):
    pytest.skip(load(), allow_module_level=True)

# A sum of up to 600 products in float32 or float64, of the largest result.
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-14}
# n, D, gates, H: one of each, odd ones, more than one block of each dimension (144, 4,096 and 256), nothing padded.
SIZES = [
    (1, 2, 1, 1),
    (5, 3, 3, 7),
    (9, 1, 4, 5),
    (13, 40, 4, 17),
    (149, 300, 3, 33),
    (301, 9, 4, 1030),
    (300, 5, 1, 32),
    (37, 4200, 1, 20),
    (600, 31, 4, 64),
]
BF16 = {"emulated": 1, "tiles": 2, "avx512": 3, "amx": 4}


@pytest.fixture(params=libraries(), ids=lambda library: library.isa)
def library(request):
    """That of each instruction set."""
    return request.param


class Matrices:
    """x [n, D], W [gates * H, D], rows of gates, their blocks of H padded with NaN and NaN behind them, and what is real."""

    def __init__(self, library, sizes, dtype):
        self.library, self.sizes, self.dtype = library, sizes, dtype
        n, features, gates, hidden = sizes
        self.padded = library.pad(hidden, dtype == torch.float64)
        self.x = inside(torch.randn(n, features, dtype=dtype))
        self.weight = inside(torch.randn(gates * hidden, features, dtype=dtype))
        self.real = torch.randn(n, gates * hidden, dtype=dtype)
        wide = torch.full((n, gates * self.padded + 16), torch.nan, dtype=dtype)
        self.rows = wide[:, : gates * self.padded]
        self.rows.view(n, gates, self.padded)[..., :hidden] = self.real.view(n, gates, hidden)

    def multiply(self, a, b, c, depth, blocked, **fields):
        """C (+)= A B, of as many rows and columns as C has; see csrc/matmul.h."""
        _, _, gates, hidden = self.sizes
        if blocked == COLUMNS_OF_C:
            fields["columns"] = gates * hidden
        product = self.library.structs["product"](
            **{"rows": c.shape[0], "columns": c.shape[1], "depth": depth, "threads": torch.get_num_threads()}
            | fields,
            a=a.data_ptr(),
            b=None if b is None else b.data_ptr(),
            c=c.data_ptr(),
            lda=a.stride(0),
            ldb=0 if b is None else b.stride(0),
            ldc=c.stride(0),
            blocked=blocked,
            block=hidden,
            padded=self.padded,
        )
        self.library.multiply(product, self.dtype)

    def project(self, **fields):
        """Into the rows of gates: x W^T."""
        self.multiply(self.x, self.weight, self.rows, self.x.shape[1], COLUMNS_OF_C, transposed_b=1, **fields)

    def input_gradient(self, dx, **fields):
        """The rows of gates times W."""
        self.multiply(self.rows, self.weight, dx, len(self.weight), DEPTH_OF_A, **fields)

    def weight_gradient(self, dweight, x, **fields):
        """The rows of gates, transposed, times x."""
        self.multiply(self.rows, x, dweight, len(self.rows), ROWS_OF_A, transposed_a=1, **fields)


def inside(values):
    """The same values in the middle of a larger matrix of NaN."""
    wide = values.new_full((len(values), values.shape[1] + 5), torch.nan)
    wide[:, 2:-3] = values
    return wide[:, 2:-3]


def error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def to_bf16(value):
    return value.to(torch.bfloat16).double()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products_against_float64(sizes, dtype, library):
    n, features, gates, hidden = sizes
    m = Matrices(library, sizes, dtype)
    x, weight, real = m.x.double(), m.weight.double(), m.real.double()

    dx = inside(torch.full((n, features), torch.nan, dtype=dtype))
    m.input_gradient(dx)
    assert error(dx, real @ weight) < TOLERANCE[dtype]
    m.input_gradient(dx, accumulate=1)
    assert error(dx, 2 * (real @ weight)) < TOLERANCE[dtype]

    dweight = inside(torch.full((gates * hidden, features), torch.nan, dtype=dtype))
    m.weight_gradient(dweight, m.x)
    assert error(dweight, real.t() @ x) < TOLERANCE[dtype]
    m.weight_gradient(dweight, m.x, accumulate=1)
    assert error(dweight, 2 * (real.t() @ x)) < TOLERANCE[dtype]

    m.project()
    blocks = m.rows.reshape(n, gates, m.padded)
    assert error(blocks[..., :hidden], (x @ weight.t()).view(n, gates, hidden)) < TOLERANCE[dtype]
    assert (blocks[..., hidden:] == 0).all()
    # Nothing beside the matrices was written.
    for matrix in (dx, dweight):
        around = matrix.as_strided(
            (len(matrix), matrix.shape[1] + 5), matrix.stride(), matrix.storage_offset() - 2
        )
        assert around[:, :2].isnan().all() and around[:, -3:].isnan().all()
    behind = m.rows.as_strided((n, 16), m.rows.stride(), gates * m.padded)
    assert behind.isnan().all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", [(1, 3, 1, 2), (149, 300, 3, 33), (600, 31, 4, 64)], ids=str)
def test_rows_of_b_that_lie_anywhere(sizes, dtype, library):
    """Where each row of B lies is given: in another order, some of them twice, some in another matrix."""
    m = Matrices(library, sizes, dtype)
    other, n = torch.randn(3, sizes[1], dtype=dtype), len(m.x)
    pool = [*m.x, *other]
    chosen = torch.randint(0, len(pool), (n,)).tolist()
    pointers = (ctypes.c_void_p * n)(*(pool[i].data_ptr() for i in chosen))
    dweight = torch.full((len(m.weight), sizes[1]), torch.nan, dtype=dtype)
    m.weight_gradient(dweight, None, rows_of_b=ctypes.addressof(pointers))
    expected = m.real.double().t() @ torch.stack([pool[i] for i in chosen]).double()
    assert error(dweight, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", BF16)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_factors_in_bfloat16(sizes, name, library):
    """Both are rounded, the sums are not; a product without a sum (one number deep) is left in float32."""
    if library.handle.tt_bf16_choose(name.encode()) != BF16[name]:
        pytest.skip(f"no {name} in the {library.isa} code on this processor")
    n, features, gates, hidden = sizes
    m, bf16 = Matrices(library, sizes, torch.float32), BF16[name]
    rounded = lambda value, depth: to_bf16(value) if depth > 1 else value.double()  # noqa: E731

    dx = inside(torch.full((n, features), torch.nan))
    m.input_gradient(dx, bf16=bf16)
    depth = gates * hidden
    assert error(dx, rounded(m.real, depth) @ rounded(m.weight, depth)) < TOLERANCE[torch.float32]

    dweight = inside(torch.full((gates * hidden, features), torch.nan))
    expected = rounded(m.real, n).t() @ rounded(m.x, n)
    m.weight_gradient(dweight, m.x, bf16=bf16)
    assert error(dweight, expected) < TOLERANCE[torch.float32]
    m.weight_gradient(dweight, m.x, bf16=bf16, accumulate=1)
    assert error(dweight, 2 * expected) < TOLERANCE[torch.float32]
    pointers = (ctypes.c_void_p * n)(*(row.data_ptr() for row in m.x))
    m.weight_gradient(dweight, None, bf16=bf16, rows_of_b=ctypes.addressof(pointers))
    assert error(dweight, expected) < TOLERANCE[torch.float32]

    m.project(bf16=bf16)
    blocks = m.rows.reshape(n, gates, m.padded)
    expected = (rounded(m.x, features) @ rounded(m.weight, features).t()).view(n, gates, hidden)
    assert error(blocks[..., :hidden], expected) < TOLERANCE[torch.float32]
    assert (blocks[..., hidden:] == 0).all()
    assert m.rows.as_strided((n, 16), m.rows.stride(), gates * m.padded).isnan().all()


@pytest.mark.parametrize("sizes", SIZES[1:], ids=str)
def test_the_instructions_give_the_bits_of_their_emulation(sizes, library):
    if library.handle.tt_bf16_choose(b"avx512") != BF16["avx512"]:
        pytest.skip(f"no bfloat16 instructions for the {library.isa} code on this processor")
    found = []
    m = Matrices(library, sizes, torch.float32)
    for bf16 in (BF16["avx512"], BF16["emulated"]):
        dx, dweight = torch.empty_like(m.x), torch.empty(len(m.weight), sizes[1])
        m.input_gradient(dx, bf16=bf16)
        m.weight_gradient(dweight, m.x, bf16=bf16)
        found.append((dx, dweight))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bf16", [0, 1, 2])
def test_infinite_rows_stay_in_their_rows_and_out_of_the_padding(bf16, library):
    m = Matrices(library, (20, 6, 3, 7), torch.float32)
    m.x[4, 2] = torch.inf
    m.project(bf16=bf16)
    blocks = m.rows.reshape(20, 3, m.padded)
    assert (blocks[..., 7:] == 0).all()
    assert blocks[4, :, :7].isinf().all()
    assert blocks[[*range(4), *range(5, 20)]].isfinite().all()


@pytest.mark.parametrize("bf16", [0, 1, 2])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_same_bits_with_any_number_of_threads(dtype, bf16, library, threads):
    """Of a product that is large enough for several."""
    m, found = Matrices(library, (501, 300, 3, 33), dtype), []
    for count in (1, 2, 3):
        threads(count)
        dx, dweight = torch.empty_like(m.x), torch.empty(len(m.weight), 300, dtype=dtype)
        m.input_gradient(dx, bf16=bf16)
        m.weight_gradient(dweight, m.x, bf16=bf16)
        found.append((dx, dweight))
    for dx, dweight in found[1:]:
        assert torch.equal(dx, found[0][0])
        assert torch.equal(dweight, found[0][1])


def test_no_memory_is_an_error(library):
    """A block of A for each of 2^30 threads is more than an address space holds."""
    m = Matrices(library, (2, 3, 1, 4), torch.float32)
    with pytest.raises(MemoryError, match="no memory for the packed matrices"):
        m.multiply(m.x, m.weight, m.rows, 256, DEPTH_OF_A, threads=2**30, rows=2**50, columns=1)
