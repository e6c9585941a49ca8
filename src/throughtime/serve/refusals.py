"""Why a request is refused: causes, their HTTP status, and the body of the answer. One table for HTTP, WebSocket and client."""

from __future__ import annotations

from typing import Any, NamedTuple

from throughtime.errors import InputError, SessionError, ThroughtimeError

STATUS = {
    "input": 400,  # data, a value or a message that cannot be used
    "token": 401,
    "origin": 403,
    "unknown": 404,  # a session
    "not_found": 404,  # a path or a model
    "method": 405,
    "busy": 409,
    "cancelled": 409,
    "expired": 410,
    "sequence": 412,
    "snapshot": 412,
    "large": 413,
    "quota": 429,
    "internal": 500,
    "full": 503,
    "closed": 503,
    "store": 503,
}
RETRY_S = {"quota": 10, "full": 1, "closed": 2, "store": 2}  # seconds after which it may go through


class Refused(ThroughtimeError):
    """A request that the server does not serve; `cause` is one of STATUS."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.status_code = STATUS[cause]  # for routes of other modules that answer by themselves


class Refusal(NamedTuple):
    """What a client is told."""

    cause: str
    message: str

    @property
    def status(self) -> int:
        """As HTTP has it."""
        return STATUS[self.cause]

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After where another attempt may go through; how to authenticate where a token is missing."""
        found = {"retry-after": str(RETRY_S[self.cause])} if self.cause in RETRY_S else {}
        return found | ({"www-authenticate": "Bearer"} if self.cause == "token" else {})

    @property
    def body(self) -> dict[str, Any]:
        """An error in OpenAI's form."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.cause}}


def refusal_of(error: BaseException) -> Refusal:
    """What a client is told of an error. A defect of the server is told without its details."""
    message = " ".join(str(error).split())
    if isinstance(error, (SessionError, Refused)):
        return Refusal(error.cause, message)
    if isinstance(error, (InputError, ThroughtimeError)):
        return Refusal("input", message)
    if isinstance(error, MemoryError):
        return Refusal("full", "the server has no memory left for this: try again later")
    return Refusal("internal", "the server failed; its log says why")
