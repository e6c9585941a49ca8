"""Pools of sessions: no bit of a session depends on the others, nothing is lost or mixed, and wrong chunks change nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

import pytest
import torch

import throughtime as tt
from throughtime.errors import InputError, RunError, SessionError
from throughtime.sessions import SessionPool, SqliteStore


def layer_of(seed=0):
    torch.manual_seed(seed)
    return tt.GRU(5, 21, 2)


def cause(call, *arguments):
    with pytest.raises(SessionError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value.cause


def alone(layer, x):
    return tt.stream(layer).feed(x)


def test_company_changes_no_bit():
    layer, draws = layer_of(), random.Random(1)
    x = torch.randn(40, 30, 5)
    expected = [alone(layer, each) for each in x]
    with SessionPool(layer, max_batch=17, max_steps=6) as pool:
        for n in range(40):
            pool.open(str(n))
        nan = pool.open("nan")
        done, found = [0] * 40, [[] for _ in range(40)]
        while min(done) < 30:
            rows = [n for n in range(40) if done[n] < 30 and draws.random() < 0.6]
            draws.shuffle(rows)
            lengths = [min(draws.choice((1, 1, 2, 13)), 30 - done[n]) for n in rows]
            chunks = [
                (str(n), len(found[n]) + 1, x[n, done[n] : done[n] + length])
                for n, length in zip(rows, lengths, strict=True)
            ]
            chunks.insert(
                len(chunks) // 2, (nan, pool.stats()["batches"] + 10**6, torch.zeros(1, 5))
            )  # refused
            answers = pool.feed_many(chunks)
            assert isinstance(answers.pop(len(rows) // 2), SessionError)
            for n, length, y in zip(rows, lengths, answers, strict=True):
                found[n].append(y)
                done[n] += length
        for n in range(40):
            assert torch.equal(torch.cat(found[n]), expected[n])


def test_neighbours_full_of_nan():
    layer, x = layer_of(), torch.randn(9, 5)
    expected = alone(layer, x)
    with SessionPool(layer) as pool:
        names = [pool.open() for _ in range(12)]
        chunks = [(name, 1, torch.full((9, 5), float("nan"))) for name in names]
        chunks[5] = (names[5], 1, x)
        assert torch.equal(pool.feed_many(chunks)[5], expected)
        y = pool.feed_many([(name, 2, x) for name in names])
        assert bool(y[4].isnan().all())
        assert not bool(y[5].isnan().any())


def test_from_many_threads():
    layer = layer_of()
    x = torch.randn(16, 25, 5)
    expected, found, errors = [alone(layer, each) for each in x], {}, []
    with SessionPool(layer, max_steps=3, max_batch=5) as pool:

        def client(number):
            try:
                draws, parts, place, name = random.Random(number), [], 0, pool.open()
                while place < 25:
                    length = min(draws.choice((1, 2, 8)), 25 - place)
                    parts.append(pool.feed(name, len(parts) + 1, x[number, place : place + length]))
                    place += length
                found[number] = torch.cat(parts)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=client, args=(n,)) for n in range(16)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert not errors
    assert all(torch.equal(found[n], expected[n]) for n in range(16))


def test_numbers_of_chunks():
    layer, x = layer_of(), torch.randn(12, 5)
    with SessionPool(layer) as pool:
        name = pool.open()
        first = pool.feed(name, 1, x[:4])
        assert torch.equal(pool.feed(name, 1, x[:4]), first)  # repeated: the same answer, nothing is read
        assert cause(pool.feed, name, 3, x[4:]) == "sequence"
        assert cause(pool.feed, name, 0, x[4:]) == "sequence"
        with pytest.raises(InputError):
            pool.feed(name, 2, torch.zeros(3, 4))
        with pytest.raises(InputError, match="at least one step"):
            pool.feed(name, 2, torch.zeros(0, 5))
        assert torch.equal(torch.cat([first, pool.feed(name, 2, x[4:])]), alone(layer, x))
        assert cause(pool.feed, "other", 1, x) == "unknown"
        assert cause(pool.open, name) == "busy"
        pool.close(name)
        assert cause(pool.feed, name, 3, x) == "unknown"
        assert cause(pool.close, name) == "unknown"
    assert cause(pool.open) == "closed"


def test_a_failed_chunk_leaves_the_session_as_it_was(monkeypatch):
    layer, x = layer_of(), torch.randn(20, 5)
    with SessionPool(layer, max_steps=4) as pool:
        name, other = pool.open(), pool.open()
        pool.feed(name, 1, x[:3])
        run, calls = pool._engine.run, []

        def failing(slots, chunks):
            calls.append(slots)
            if any(len(each) == 1 for each in chunks):  # the last piece of x[3:20], 17 = 4 * 4 + 1
                raise MemoryError("no memory")
            return run(slots, chunks)

        monkeypatch.setattr(pool._engine, "run", failing)
        found = pool.feed_many([(name, 2, x[3:]), (other, 1, x[:16])])
        assert isinstance(found[0], MemoryError)
        assert torch.equal(found[1], alone(layer, x)[:16])
        assert len(calls) >= 5
        monkeypatch.setattr(pool._engine, "run", run)
        assert torch.equal(pool.feed(name, 2, x[3:]), alone(layer, x)[3:])


def test_a_long_chunk_does_not_keep_others_waiting():
    layer = layer_of()
    order = []
    with SessionPool(layer, max_steps=2, max_batch=1, max_wait_ms=0) as pool:
        names = [pool.open() for _ in range(2)]
        run = pool._engine.run
        started, free = threading.Event(), threading.Event()

        def slow(slots, chunks):
            started.set()
            free.wait(5)
            order.append(slots[0])
            return run(slots, chunks)

        pool._engine.run = slow
        threads = [
            threading.Thread(target=pool.feed, args=(names[0], 1, torch.randn(20, 5))),
            threading.Thread(target=pool.feed, args=(names[1], 1, torch.randn(2, 5))),
        ]
        threads[0].start()
        started.wait(5)
        assert cause(pool.feed, names[0], 1, torch.randn(2, 5)) == "busy"
        assert cause(pool.snapshot, names[0]) == "busy"
        assert cause(pool.close, names[0]) == "busy"
        threads[1].start()
        while pool.stats()["waiting"] < 1:
            pass
        free.set()
        for each in threads:
            each.join()
    slots = list(dict.fromkeys(order))
    assert order.count(slots[0]) == 10
    assert order.index(slots[1]) < 4


def test_snapshot_restore_fork_reset():
    layer, x = layer_of(), torch.randn(10, 5)
    with SessionPool(layer) as pool, SessionPool(layer_of()) as same, SessionPool(layer_of(1)) as different:
        name = pool.open()
        first = pool.feed(name, 1, x)
        pool.extra(name)["undecoded"] = [1, 2]
        data = pool.snapshot(name)
        twin = pool.fork(name)
        second = pool.feed(name, 2, x)
        assert torch.equal(pool.feed(twin, 2, x), second)
        moved = same.open(state=data)
        assert same.extra(moved) == {"undecoded": [1, 2]}
        assert torch.equal(same.feed(moved, 1, x), first)  # the last answer came with it
        assert torch.equal(same.feed(moved, 2, x), second)
        pool.restore(name, data)
        assert torch.equal(pool.feed(name, 2, x), second)
        assert cause(different.open, None, data) == "snapshot"
        assert cause(pool.restore, name, data[:-5]) == "snapshot"
        assert len(different) == 0
        pool.reset(name)
        assert torch.equal(pool.feed(name, 1, x), first)


def test_sessions_that_do_not_fit_are_kept_in_the_store(tmp_path):
    layer, x = layer_of(), torch.randn(30, 12, 5)
    now = [0.0]
    store = SqliteStore(tmp_path / "sessions.db", clock=lambda: now[0])
    with SessionPool(layer, max_live=4, store=store, expire_s=100, clock=lambda: now[0]) as pool:
        for n in range(30):
            pool.open(str(n))
        found = [[] for _ in range(30)]
        for seq in range(1, 5):
            for n in random.Random(seq).sample(range(30), 30):
                found[n].append(pool.feed(str(n), seq, x[n, 3 * seq - 3 : 3 * seq]))
        assert len(pool) == 4
        assert pool.stats()["moved"] > 100
        for n in range(30):
            assert torch.equal(torch.cat(found[n]), alone(layer, x[n]))
        assert cause(pool.open, "7") == "busy"
        pool.close("7")
        assert cause(pool.feed, "7", 5, x[7]) == "unknown"
        now[0] = 50
        assert torch.equal(pool.feed("8", 4, x[8]), found[8][3])  # a repeated chunk, also from the store
        now[0] = 140
        live = [n for n in range(30) if str(n) in pool._sessions]
        gone = next(n for n in range(30) if n not in live and n != 7)
        assert cause(pool.feed, str(gone), 5, x[0]) == "expired"
        assert pool.open(str(gone)) == str(gone)
        now[0] = 400
        store.sweep()
        assert set(store.sessions()) == set()
    with SessionPool(layer, max_live=2) as pool:
        pool.open(), pool.open()
        assert cause(pool.open) == "full"
    (tmp_path / "text").write_text("x" * 5000)
    with pytest.raises(RunError, match="store of sessions"):
        SqliteStore(tmp_path / "text")


def test_idle_sessions_move_and_shutdown_saves_all(tmp_path):
    layer, x, now = layer_of(), torch.randn(6, 5), [0.0]
    store = SqliteStore(tmp_path / "sessions.db", clock=lambda: 0.0)
    pool = SessionPool(layer, store=store, idle_s=10, clock=lambda: now[0])
    a, b = pool.open("a"), pool.open("b")
    pool.feed(a, 1, x[:2])
    now[0] = 8
    pool.feed(b, 1, x[:3])
    now[0] = 12
    assert pool.sweep() == 1
    assert set(pool._sessions) == {"b"}
    assert torch.equal(pool.feed(a, 2, x[2:]), alone(layer, x)[2:])
    pool.shutdown()
    with SessionPool(layer, store=store) as later:
        assert torch.equal(later.feed(b, 2, x[3:]), alone(layer, x)[3:])


def test_one_session_that_cannot_be_saved_keeps_no_other(tmp_path):
    layer, x = layer_of(), torch.randn(4, 5)
    store = SqliteStore(tmp_path / "sessions.db")
    pool = SessionPool(layer, store=store, idle_s=0, max_batch=2)
    for name in "abcde":
        pool.feed(pool.open(name), 1, x)
    pool.extra("c")["user"] = object()
    with pytest.raises(InputError, match="JSON"):
        pool.sweep()
    assert set(pool._sessions) == {"c"}
    del pool.extra("c")["user"]
    pool.shutdown()
    assert set(store.sessions()) == set("abcde")


def test_nothing_is_lost_when_the_process_is_killed(tmp_path):
    code = """
