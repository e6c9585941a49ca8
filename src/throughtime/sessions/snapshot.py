"""A session at one moment, as bytes: safetensors with a checksum, and JSON in its header. Nothing in it can run code."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from torch import Tensor

from throughtime.errors import SessionError
from throughtime.runs.tensors import tensors_from_bytes, tensors_to_bytes

FORMAT = 1
_KEY = "throughtime.session"


class Snapshot(NamedTuple):
    """Enough to continue a session in another process to the same bits.

    extra: what an application keeps beside the state, as JSON: undecoded bytes, a random seed, the settings of a decoder.
    """

    model: str  # `Engine.identity`
    state: dict[str, Tensor]
    seq: int = 0  # chunks read
    steps: int = 0  # steps read
    last: Tensor | None = None  # the outputs of the last chunk, for a client that asks for them again
    extra: dict[str, Any] = {}  # noqa: RUF012  never written

    def to_bytes(self) -> bytes:
        """As bytes. Raises: InputError for an `extra` that is not JSON."""
        tensors = {f"state.{name}": value for name, value in self.state.items()}
        if self.last is not None:
            tensors["last"] = self.last
        about = {
            "format": FORMAT,
            "model": self.model,
            "seq": self.seq,
            "steps": self.steps,
            "extra": self.extra,
        }
        return tensors_to_bytes(tensors, {_KEY: json.dumps(about, sort_keys=True)})

    @staticmethod
    def from_bytes(data: bytes) -> Snapshot:
        """Read what `to_bytes` wrote. Raises: SessionError for bytes that are damaged, cut short, or something else."""
        try:
            tensors, metadata = tensors_from_bytes(bytes(data))
            about = json.loads(metadata[_KEY])
            if about["format"] != FORMAT:
                raise SessionError(
                    "snapshot",
                    f"the snapshot has format {about['format']!r}, this version reads format {FORMAT}",
                )
            numbers = [about["seq"], about["steps"]]
            if not all(type(each) is int and each >= 0 for each in numbers) or not isinstance(
                about["model"], str
            ):
                raise ValueError("its numbers are none")
            last = tensors.pop("last", None)
            state = {name.removeprefix("state."): value for name, value in tensors.items()}
            return Snapshot(about["model"], state, about["seq"], about["steps"], last, dict(about["extra"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            why = error if isinstance(error, ValueError) else "it is no snapshot of a session"
            raise SessionError("snapshot", f"the snapshot is damaged or not ours: {why}") from None

    def check_model(self, identity: str) -> None:
        """Raises: SessionError where the snapshot is of another model."""
        if self.model != identity:
            raise SessionError(
                "snapshot",
                f"the snapshot is of another model ({self.model[:12]}, this one is {identity[:12]}): open it with its own",
            )
