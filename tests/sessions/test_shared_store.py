"""Several pools on one store: each takes up what another continued, none runs on from an older state, and no bit differs."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import throughtime as tt
from throughtime.errors import InputError, SessionError
from throughtime.sessions import Processor, SessionPool, ValkeyStore, store_of

REPLICA = """
import base64, json, sys
import numpy as np, torch
import throughtime as tt
from throughtime.errors import SessionError
from throughtime.sessions import SessionPool, store_of
torch.manual_seed(0)
layer = tt.GRU(5, 21, 2)
pool = SessionPool(layer, store=store_of(sys.argv[1]), save_every=1, max_live=7)
for line in sys.stdin:
    what, name, seq, data = json.loads(line)
    try:
        if what == "open":
            pool.open(name)
            answer = ""
        elif what == "reset":
            answer = pool.reset(name)
        else:
            x = torch.from_numpy(np.frombuffer(base64.b64decode(data), np.float32).copy()).view(-1, 5)
            answer = base64.b64encode(pool.feed(name, seq, x).numpy().tobytes()).decode()
    except SessionError as error:
        answer = error.cause
    print(json.dumps([answer, pool.stats()["stale"]]), flush=True)
"""


class Replica:
    """A process with a pool."""

    def __init__(self, address):
        self.process = subprocess.Popen(
            [sys.executable, "-c", REPLICA, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stale = 0

    def send(self, what, name, seq=0, x=None):
        data = "" if x is None else base64.b64encode(x.numpy().tobytes()).decode()
        self.process.stdin.write(json.dumps([what, name, seq, data]) + "\n")
        self.process.stdin.flush()

    def receive(self):
        answer, self.stale = json.loads(self.process.stdout.readline())
        return answer

    def feed(self, name, seq, x):
        self.send("feed", name, seq, x)
        return numbers(self.receive())

    def kill(self):
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close(), self.process.stdout.close()


def numbers(answer):
    return torch.from_numpy(np.frombuffer(base64.b64decode(answer), np.float32).copy()).view(-1, 21)


def layer_of():
    torch.manual_seed(0)
    return tt.GRU(5, 21, 2)


@pytest.fixture(params=["sqlite", "valkey"])
def address(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "sessions.db")
    return request.getfixturevalue("key_server").url


@pytest.fixture
def pools(address):
    """Two pools of the same model, each with a store object of its own on one store."""
    stores = [store_of(address) for _ in range(2)]
    pools = [SessionPool(layer_of(), store=store, save_every=1) for store in stores]
    yield pools
    for each in (*pools, *stores):
        each.shutdown() if isinstance(each, SessionPool) else each.close()


def cause(call, *arguments):
    with pytest.raises(SessionError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value.cause


def test_sessions_hop_between_two_processes(address):
    """20 sessions at random between two processes, chunks asked for twice and of both at once; one process is replaced."""
    draws = random.Random(3)
    x = torch.randn(20, 40, 5)
    expected = [tt.stream(layer_of()).feed(each) for each in x]
    replicas = [Replica(address) for _ in range(2)]
    for n in range(20):
        draws.choice(replicas).send("open", str(n))
    # An answer is read where it was asked for; which replica that was is known from the same draws.
    draws = random.Random(3)
    for _ in range(20):
        assert draws.choice(replicas).receive() == ""
    done, seq = [0] * 20, [0] * 20
    stale = asked = 0
    while min(done) < 40:
        n = draws.choice([n for n in range(20) if done[n] < 40])
        piece = slice(done[n], done[n] + draws.choice((1, 2, 7)))
        here, there = draws.sample(replicas, 2)
        what = (str(n), seq[n] + 1, x[n, piece])
        if draws.random() < 0.2:  # both at once
            here.send("feed", *what), there.send("feed", *what)
            assert torch.equal(numbers(there.receive()), expected[n][piece])
            assert torch.equal(numbers(here.receive()), expected[n][piece])
        else:
            assert torch.equal(here.feed(*what), expected[n][piece])
            if draws.random() < 0.2:  # the answer was lost, and another replica is asked again
                assert torch.equal(there.feed(*what), expected[n][piece])
        done[n], seq[n] = min(40, piece.stop), seq[n] + 1
        asked += 1
        if asked == 100:
            stale += replicas[0].stale
            replicas[0].kill()
            replicas[0] = Replica(address)
    assert stale + sum(each.stale for each in replicas) > 10  # the danger was there
    for each in replicas:
        each.kill()


def test_an_older_copy_of_the_same_length_is_not_continued(pools):
    """The chunk fits both copies by its number; only the stored one counts."""
    here, there = pools
    x, other = torch.randn(9, 5), torch.randn(9, 5)
    here.open("a")
    for seq in (1, 2, 3):
        here.feed("a", seq, x[2 * seq - 2 : 2 * seq])
    there.reset("a")
    expected = tt.stream(layer_of()).feed(other)
    for seq in (1, 2, 3):
        y = there.feed("a", seq, other[2 * seq - 2 : 2 * seq])
        assert torch.equal(y, expected[2 * seq - 2 : 2 * seq])
    assert torch.equal(here.feed("a", 3, x[4:6]), expected[4:6])  # the answer that counts to number 3
    there.reset("a")
    for seq in (1, 2, 3):
        there.feed("a", seq, x[2 * seq - 2 : 2 * seq])
    assert torch.equal(here.feed("a", 4, x[6:]), tt.stream(layer_of()).feed(x)[6:])
    assert here.stats()["stale"] == 2
    found = there.feed_many([("a", 5, other), ("b", 1, other)])
    assert torch.equal(found[0], here.feed("a", 5, other))
    assert found[1].cause == "unknown"


def test_what_one_pool_does_the_other_sees(pools):
    here, there = pools
    x = torch.randn(12, 5)
    expected = tt.stream(layer_of()).feed(x)
    here.open("a")
    assert cause(there.open, "a") == "busy"
    y = there.feed("a", 1, x[:5])
    assert torch.equal(y, expected[:5])
    data = here.snapshot("a")  # as there continued it
    fork = here.fork("a")
    assert torch.equal(there.feed(fork, 2, x[5:]), expected[5:])
    assert torch.equal(there.feed("a", 2, x[5:]), expected[5:])
    here.restore("a", data)
    assert cause(there.feed, "a", 3, x) == "sequence"
    assert torch.equal(there.feed("a", 2, x[5:9]), expected[5:9])
    assert torch.equal(here.feed("a", 3, x[9:]), expected[9:])
    here.extra("a")["user"] = "b"
    here.feed("a", 4, x)
    assert there.extra("a") == {"user": "b"}
    there.close("a")
    assert cause(here.feed, "a", 5, x) == "unknown"
    assert cause(here.snapshot, "a") == "unknown"
    assert cause(here.close, "a") == "unknown"
    there.open("a")  # another session of the same name
    assert cause(here.feed, "a", 5, x) == "sequence"
    assert torch.equal(here.feed("a", 1, x), expected)
    with pytest.raises(InputError):
        here.feed("a", 2, torch.zeros(1, 4))


class Rows(Processor):
    """Five numbers are a step; fewer are held until the next chunk, and filled with zeros at the end."""

    def about(self):
        return {"kind": "numbers"}

    def read(self, data, carried):
        values = carried.get("held", []) + list(data)
        whole = len(values) // 5 * 5
        return torch.tensor(values[:whole]).view(-1, 5), {"held": values[whole:]}

    def write(self, outputs, carried):
        return outputs.tolist(), carried

    def flush(self, carried):
        held = carried.get("held", [])
        return torch.tensor(held + [0.0] * (-len(held) % 5)).view(-1, 5), {}


@pytest.mark.parametrize("which", [0, 1], ids=["one pool", "hopping"])
def test_what_a_processor_holds_hops_too(address, which):
    """Chunks of 0 to 12 numbers, each sent to a pool at random, or to the one that does not have the last version."""
    pools = [SessionPool(layer_of(), Rows(), store=store_of(address), save_every=1) for _ in range(2)]
    draws, seq = random.Random(7), 0
    values = torch.randn(203).tolist()
    pools[0].open("a")
    for _ in range(2):  # a flush ends an input, and another begins
        found, place = [], 0
        while place < len(values):
            length = draws.choice((0, 1, 2, 12))
            pool = pools[which and draws.randrange(2)]
            chunk = (seq + 1, values[place : place + length])
            answer = pool.feed("a", *chunk) if draws.random() < 0.5 else pool.feed_many([("a", *chunk)])[0]
            found += answer
            if draws.random() < 0.2:
                assert pools[which].feed("a", *chunk) == answer
            place, seq = place + length, seq + 1
        seq += 1
        found += pools[which].flush("a", seq)
        expected = tt.stream(layer_of()).feed(torch.tensor([*values, 0.0, 0.0]).view(-1, 5))
        assert torch.equal(torch.tensor(found), expected)
    if which:
        assert min(pool.stats()["stale"] for pool in pools) > 5
    for each in pools:
        each.shutdown()
        each.store.close()


class Counted(Rows):
    """Takes a number that is the next, and refuses others: what is refused depends on what is carried."""

    def read(self, data, carried):
        if data != carried.get("number", 0) + 1:
            raise InputError(f"expected {carried.get('number', 0) + 1}, got {data}")
        return torch.full((1, 5), float(data)), {"number": data}


def test_data_is_judged_by_the_latest_version(address):
    here, there = (
        SessionPool(layer_of(), Counted(), store=store_of(address), save_every=1) for _ in range(2)
    )
    here.open("a")
    here.feed("a", 1, 1), here.feed("a", 2, 2)
    there.reset("a")
    there.feed("a", 1, 1)
    there.flush("a", 2)  # as many chunks as here, and before the first number
    with pytest.raises(InputError, match="expected 1, got 3"):
        here.feed("a", 3, 3)
    there.reset("a")
    here.feed("a", 1, 1), here.feed("a", 2, 2), here.feed("a", 3, 3)
    there.reset("a")
    there.feed("a", 1, 1), there.feed("a", 2, 2), there.flush("a", 3)
    assert len(here.feed("a", 4, 1)) == 1
    for each in (here, there):
        each.shutdown()
        each.store.close()


def test_one_of_two_that_open_the_same_name_gets_it(pools, monkeypatch):
    for pool in pools:
        monkeypatch.setattr(pool._live, "in_store", lambda name: False)  # both looked before either wrote
    assert pools[0].open("a") == "a"
    assert cause(pools[1].open, "a") == "busy"
    assert len(pools[1]) == 0
    pools[0].feed("a", 1, torch.randn(2, 5))


def test_a_chunk_is_not_run_for_ever(pools, monkeypatch):
    """A store that refuses every put, as if others were always faster, ends in one line."""
    here, _ = pools
    here.open("a")
    put_many = here.store.put_many
    monkeypatch.setattr(here.store, "put_many", lambda entries, seconds: [None for _ in entries])
    assert cause(here.feed, "a", 1, torch.randn(2, 5)) == "busy"
    assert cause(here.reset, "a") == "busy"
    (error,) = here.feed_many([("a", 1, torch.randn(2, 5))])
    assert error.cause == "busy"
    monkeypatch.setattr(here.store, "put_many", put_many)
    x = torch.randn(2, 5)
    assert torch.equal(here.feed("a", 1, x), tt.stream(layer_of()).feed(x))


def test_many_threads_on_two_pools(pools):
    """Clients that send every chunk to both pools at the same moment; the same chunk is one chunk, wherever it is read."""
    x = torch.randn(6, 18, 5)
    expected = [tt.stream(layer_of()).feed(each) for each in x]
    for n in range(6):
        pools[n % 2].open(str(n))
    errors = []
    together = [threading.Barrier(2) for _ in range(6)]

    def client(n, pool):
        try:
            for seq in range(1, 7):
                together[n].wait(30)
                y = pool.feed(str(n), seq, x[n, 3 * seq - 3 : 3 * seq])
                assert torch.equal(y, expected[n][3 * seq - 3 : 3 * seq])
        except BaseException as error:
            together[n].abort()
            errors.append(error)

    threads = [threading.Thread(target=client, args=(n, pool)) for n in range(6) for pool in pools]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not errors
    assert sum(pool.stats()["stale"] for pool in pools) > 0


@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
def test_a_chunk_that_cannot_be_stored_changes_nothing(pools, monkeypatch, landed):
    """Whether the store broke before it kept the session or after: the chunk is sent again and answered once."""
    here, there = pools
    x = torch.randn(12, 5)
    expected = tt.stream(layer_of()).feed(x)
    names = [here.open(name) for name in "ab"]
    for name in names:
        here.feed(name, 1, x[:4])
    put_many = here.store.put_many

    def breaks(entries, seconds):
        if landed:
            put_many(entries, seconds)
        raise SessionError("store", "the store does not answer")

    monkeypatch.setattr(here.store, "put_many", breaks)
    assert cause(here.feed, "a", 2, x[4:]) == "store"
    assert [each.cause for each in here.feed_many([("b", 2, x[4:])])] == ["store"]
    assert cause(here.open, "c") == "store"
    assert cause(here.reset, "b") == "store"
    assert len(here) == 0
    monkeypatch.setattr(here.store, "put_many", put_many)
    if landed:
        assert there.open("d") and here.feed("b", 1, x) is not None  # it was reset
        there.reset("b"), there.feed("b", 1, x[:4])
    for pool in pools:
        for name in names:
            assert torch.equal(pool.feed(name, 2, x[4:]), expected[4:])


def test_the_store_is_killed_and_comes_back_under_use(key_server):
    """Chunks wait for it, or fail in one line after `patience_s` and are sent again; no session is lost."""
    pools = [
        SessionPool(layer_of(), store=ValkeyStore(key_server.url, patience_s=0.2), save_every=1)
        for _ in range(2)
    ]
    for n in range(8):
        pools[0].open(str(n))
    errors, causes, done = [], [], threading.Event()
    x, references = torch.randn(8, 5, 5), [tt.stream(layer_of()) for _ in range(8)]
    counts = [0] * 8

    def client(n):
        try:
            draws = random.Random(n)
            while not done.is_set() or counts[n] < 5:
                chunk = x[n, : draws.randint(1, 5)]
                while True:
                    try:
                        y = draws.choice(pools).feed(str(n), counts[n] + 1, chunk)
                        break
                    except SessionError as error:
                        causes.append(error.cause)
                assert torch.equal(y, references[n].feed(chunk))
                counts[n] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(8)]
    for each in threads:
        each.start()
    for pause in (0.0, 0.6, 0.05):
        before = sum(counts)
        until = time.monotonic() + 30
        while sum(counts) < before + 20 and time.monotonic() < until:
            time.sleep(0.005)
        key_server.kill()
        time.sleep(pause)
        key_server.start()
    done.set()
    for each in threads:
        each.join(60)
    assert not errors
    assert min(counts) >= 5
    assert set(causes) == {"store"}
    for each in pools:
        each.shutdown()
        each.store.close()


def test_idle_copies_are_dropped_without_a_put(pools, monkeypatch):
    """The store has them already; what an application changed beside the state is stored."""
    here, there = pools
    x = torch.randn(4, 5)
    for name in "ab":
        here.open(name)
        here.feed(name, 1, x)
    here.extra("b")["user"] = 1
    here.idle_s = 0
    puts = []
    put_many = here.store.put_many

    def counting(entries, seconds):
        puts.extend(each.session for each in entries)
        return put_many(entries, seconds)

    monkeypatch.setattr(here.store, "put_many", counting)
    assert here.sweep() == 2
    assert puts == ["b"]
    assert len(here) == 0
    assert there.extra("b") == {"user": 1}
    assert torch.equal(there.feed("a", 2, x), here.feed("b", 2, x))


def test_an_expired_session_is_gone_everywhere(address):
    stores = [store_of(address) for _ in range(2)]
    pools = [SessionPool(layer_of(), store=store, save_every=1, expire_s=0.3) for store in stores]
    x = torch.randn(2, 5)
    pools[0].open("a")
    pools[0].feed("a", 1, x)
    time.sleep(0.4)
    for pool in pools:
        assert cause(pool.feed, "a", 2, x) == "expired"
    assert pools[1].open("a") == "a"
    assert torch.equal(pools[0].feed("a", 1, x), tt.stream(layer_of()).feed(x))
    for each in pools:
        each.shutdown()
        each.store.close()