import os, signal, sys, torch, throughtime as tt
from throughtime.sessions import SessionPool, SqliteStore
torch.manual_seed(0)
layer = tt.GRU(5, 21, 2)
x = torch.load(sys.argv[1] + "/x")
pool = SessionPool(layer, store=SqliteStore(sys.argv[1] + "/db"), save_every=1)
for name in "abc":
    pool.open(name)
    pool.feed(name, 1, x[:4])
pool.feed("b", 2, x[4:6])
os.kill(os.getpid(), signal.SIGKILL)
"""
    layer, x = layer_of(), torch.randn(9, 5)
    torch.save(x, tmp_path / "x")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    expected = alone(layer, x)
    with SessionPool(layer, store=SqliteStore(tmp_path / "db"), save_every=1) as pool:
        assert torch.equal(pool.feed("a", 2, x[4:]), expected[4:])
        assert torch.equal(
            pool.feed("b", 2, x[4:6]), expected[4:6]
        )  # the answer may have been lost on the way
        assert torch.equal(pool.feed("b", 3, x[6:]), expected[6:])


def test_models_that_native_cannot_run():
    torch.manual_seed(0)
    layer = tt.GRU(5, 8, layer_norm=True).eval()
    x = torch.randn(3, 12, 5)
    with SessionPool(layer, max_steps=5) as pool:
        assert not pool.native
        names = [pool.open() for _ in range(3)]
        found = pool.feed_many([(name, 1, x[n]) for n, name in enumerate(names)])
        with torch.no_grad():
            for n in range(3):
                torch.testing.assert_close(found[n], layer(x[n])[0], atol=1e-6, rtol=1e-5)
        data = pool.snapshot(names[0])
        assert torch.equal(pool.feed(pool.open(state=data), 2, x[1]), pool.feed(names[0], 2, x[1]))


def test_arguments():
    layer = layer_of()
    for wrong in ({"max_live": 0}, {"max_batch": 1.5}, {"save_every": 1}):
        with pytest.raises(InputError):
            SessionPool(layer, **wrong)


def test_submitted_chunks_are_answered_later_and_can_be_given_up():
    layer, x = layer_of(), torch.randn(9, 5)
    stream, seen, running = tt.stream(layer), [], []

    def on_batch(*found):
        seen.append(found)
        assert not any(each.cancel() for each in running)  # they have begun

    with SessionPool(layer, max_wait_ms=300) as pool:
        pool.on_batch = on_batch
        pool.open("a")
        pool.open("b")  # for which a chunk of the other one waits
        first = pool.submit("a", 1, x[:4])
        with pytest.raises(SessionError, match="being read"):
            pool.submit("a", 2, x[4:])
        assert first.cancel() and first.cancelled()
        assert pool.position("a") == (0, 0)
        again = pool.submit("a", 1, x[:4])
        running.append(again)
        other = pool.submit("b", 1, x)
        assert torch.equal(again.result(20), stream.feed(x[:4]))
        assert torch.equal(other.result(20), alone(layer, x))
        assert not again.cancel()
        assert pool.submit("a", 1, x).result(0) is again.result()
        assert pool.last("a") is again.result() and pool.position("a") == (1, 4)
        assert {name: value.tolist() for name, value in pool.state("a").items()} == {
            name: value.tolist() for name, value in stream.state.items()
        }
        broken = pool.submit("a", 2, x[4:])
        engine, pool._engine.run = pool._engine.run, None  # every call of the model fails
        with pytest.raises(TypeError):
            broken.result(20)
        pool._engine.run = engine
        assert torch.equal(pool.submit("a", 2, x[4:]).result(20), stream.feed(x[4:]))
        with pytest.raises(InputError, match="flush is for"):
            pool.submit("a", 3, final=True)
        assert "a" in pool and "c" not in pool
    chunks, seconds, waits = seen[0]
    assert chunks == len(waits) == 2 and seconds > 0 and all(0 <= each < 20 for each in waits)
    assert pool.new_engine().identity == pool.identity
