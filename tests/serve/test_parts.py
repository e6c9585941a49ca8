"""Messages, limits, metrics and predictions, without a server."""

from __future__ import annotations

import base64
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import throughtime as tt
from throughtime.errors import InputError, SessionError
from throughtime.options import fields_of
from throughtime.serve import Limits
from throughtime.serve.metrics import Counts, Histogram, sample
from throughtime.serve.predictions import predictions
from throughtime.serve.refusals import STATUS, Refused, refusal_of
from throughtime.serve.wire import DTYPES, dumps, loads, pack, unpack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3)])
def test_arrays_come_back(dtype, shape):
    x = np.random.default_rng(0).normal(size=shape) * 100
    x = np.asarray(x, dtype)
    header, found = unpack(pack({"type": "chunk", "seq": 3}, x))
    assert header == {"type": "chunk", "seq": 3}
    assert found.dtype == x.dtype and found.shape == x.shape and np.array_equal(found, x)
    assert found.flags.writeable
    swapped = x.astype(x.dtype.newbyteorder(">")) if x.ndim else x
    assert np.array_equal(unpack(pack({}, swapped.astype(dtype)))[1], x)
    strided = np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x
    assert np.array_equal(unpack(pack({}, strided))[1], x)


def test_a_message_has_its_documented_bytes():
    message = pack({"type": "chunk"}, np.array([[1.0, -2.0]], np.float32))
    header = b'{"type":"chunk","dtype":"float32","shape":[1,2]}'
    assert message == len(header).to_bytes(4, "little") + header + b"\0\0\x80\x3f\0\0\0\xc0"
    assert unpack(pack({"a": 1}, b"\0\1")) == ({"a": 1}, b"\0\1")
    with pytest.raises(InputError, match="float64"):
        pack({}, np.zeros(2))


@given(st.binary(max_size=60))
def test_random_bytes_are_a_message_or_refused(message):
    try:
        header, payload = unpack(message)
    except InputError:
        return
    assert isinstance(header, dict) and isinstance(payload, (bytes, np.ndarray))


@pytest.mark.parametrize(
    "header",
    [
        {"dtype": "float64", "shape": [1]},
        {"dtype": "float32", "shape": [3]},
        {"dtype": "float32", "shape": [-1, -2]},
        {"dtype": "float32", "shape": [2**40, 2**40]},
        {"dtype": "float32", "shape": 2},
        {"dtype": "float32"},
        {"dtype": ["float32"], "shape": [2]},
        {"shape": [2]},
        {"dtype": "float32", "shape": [True, 2]},
    ],
)
def test_a_header_that_does_not_fit_is_refused(header):
    text = json.dumps(header).encode()
    with pytest.raises(InputError):
        unpack(len(text).to_bytes(4, "little") + text + bytes(8))


def test_json_has_no_nan():
    values = {
        "a": [1.5, float("nan"), float("inf")],
        "b": np.float32(2),
        "c": np.arange(2),
        "d": np.array([np.nan]),
    }
    assert loads(dumps(values)) == {"a": [1.5, None, None], "b": 2.0, "c": [0, 1], "d": [None]}
    with pytest.raises(TypeError):
        dumps({"a": object()})


def test_every_cause_of_a_session_has_a_status():
    assert set(SessionError.CAUSES) <= set(STATUS)
    for cause, status in STATUS.items():
        found = refusal_of(Refused(cause, "two\nlines"))
        assert (found.status, found.body["error"]["code"], found.message) == (status, cause, "two lines")
    assert refusal_of(KeyError("secret")).message == "the server failed; its log says why"
    assert refusal_of(InputError("x")).status == 400 and refusal_of(MemoryError()).status == 503


def test_limits_are_options():
    for field in fields_of(Limits):
        assert field.option.help.endswith(".") and field.option.panel
    with pytest.raises(InputError, match="inbound must be at least 1"):
        Limits(inbound=0)
    assert Limits.from_table({"origin": ["https://a.example"]}).origin == ("https://a.example",)


def test_histograms_and_counts():
    found = Histogram((1, 2.5))
    found.add(0.5, 1, 2, 7)
    assert found.lines("x", {"model": 'a"b\\'}) == [
        'x_bucket{model="a\\"b\\\\",le="1"} 2',
        'x_bucket{model="a\\"b\\\\",le="2.5"} 3',
        'x_bucket{model="a\\"b\\\\",le="+Inf"} 4',
        'x_sum{model="a\\"b\\\\"} 10.5',
        'x_count{model="a\\"b\\\\"} 4',
    ]
    counts = Counts()
    counts.add("a", cause="x")
    counts.add("a", 2, cause="w")
    counts.add("b")
    assert counts.lines("a") == ['a{cause="w"} 2', 'a{cause="x"} 1'] and counts.lines("b") == ["b 1"]
    assert sample("c", 0.25, {}) == "c 0.25"


class Paths:
    """A task that reads files, as far as predictions know it."""

    columns = ("path",)

    def predict(self, model, assets, records):
        for record in records:
            if "samples" in record:
                yield {"n": len(record["samples"])}
                continue
            with open(record["path"], "rb") as file:
                data = file.read()
            if not data:
                raise InputError(f"{record['path']}: it is empty")
            yield {"n": len(data), "keys": sorted(record), "suffix": record["path"][-4:]}


class Holder:
    """What predictions need of a model that is served."""

    def __init__(self, task):
        import threading

        self.alone, self.trained = threading.Lock(), self
        self.task, self.model, self.assets = task, None, None


def test_a_prediction_never_reads_a_file_of_the_server(tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_text("secret")
    holder, limits = Holder(Paths()), Limits()
    content = base64.b64encode(b"12345").decode()
    records = [{"file": content, "name": "a/b.WAV", "path": str(secret), "other": 1}, {"samples": [1, 2, 3]}]
    assert predictions(holder, records, limits) == [
        {"n": 5, "keys": ["other", "path"], "suffix": ".wav"},
        {"n": 3},
    ]
    with pytest.raises(InputError, match=r"^record0.wav: it is empty"):
        predictions(holder, [{"file": "", "name": "a.wav"}], limits)
    for record in (
        str(secret),
        {"path": str(secret)},
        {"file": content},
        {"file": content, "name": "../x"},
        {"file": "?", "name": "a.wav"},
        {"file": 7, "name": "a.wav"},
        {"path": str(secret), "samples": None, "file": None},
    ):
        with pytest.raises((InputError, TypeError)):
            predictions(holder, [record], limits)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "throughtime.serve.client", raising=False)
    monkeypatch.setitem(sys.modules, "websockets.exceptions", None)
    with pytest.raises(InputError, match=r"pip install 'throughtime\[serve\]'"):
        _ = tt.serve.Client
    with pytest.raises(AttributeError):
        _ = tt.serve.Klient
