"""Checkpoints: equal to the bit when they come back, and no changed byte goes unnoticed."""

import math
import random
from typing import NamedTuple

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from throughtime.errors import InputError, RunError
from throughtime.runs import load_tensors, load_tree, save_tensors, save_tree

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2),
)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True)
        return type(b) is dict and all(
            type(k) is type(j) and k == j and same(v, w) for (k, v), (j, w) in pairs
        )
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and repr(a) == repr(b)  # -0.0 is not 0.0, True is not 1


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.builds(lambda *shape: torch.randn(shape), st.integers(0, 3), st.integers(0, 3))
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text('ab/."0{}é', max_size=3) | st.integers(-2, 2), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(trees)
def test_any_tree_comes_back_equal(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "c.safetensors"
    save_tree(path, tree)
    assert same(tree, load_tree(path))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_layout_comes_back(tmp_path, dtype):
    raw = torch.randint(0, 256, (7, 13, 16), dtype=torch.uint8)
    if dtype == torch.bool:
        raw = raw % 2
    tensor = raw.view(dtype)
    tree = {"whole": tensor, "turned": tensor.transpose(0, 1), "slice": tensor[1:5:2, 3:], "none": tensor[:0]}
    tree |= {"number": tensor[0, 0, 0], "again": tensor, "wide": tensor[:1].expand(5, -1, -1)}
    save_tree(tmp_path / "c", tree)
    assert same(tree, load_tree(tmp_path / "c"))


def test_what_an_optimizer_and_generators_keep_comes_back(tmp_path):
    weight = torch.nn.Parameter(torch.randn(3, 5))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.square().sum().backward()
    optimizer.step()
    tree = {"optimizer": optimizer.state_dict(), "torch": torch.get_rng_state(), "python": random.getstate()}
    save_tree(tmp_path / "c", tree)
    assert same(tree, load_tree(tmp_path / "c"))


def test_places_that_read_alike_are_kept_apart(tmp_path):
    tree = {
        "a/b": torch.zeros(2),
        "a": {"b": torch.ones(2)},
        1: torch.full((2,), 2.0),
        "1": torch.full((2,), 3.0),
    }
    save_tree(tmp_path / "c", tree)
    assert same(tree, load_tree(tmp_path / "c"))


def test_a_named_tuple_comes_back_plain(tmp_path):
    class State(NamedTuple):
        h: torch.Tensor
        c: int

    save_tree(tmp_path / "c", State(torch.ones(2), 3))
    loaded = load_tree(tmp_path / "c")
    assert type(loaded) is tuple
    assert same(loaded, (torch.ones(2), 3))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [1, {"b": object()}]}, "got object at /a/1/b"),
        ({"a": {1, 2}}, "got set at /a"),
        (b"bytes", "got bytes at /"),
        ({(1, 2): 3}, r"must be str or int, got \(1, 2\) at /"),
        ({"x": {True: 3}}, "got True at /x"),
        ({"x": torch.zeros(2, dtype=torch.complex128)}, "cannot save these tensors"),
        ({"x": torch.eye(3).to_sparse()}, "cannot save these tensors"),
    ],
)
def test_what_has_no_place_is_named_and_nothing_is_written(tmp_path, tree, message):
    with pytest.raises(InputError, match=message):
        save_tree(tmp_path / "c", tree)
    assert list(tmp_path.iterdir()) == []


def test_any_reader_of_safetensors_opens_the_weights(tmp_path):
    model = torch.nn.LSTM(5, 13)
    model.tied = model.weight_hh_l0
    save_tensors(tmp_path / "m", model.state_dict())
    loaded = safetensors.torch.load_file(tmp_path / "m")
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def small_file(path):
    names = {"sha256": torch.arange(5.0), "w": torch.ones(3, dtype=torch.bool)}
    save_tree(path, {"names": names, "text": '"sha256":"' + "0" * 64, "lr": 0.1, "step": 12})
    return path.read_bytes()


def test_a_flipped_bit_anywhere_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    good = small_file(path)
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        path.write_bytes(bad)
        with pytest.raises(RunError, match=r"c\.safetensors"):
            load_tree(path)


def test_a_cut_or_lengthened_file_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    good = small_file(path)
    for bad in (*(good[:length] for length in range(len(good))), good + b"\0", good * 2):
        path.write_bytes(bad)
        with pytest.raises(RunError, match=r"c\.safetensors"):
            load_tree(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    for content in (b"not tensors at all", safetensors.torch.save({"a": torch.ones(3)}), b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(RunError, match="damaged or not ours"):
            load_tree(path)
    save_tensors(path, {"a": torch.ones(3)})
    with pytest.raises(RunError, match="not a checkpoint"):
        load_tree(path)
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none")
    with pytest.raises(RunError, match="cannot read"):
        load_tensors(tmp_path)
