"""Checkpoints: equal to the bit when they come back, and no changed byte goes unnoticed."""

import hashlib
import json
import math
import random
import subprocess
import sys
from typing import NamedTuple

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from throughtime.errors import InputError, RunError
from throughtime.runs import load_tensors, load_tree, save_tensors, save_tree

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.uint16, torch.uint32, torch.uint64),
)


def bits(tensor):
    return tensor.resolve_conj().contiguous().reshape(-1).view(torch.uint8)


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


@settings(max_examples=60)
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
    if dtype.is_complex:
        tree["lazy"] = tensor.conj()
    save_tree(tmp_path / "c", tree)
    assert same(tree, load_tree(tmp_path / "c"))
    if dtype not in (
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ):  # which the library reads with some torch versions
        assert len(safetensors.torch.load_file(tmp_path / "c")) == sum(map(torch.is_tensor, tree.values()))


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
        ({"x": torch.eye(3).to_sparse()}, "cannot save these tensors.* is sparse"),
        ({"x": torch.empty(2, device="meta")}, "cannot save these tensors.* is meta"),
        ({"x\udcff": torch.zeros(2)}, "cannot save these tensors"),
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


def test_equal_tensors_are_equal_bytes_and_begin_at_their_size(tmp_path):
    tensors = {
        "b": torch.ones(3, dtype=torch.bool),
        "a": torch.ones(5),
        "c": torch.ones(7, dtype=torch.float64),
    }
    save_tensors(tmp_path / "1", tensors, {"z": "1", "a": "2"})
    save_tensors(tmp_path / "2", dict(reversed(tensors.items())), {"a": "2", "z": "1"})
    data = (tmp_path / "1").read_bytes()
    assert data == (tmp_path / "2").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert all(header[name]["data_offsets"][0] % each.element_size() == 0 for name, each in tensors.items())


def with_checksum(data):
    """A safetensors file whose checksum is that of its bytes, as the library arranges them."""
    zeros = b'"sha256":"' + b"0" * 64
    assert data.count(zeros) == 1
    return data.replace(zeros, b'"sha256":"' + hashlib.sha256(data).hexdigest().encode())


def test_a_file_that_the_library_arranged_is_read(tmp_path):
    """As earlier versions wrote them."""
    tensors = {"w": torch.randn(3, 5), "b": torch.randn(7, dtype=torch.float64), "none": torch.zeros(0, 3)}
    data = safetensors.torch.save(tensors, {"format": "pt", "sha256": "0" * 64})
    (tmp_path / "m").write_bytes(with_checksum(data))
    loaded, metadata = load_tensors(tmp_path / "m")
    assert same(dict(sorted(tensors.items())), dict(sorted(loaded.items())))
    assert metadata["format"] == "pt"


PEAK = """
import resource, sys, torch
from pathlib import Path
from throughtime.runs import load_tensors, save_tensors
def peak():
    # In MiB. On Linux ru_maxrss is at least that of the process that started this one.
    if sys.platform == "linux":
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
def grown(work):
    before = peak()
    kept = work()
    return peak() - before
path = Path(sys.argv[1])
tensors = {str(n): torch.full((4000, 1280), float(n)) for n in range(4)}  # 20 MB each
tensors["transposed"] = tensors["0"].t()
print(grown(lambda: save_tensors(path, tensors)))
del tensors  # what is loaded takes the memory that they had
print(grown(lambda: load_tensors(path)))
"""


def test_a_checkpoint_is_written_tensor_by_tensor_and_read_once(tmp_path):
    """100 MB of tensors: one copy of 20 MB as they are written, and their own memory as they are read."""
    path = tmp_path / "large"
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    assert path.stat().st_size > 95 * 2**20
    path.unlink()
    saved, loaded = map(float, done.stdout.split())
    assert 15 < saved < 45
    assert loaded < 45


def lying(entry, data=b"", **more):
    header = {"__metadata__": {"sha256": "0" * 64}, "w": entry, **more}
    text = json.dumps(header, separators=(",", ":")).encode()
    return with_checksum(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "does not begin with a header"),
        ((2**63).to_bytes(8, "little") + b"{}", "does not begin with a header"),
        ((100).to_bytes(8, "little") + b"{}", "does not begin with a header"),
        (
            lying({"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
            "tells of 4398046511104 bytes",
        ),
        (
            lying({"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}, b"1234"),
            "another size than its shape",
        ),
        (lying({"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}), "a size that is not"),
        (lying({"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}, b"1234"), "a size that is not"),
        (lying({"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}), "no tensor can have"),
        (lying({"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}, b"1234"), "no tensor can have"),
        (lying({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, b"12345678"), "gaps"),
        (lying({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, b"12345678"), "tells of 4 bytes"),
        (
            lying(
                {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                b"1234",
                v={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            ),
            "gaps",
        ),
        (lying({"dtype": "F128", "shape": [], "data_offsets": [0, 16]}, bytes(16)), "another form"),
        (lying([1, 2]), "another form"),
        (lying(None), "another form"),
    ],
)
def test_a_header_that_is_wrong_is_refused_before_memory_is_taken(tmp_path, data, why, monkeypatch):
    path = tmp_path / "c.safetensors"
    path.write_bytes(data)
    monkeypatch.setattr(torch, "empty", None)
    with pytest.raises(RunError, match=rf"c\.safetensors is damaged or not ours: .*{why}") as caught:
        load_tensors(path)
    assert "\n" not in str(caught.value)


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
    for bad in (*(good[:length] for length in range(0, len(good), 2)), good + b"\0", good * 2):
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
