"""Streams: any chunking gives the same bits, snapshots continue, and what cannot stream says why."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import throughtime as tt
from throughtime.errors import BackendError, InputError, SessionError
from throughtime.kernels.native.generation.interface import unavailable
from throughtime.models.build import many_to_many, many_to_one, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.models.embeddings import Continuous

needs_native = pytest.mark.skipif(unavailable() is not None, reason=f"no native library: {unavailable()}")

LAYERS = {
    "gru": lambda: tt.GRU(5, 13, 2),
    "lstm": lambda: tt.LSTM(5, 13),
    "lstm of sizes": lambda: tt.LSTM(5, (7, 33)),
    "rnn": lambda: tt.RNN(5, 67, nonlinearity="relu"),
    "no bias": lambda: tt.GRU(5, 16, bias=False),
}


def model_of(seed=0, embedding=6, cell="gru"):
    torch.manual_seed(seed)
    config = ModelConfig(cell=cell, hidden=19, layers=2, embedding=embedding)
    return many_to_many(config, symbol_embedding(config, 70), 70).eval()


@needs_native
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("large", [1.0, 4.0])
def test_any_chunking_gives_the_same_bits(name, large):
    torch.manual_seed(3)
    layer = LAYERS[name]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter *= large
    x = torch.randn(23, 5)
    stream = tt.stream(layer)
    assert stream.native
    whole = stream.feed(x)
    with torch.no_grad():
        expected, _ = layer(x)
    torch.testing.assert_close(whole, expected, atol=3e-6 * large**2, rtol=1e-4)
    for sizes in ([1] * 23, [7, 1, 15], [22, 1], [0, 23, 0]):
        other = tt.stream(layer)
        parts = [other.feed(part) for part in x.split(sizes)]
        assert torch.equal(torch.cat(parts), whole)
        assert all(torch.equal(value, stream.state[key]) for key, value in other.state.items())


@needs_native
def test_a_model_of_symbols_with_its_head():
    for embedding in (6, "onehot"):
        model, ids = model_of(embedding=embedding), torch.randint(0, 70, (31,))
        stream = tt.stream(model)
        whole = stream.feed(ids)
        with torch.no_grad():
            torch.testing.assert_close(whole, model(ids[:, None])[0][:, 0], atol=1e-5, rtol=1e-4)
        other = tt.stream(model)
        assert torch.equal(torch.cat([other.feed(each) for each in ids.split([3, 1, 27])]), whole)
        with pytest.raises(InputError, match="between 0 and 69"):
            other.feed(torch.tensor([70]))
        with pytest.raises(InputError, match="ids of symbols"):
            other.feed(torch.zeros(3, 4))
        assert torch.equal(other.feed(ids), stream.feed(ids))  # a refused chunk changes nothing


@pytest.mark.parametrize("cell", ["mingru", "lnlstm", "cnn", "none", "gru"])
def test_other_models_stream_through_themselves(cell):
    torch.manual_seed(1)
    config = ModelConfig(cell=cell, hidden=9, layers=2)
    model = many_to_many(config, Continuous(4), 3).eval()
    stream = tt.stream(model, native=False)
    assert not stream.native
    assert stream.reason
    x = torch.randn(11, 4)
    with torch.no_grad():
        whole = model(x[:, None])[0][:, 0]
    found = torch.cat([stream.feed(each) for each in x.split([1, 4, 6])])
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-5)
    other = stream.fork()
    torch.testing.assert_close(other.feed(x), stream.feed(x))


def test_one_answer_for_a_sequence():
    torch.manual_seed(0)
    config = ModelConfig(cell="lstm", hidden=9)
    model = many_to_one(config, Continuous(4), 3).eval()
    stream, x = tt.stream(model), torch.randn(8, 4)
    with torch.no_grad():
        torch.testing.assert_close([*map(stream.feed, x.split(3))][-1], model(x[:, None])[0])


@needs_native
def test_fork_reset_and_state():
    layer, x = tt.LSTM(5, 8), torch.randn(9, 5)
    stream = tt.stream(layer)
    first = stream.feed(x)
    fork = stream.fork()
    assert torch.equal(fork.feed(x), stream.feed(x))
    assert set(stream.state) == {"h.0", "c.0"}
    fork.feed(x)
    assert not torch.equal(fork.state["c.0"], stream.state["c.0"])
    stream.reset()
    assert torch.equal(stream.feed(x), first)
    assert stream.steps == 9
    # The weights are those of the moment: training goes on beside it.
    before = tt.stream(layer)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    assert torch.equal(before.feed(x), first)
    assert not torch.equal(tt.stream(layer).feed(x), first)


@needs_native
def test_a_snapshot_continues_in_another_process(tmp_path):
    torch.manual_seed(0)
    layer, x = tt.GRU(5, 21, 2), torch.randn(12, 5)
    stream = tt.stream(layer)
    stream.feed(x[:7])
    (tmp_path / "stream").write_bytes(stream.snapshot({"bytes": "é", "seed": 4}))
    torch.save(x, tmp_path / "x")
    torch.save(layer.state_dict(), tmp_path / "weights")
    code = (
        "import sys, torch, throughtime as tt; folder = sys.argv[1]; layer = tt.GRU(5, 21, 2);"
        "layer.load_state_dict(torch.load(folder + '/weights')); stream = tt.stream(layer);"
        "extra = stream.restore(open(folder + '/stream', 'rb').read()); assert extra == {'bytes': 'é', 'seed': 4};"
        "assert stream.steps == 7; torch.save(stream.feed(torch.load(folder + '/x')[7:]), folder + '/y')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert torch.equal(torch.load(tmp_path / "y"), stream.feed(x[7:]))


@pytest.mark.parametrize("native", [None, False])
def test_snapshots_that_are_refused(native):
    torch.manual_seed(0)
    layer, x = tt.GRU(5, 8), torch.randn(6, 5)
    stream = tt.stream(layer, native=native)
    stream.feed(x)
    data = stream.snapshot()
    expected = stream.fork().feed(x)
    other = tt.stream(tt.GRU(5, 8), native=native)
    other.feed(x)
    same = other.fork().feed(x)
    bad = [data[:-1], data + b"0", b"", b"{}", data[:40]]
    bad += [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in (9, 200, len(data) - 3)]
    for each in bad:
        with pytest.raises(SessionError, match="damaged or not ours") as caught:
            other.restore(each)
        assert caught.value.cause == "snapshot"
        assert "\n" not in str(caught.value)
    with pytest.raises(SessionError, match="of another model"):
        other.restore(data)
    torch.testing.assert_close(other.fork().feed(x), same, rtol=0, atol=0)
    again = tt.stream(layer, native=native)
    again.restore(data)
    assert torch.equal(again.feed(x), expected)


def test_what_cannot_stream_says_why():
    with pytest.raises(InputError, match="bidirectional"):
        tt.stream(tt.GRU(5, 8, bidirectional=True))
    with pytest.raises(InputError, match="mean"):
        tt.stream(many_to_one(ModelConfig(cell="gru", hidden=4, pooling="mean"), Continuous(4), 2))
    with pytest.raises(BackendError, match="layer_norm"):
        tt.stream(tt.GRU(5, 8, layer_norm=True), native=True)
    stream = tt.stream(tt.GRU(5, 8))
    for wrong in (
        torch.zeros(3, 4),
        torch.zeros(5),
        torch.zeros(2, 1, 5),
        torch.zeros(3, 5).long(),
        [1.0],
        None,
    ):
        with pytest.raises(InputError, match=r"a chunk must be \[t, 5\]" if stream.native else "chunk"):
            stream.feed(wrong)
    assert stream.feed(torch.zeros(2, 5, dtype=torch.float64)).shape == (2, 8)


@needs_native
@pytest.mark.parametrize("weights", ["bf16", "int8"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_rounded_weights_give_the_outputs_of_the_rounded_model_to_the_same_bits_in_any_chunks(cell, weights):
    from throughtime.runtime import with_quantized_weights

    model = model_of(cell=cell)
    rounded = with_quantized_weights(model, weights)
    # What generation looks up in a table streaming multiplies, so W_ih of the first layer is rounded too.
    from throughtime.kernels.native.generation.packing import quantize

    with torch.no_grad():
        rounded.layers.weight_ih_l0.copy_(quantize(model.layers.weight_ih_l0, weights).dequantize())
    ids = torch.randint(0, 70, (23,), generator=torch.Generator().manual_seed(0))
    whole = tt.stream(model, weights=weights).feed(ids)
    with torch.no_grad():
        expected, _ = rounded(ids[:, None])
    torch.testing.assert_close(whole, expected[:, 0], atol=1e-5, rtol=1e-5)
    exact = tt.stream(model).feed(ids)
    assert (whole - exact).abs().max() > 1e-4  # they are rounded
    one = tt.stream(model, weights=weights)
    assert torch.equal(torch.cat([one.feed(each) for each in ids.split([1, 5, 1, 2, 14])]), whole)
    pool = tt.SessionPool(model, weights=weights)
    names = [pool.open() for _ in range(11)]
    for seq, each in enumerate(ids.split([3, 1, 19]), start=1):
        found = pool.feed_many([(name, seq, each) for name in names])
        at = sum((3, 1, 19)[: seq - 1])
        assert all(torch.equal(answer, whole[at : at + len(each)]) for answer in found)
    with pytest.raises(SessionError, match="of another model"):
        tt.stream(model).restore(one.snapshot())
    tt.stream(model, weights=weights).restore(one.snapshot())


def test_rounded_weights_are_for_native_streaming():
    torch.manual_seed(0)
    with pytest.raises(BackendError, match="int8 weights are those of native streaming: asked for by name"):
        tt.stream(tt.GRU(3, 4), native=False, weights="int8")
    with pytest.raises(InputError, match="weights must be one of"):
        tt.stream(tt.GRU(3, 4), weights="int4")
