"""Sessions in a Valkey or Redis server, which servers on several machines may share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from throughtime.errors import InputError, RunError, SessionError
from throughtime.sessions.store import Entry, Store, Stored, expired, new_version

SCHEMES = ("valkey", "valkeys", "redis", "rediss", "unix")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds between two tries
T = TypeVar("T")

# A put whose answer was lost is sent again: it finds its own version and is kept, so a try more changes nothing.
_PUT = """
local version, data, after, compare = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local found = redis.call('HGET', KEYS[1], 'version') or ''
if compare == '1' and found ~= after and found ~= version then return 0 end
redis.call('HSET', KEYS[1], 'version', version, 'data', data)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('SET', KEYS[2], '', 'PX', ARGV[6])
return 1
"""


class ValkeyStore(Store):
    """Sessions in a server of Valkey or Redis (4 or newer; no cluster).

    Two keys for each session: `<prefix>session:<id>`, a hash of `version` and `data`, and `<prefix>name:<id>`, which stays twice
    as long and tells a session that expired from one that never was. The server frees both. What survives a restart of the
    server is what it wrote to disk: with `appendonly yes` all but the last second, with `appendfsync always` all.

    Args:
        url: valkey://[user:password@]host:port/db, redis://..., valkeys:// and rediss:// with TLS, unix://path.
        prefix: of all keys, so that other programs can use the same database.
        timeout_s: of one answer. patience_s: for how long a command is tried again while the server is away; a store that
        stayed away for so long fails at the first try until it is back.

    Raises: InputError for an address that cannot be read, or without the package `valkey`; RunError where no server answers.
    """

    def __init__(
        self, url: str, prefix: str = "throughtime:", timeout_s: float = 2.0, patience_s: float = 5.0
    ) -> None:
        try:
            import valkey
            from valkey.backoff import NoBackoff
            from valkey.retry import Retry
        except ImportError:
            raise InputError(
                f"the store {_public(url)} needs the package valkey, which is not installed: pip install 'throughtime[valkey]'"
            ) from None
        self.prefix, self.patience_s = prefix, patience_s
        self._address, self._errors, self._away = _public(url), valkey.exceptions, False
        try:
            self._client: Any = valkey.Valkey.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),  # `_call` tries again
            )
            self._call(self._client.ping)
        except (ValueError, TypeError) as error:
            raise InputError(f"the store's address {self._address} cannot be read: {error}") from None
        except SessionError as error:
            raise RunError(str(error)) from None

    def _keys(self, session: str) -> tuple[str, str]:
        return f"{self.prefix}session:{session}", f"{self.prefix}name:{session}"

    def put_many(self, entries: Sequence[Entry], seconds: float) -> list[str | None]:
        life = max(1, round(seconds * 1000))
        versions = [new_version() for _ in entries]

        def send() -> list[int]:
            pipe = self._client.pipeline(transaction=False)
            for entry, version in zip(entries, versions, strict=True):
                compared = (entry.after or "", int(entry.after is not None))
                pipe.eval(_PUT, 2, *self._keys(entry.session), version, entry.data, *compared, life, 2 * life)
            return list(pipe.execute())

        kept = self._call(send)
        return [version if done else None for version, done in zip(versions, kept, strict=True)]

    def get(self, session: str) -> Stored | None:
        key, name = self._keys(session)

        def ask() -> tuple[list[bytes | None], int]:
            pipe = self._client.pipeline(transaction=True)
            return tuple(pipe.hmget(key, "data", "version").exists(name).execute())

        (data, version), known = self._call(ask)
        if data is not None and version is not None:
            return Stored(data, version.decode())
        if known:
            raise expired(session)
        return None

    def version(self, session: str) -> str:
        found = self._call(lambda: self._client.hget(self._keys(session)[0], "version"))
        return "" if found is None else found.decode()

    def delete(self, session: str) -> bool:
        return bool(self._call(lambda: self._client.delete(*self._keys(session))))

    def sessions(self) -> Iterator[str]:
        first = f"{self.prefix}session:"
        literal = "".join(
            f"[{each}]" if each in "*?[" else "\\\\" if each == "\\" else each for each in first
        )
        keys = self._call(lambda: list(self._client.scan_iter(match=f"{literal}*", count=1000)))
        return (name.decode().removeprefix(first) for name in sorted(set(keys)))

    def close(self) -> None:
        self._client.close()

    def _call(self, command: Callable[[], T]) -> T:
        """A command's answer, tried again while the server is away. Every command may be sent twice."""
        until = time.monotonic() + (0.0 if self._away else self.patience_s)
        pause = _FIRST_PAUSE
        while True:
            try:
                answer = command()
            except (self._errors.AuthenticationError, self._errors.ResponseError) as error:
                raise self._failed(f"refused a command: {error}", "see its settings and its log") from None
            except self._errors.ValkeyError as error:
                if time.monotonic() + pause > until:
                    self._away = True
                    raise self._failed(f"does not answer: {error}", "start it, or try again later") from None
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._away = False
                return answer

    def _failed(self, what: str, advice: str) -> SessionError:
        what = " ".join(what.split()).rstrip(".")
        return SessionError("store", f"the store {self._address} {what}; {advice}")


def _public(url: str) -> str:
    """An address without the password in it."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
