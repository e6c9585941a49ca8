"""A client of a server's sessions: a socket that is connected anew when it drops, and chunks that are never read twice."""

from __future__ import annotations

import json
import secrets
import threading
import time
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from throughtime.errors import InputError, SessionError, ThroughtimeError
from throughtime.serve.gate import PROTOCOL
from throughtime.serve.refusals import Refused
from throughtime.serve.wire import DTYPES, dumps, pack, unpack

_WAITS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)  # seconds before each further attempt
_AGAIN = ("closed", "full", "store")  # causes that may have gone a moment later


class Client:
    """Sessions of a server over one WebSocket: `with Client("http://127.0.0.1:8000") as client: session = client.open()`.

    A connection that drops is made again, a few times with growing waits, and what was not answered is sent again: chunks are
    numbered, so none is read twice. One client may be used by several threads; their requests take turns.

    Args:
        url: the server's address. token: what it asks for; None: nothing.
        timeout: seconds for one answer, and for a connection.
        retries: attempts after the first; 0: none.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 30.0, retries: int = len(_WAITS)
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
            raise InputError(f"url must be an address as http://127.0.0.1:8000, got {url!r:.80}")
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        self.url = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/v1/stream"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout, self._retries = timeout, retries
        self._socket: ClientConnection | None = None
        self._lock = threading.Lock()

    def open(
        self,
        model: str | None = None,
        id: str | None = None,
        *,
        state: bytes | None = None,
        resume: bool = False,
    ) -> RemoteSession:
        """A session. Args: model, None for the only one; id, of your choice; state, a snapshot to go on from.

        With `resume` the session `id` that is there already, at the chunk where it is.
        Raises: SessionError "busy" where the id is in use, "unknown" where none is resumed; InputError for another model.
        """
        own = id is None
        name = secrets.token_urlsafe(12) if id is None else id
        if resume and id is None:
            raise InputError("resume needs the id of a session")
        message = {
            "type": "open",
            "session": name,
            "resume": resume,
            **({} if model is None else {"model": model}),
        }
        # A name that was drawn here is in use only where the answer to an earlier attempt was lost.
        found = self.request(message, state, instead={"busy": {**message, "resume": True}} if own else {})
        return RemoteSession(self, name, str(found["model"]), int(found["seq"]))

    def request(
        self, message: dict[str, Any], payload: Any = None, instead: dict[str, dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Send a message, and give the answer; connect again and send again where the connection drops meanwhile.

        Args: instead, the message to send for a cause with which a further attempt was refused.
        Raises: SessionError, InputError, and others of ThroughtimeError, as the server refused it.
        """
        with self._lock:
            for attempt in range(self._retries + 1):
                try:
                    return self._exchange(message, payload)
                except _Again as again:
                    failed = again.error
                except SessionError as error:
                    if attempt and instead and error.cause in instead:
                        message, payload, instead = instead[error.cause], None, None
                        if not message:
                            return {}
                        continue
                    if not attempt or error.cause != "busy":
                        raise
                    failed = error  # with what an earlier attempt sent
                if attempt < self._retries:
                    time.sleep(_WAITS[min(attempt, len(_WAITS) - 1)])
        raise failed

    def close(self) -> None:
        """Close the connection; sessions stay, and can be resumed."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(self, message: dict[str, Any], payload: Any) -> dict[str, Any]:
        """One attempt. Raises: _Again where another one may succeed."""
        tag = secrets.token_hex(8)
        sent = {**message, "request": tag}
        data = dumps(sent) if payload is None else pack(sent, payload)
        try:
            socket = self._connected()
            socket.send(data)
            until = time.monotonic() + self._timeout
            while True:
                answer = _parsed(socket.recv(max(0.0, until - time.monotonic())))
                if answer.get("request") == tag:
                    break
        except ConnectionClosed as error:
            self._drop()
            if error.rcvd is not None and error.rcvd.code == 1009:
                raise InputError("the message is larger than the server takes: feed smaller chunks") from None
            raise _Again(
                SessionError("closed", f"the connection to {self.url} was lost: {_line(error)}")
            ) from None
        except InvalidStatus as error:
            raise _refusal(error) from None
        except (OSError, WebSocketException) as error:  # TimeoutError is one of OSError
            self._drop()
            raise _Again(SessionError("closed", f"{self.url} does not answer: {_line(error)}")) from None
        if answer["type"] == "error":
            found = _error(answer["cause"], answer["message"])
            raise _Again(found) if answer["cause"] in _AGAIN else found
        return answer

    def _connected(self) -> ClientConnection:
        if self._socket is None:
            # Entered, as the library asks for; what leaves the block is `close`.
            self._socket = connect(
                self.url,
                additional_headers=self._headers,
                subprotocols=[Subprotocol(PROTOCOL)],
                open_timeout=self._timeout,
                max_size=None,
                compression=None,
                proxy=None,
            ).__enter__()
            self._socket.send(
                dumps({"type": "credit", "credit": 2**31 - 1})
            )  # each answer is awaited before the next request
        return self._socket

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close_socket()
        self._socket = None


class RemoteSession:
    """A session of a server; make one with `Client.open`.

    Attributes: id; model, its name; seq, the last chunk that was answered.
    """

    def __init__(self, client: Client, id: str, model: str, seq: int) -> None:
        self._client, self.id, self.model, self.seq = client, id, model, seq

    def feed(self, data: Any) -> Any:
        """Read a chunk, as the model's processor takes it: text, numbers [t, D], samples [t]; the answer.

        Arrays go as bytes (float32, int16 or int64; others are made float32), everything else as JSON.
        Raises: as `SessionPool.feed`; the session is then as it was before, and the chunk may be fed again.
        """
        message = {"type": "chunk", "session": self.id, "seq": self.seq + 1}
        array = _array(data)
        found = self._client.request({**message, "data": data} if array is None else message, array)
        self.seq += 1
        return found["answer"]

    def flush(self) -> Any:
        """End the input: the answer to what was still held. The session is then before its first step again."""
        found = self._client.request({"type": "flush", "session": self.id, "seq": self.seq + 1})
        self.seq += 1
        return found["answer"]

    def reset(self) -> None:
        """Go back to before the first step; the next chunk is number 1."""
        self._client.request({"type": "reset", "session": self.id})
        self.seq = 0

    def snapshot(self) -> bytes:
        """The session at this moment, for `restore` and `Client.open`."""
        found: bytes = self._client.request({"type": "snapshot", "session": self.id})["payload"]
        return found

    def restore(self, state: bytes) -> None:
        """Go to where a snapshot was taken."""
        found = self._client.request({"type": "restore", "session": self.id}, bytes(state))
        self.seq = int(found["seq"])

    def fork(self, id: str | None = None) -> RemoteSession:
        """Another session that goes on from here."""
        name = secrets.token_urlsafe(12) if id is None else id
        resumed = {"type": "open", "session": name, "resume": True}
        message = {"type": "fork", "session": self.id, "new": name}
        found = self._client.request(message, instead={"busy": resumed} if id is None else {})
        return RemoteSession(self._client, name, self.model, int(found["seq"]))

    def close(self) -> None:
        """End the session; its state is freed."""
        self._client.request({"type": "close", "session": self.id}, instead={"unknown": {}})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()

    def __repr__(self) -> str:
        return f"<RemoteSession {self.id} of {self.model} after chunk {self.seq}>"


class _Again(Exception):
    """Another attempt may succeed; `error` is what is raised where none is left."""

    def __init__(self, error: ThroughtimeError) -> None:
        super().__init__(str(error))
        self.error = error


def _parsed(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        header, payload = unpack(message)
        return {**header, "payload": payload}
    found: dict[str, Any] = json.loads(message)
    return found


def _array(data: Any) -> np.ndarray[Any, Any] | None:
    """Arrays and tensors as a binary message has them; None for other data."""
    if not hasattr(data, "__array__"):
        return None
    found = np.asarray(data)
    return found if str(found.dtype) in DTYPES else found.astype(np.float32)


def _error(cause: str, message: str) -> ThroughtimeError:
    """What a refusal is in Python."""
    if cause in SessionError.CAUSES:
        return SessionError(cause, message)
    return InputError(message) if cause in ("input", "large", "not_found") else Refused(cause, message)


def _refusal(error: InvalidStatus) -> Exception:
    """What was refused before there was a connection."""
    try:
        found = json.loads(error.response.body or b"")["error"]
        refused = _error(found["code"], found["message"])
        return _Again(refused) if found["code"] in (*_AGAIN, "quota") else refused
    except (ValueError, KeyError, TypeError):
        return _Again(SessionError("closed", f"the server answered with status {error.response.status_code}"))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
