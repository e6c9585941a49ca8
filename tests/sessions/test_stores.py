"""What every store promises, of SqliteStore and of ValkeyStore with a real server; and what only one of them does."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time

import pytest

from throughtime.errors import InputError, RunError, SessionError
from throughtime.sessions import SqliteStore, ValkeyStore, store_of
from throughtime.sessions.store import Entry


@pytest.fixture(params=["sqlite", "valkey"])
def address(request, tmp_path):
    """Where a store is, as `store_of` takes it."""
    if request.param == "sqlite":
        return str(tmp_path / "sessions.db")
    return request.getfixturevalue("key_server").url


@pytest.fixture
def store(address):
    store = store_of(address)
    yield store
    store.close()


def cause(call, *arguments):
    with pytest.raises(SessionError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value.cause


def test_what_was_put_is_there(store):
    assert store.get("a") is None
    assert store.version("a") == ""
    data = bytes(range(256)) * 40 + b"\r\n\x00"
    version = store.put("a", data, 60)
    assert store.get("a") == (data, version)
    assert store.version("a") == version
    later = store.put("a", b"later", 60)
    assert later != version
    assert store.get("a") == (b"later", later)
    names = {"a", "ein Ü", "b*[c]?", "x:y\n", "'; DROP TABLE sessions"}
    for name in names:
        store.put(name, name.encode(), 60)
    assert set(store.sessions()) == names
    for name in names:
        assert store.get(name).data == name.encode()
    assert store.delete("a")
    assert not store.delete("a")
    assert store.get("a") is None
    assert set(store.sessions()) == names - {"a"}


def test_a_put_replaces_only_the_version_that_it_follows(store):
    first = store.put("a", b"1", 60, "")
    assert first
    assert store.put("a", b"other", 60, "") is None  # there is one
    second = store.put("a", b"2", 60, first)
    assert second
    assert store.put("a", b"stale", 60, first) is None
    assert store.get("a") == (b"2", second)
    store.delete("a")
    assert store.put("a", b"3", 60, second) is None  # closed meanwhile
    assert store.get("a") is None
    again = store.put("a", b"4", 60, "")
    assert again not in (first, second)
    assert store.put("a", b"stale", 60, second) is None  # another session of the same name
    entries = [Entry("a", b"5", again), Entry("b", b"1", "x"), Entry("c", b"1", ""), Entry("d", b"1", None)]
    versions = store.put_many(entries, 60)
    assert [each is None for each in versions] == [False, True, False, False]
    assert {name: store.get(name).data for name in store.sessions()} == {"a": b"5", "c": b"1", "d": b"1"}
    assert store.put_many([], 60) == []


def test_expired_is_not_unknown(store):
    version = store.put("short", b"x", 0.3)
    store.put("long", b"x", 60)
    assert store.get("short").data == b"x"
    time.sleep(0.4)
    assert cause(store.get, "short") == "expired"
    assert store.version("short") == ""
    assert set(store.sessions()) == {"long"}
    assert store.put("short", b"y", 60, version) is None
    assert store.put("short", b"y", 0.1, "")  # the name is free
    store.sweep()
    time.sleep(0.3)
    store.sweep()
    assert store.get("short") is None  # forgotten, after as long again


def test_of_puts_after_the_same_version_one_is_kept(address):
    """Four clients read a number at the same moment, and each puts one more: in each of 20 rounds exactly one put is kept."""
    stores = [store_of(address) for _ in range(4)]
    stores[0].put("n", b"0", 60)
    errors, kept, together = [], [], threading.Barrier(4)

    def client(store):
        try:
            for number in range(20):
                found = store.get("n")
                together.wait(30)
                if store.put("n", str(int(found.data) + 1).encode(), 60, found.version):
                    kept.append(number)
                together.wait(30)
        except BaseException as error:
            together.abort()
            errors.append(error)

    threads = [threading.Thread(target=client, args=(each,)) for each in stores]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not errors
    assert stores[0].get("n").data == b"20"
    assert kept == list(range(20))
    for each in stores:
        each.close()


def test_another_object_finds_it(address, store):
    version = store.put("a", b"1", 60)
    other = store_of(address)
    assert other.get("a") == (b"1", version)
    other.close()


def test_addresses(tmp_path, monkeypatch):
    assert isinstance(store_of(str(tmp_path / "a.db")), SqliteStore)
    with pytest.raises(InputError, match=r"valkey://, .*redis://"):
        store_of("http://localhost")
    with pytest.raises(RunError, match="store of sessions"):
        store_of(str(tmp_path / "no folder" / "a.db"))
    monkeypatch.setitem(sys.modules, "valkey", None)
    with pytest.raises(InputError, match=r"pip install 'throughtime\[valkey\]'") as caught:
        store_of("valkey://user:secret@localhost:1/0")
    assert "secret" not in str(caught.value)


def test_a_table_of_other_columns_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE sessions (name TEXT PRIMARY KEY, data BLOB)")
    connection.close()
    with pytest.raises(RunError, match="no such column"):
        SqliteStore(tmp_path / "a.db")


def test_a_file_that_fails_is_told(tmp_path):
    store = SqliteStore(tmp_path / "a.db")
    store.put("a", b"1", 60)
    store._connection.execute("DROP TABLE sessions")
    for call in (lambda: store.put("a", b"2", 60), lambda: store.get("a"), lambda: store.version("a")):
        assert cause(call) == "store"
    store.close()


def test_two_prefixes_do_not_meet(key_server):
    a, b = ValkeyStore(key_server.url, prefix="a*:"), ValkeyStore(key_server.url, prefix="a:")
    a.put("x", b"1", 60)
    b.put("y", b"2", 60)
    assert [set(each.sessions()) for each in (a, b)] == [{"x"}, {"y"}]
    assert a.get("y") is None
    a.close(), b.close()


def test_a_server_that_is_killed_and_comes_back(key_server):
    store = ValkeyStore(key_server.url, patience_s=20)
    version = store.put("a", b"1", 60)
    key_server.kill()
    back = threading.Timer(0.5, key_server.start)
    back.start()
    assert store.get("a") == (b"1", version)  # waits for it
    back.join()
    key_server.kill()
    key_server.start()
    assert store.put("a", b"2", 60, version)  # at once: only the connection was lost
    store.close()


def test_a_server_that_stays_away_is_told_in_one_line(key_server):
    store = ValkeyStore(key_server.url, patience_s=0.3)
    store.put("a", b"1", 60)
    key_server.kill()
    for call in (lambda: store.get("a"), lambda: store.put("a", b"2", 60), lambda: store.delete("a")):
        with pytest.raises(SessionError, match=f"127.0.0.1:{key_server.port}.* does not answer") as caught:
            call()
        assert caught.value.cause == "store"
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    with pytest.raises(RunError, match="does not answer"):
        ValkeyStore(key_server.url, patience_s=0.05)
    key_server.start()
    assert store.get("a").data == b"1"
    store.close()
    with pytest.raises(
        RunError, match="refused a command: invalid username-password"
    ):  # and is not asked again
        ValkeyStore(key_server.url.replace("secret", "wrong"), patience_s=1e9)
    for wrong in ("valkey://localhost:many", "valkey://localhost?db=x"):
        with pytest.raises(InputError, match="cannot be read"):
            store_of(wrong)


def test_a_put_whose_answer_was_lost_is_kept_once(key_server, monkeypatch):
    """The server did it, the connection broke: the second try must not take its own put for another's."""
    store = ValkeyStore(key_server.url)
    version = store.put("a", b"1", 60, "")
    pipeline, broken = store._client.pipeline, []

    def breaks_once(**options):
        pipe = pipeline(**options)
        execute = pipe.execute

        def then_fails():
            found = execute()
            if not broken:
                broken.append(1)
                raise store._errors.ConnectionError("Connection reset by peer")
            return found

        pipe.execute = then_fails
        return pipe

    monkeypatch.setattr(store._client, "pipeline", breaks_once)
    later = store.put("a", b"2", 60, version)
    assert broken
    assert store.get("a") == (b"2", later)
    store.close()
