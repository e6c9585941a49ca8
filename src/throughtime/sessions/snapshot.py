"""A session at one moment, as bytes: safetensors with a checksum, and JSON in its header. Nothing in it can run code."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from torch import Tensor

from throughtime.errors import InputError, SessionError
from throughtime.runs.tensors import tensors_from_bytes, tensors_to_bytes

FORMAT = 2
_KEY = "throughtime.session"


class Snapshot(NamedTuple):
    """Enough to continue a session in another process to the same bits.

    processor, carried: the class of the session's processor ("" without one) and what it carries, as JSON.
    answer: of the last chunk, as JSON, where there is a processor.
    extra: what an application keeps beside the state, as JSON: a random seed, the name of a user.
    """

    model: str  # `Engine.identity`
    state: dict[str, Tensor]
    seq: int = 0  # chunks read
    steps: int = 0  # steps read
    last: Tensor | None = None  # the outputs of the last chunk, for a client that asks for them again
    extra: dict[str, Any] = {}  # noqa: RUF012  never written
    processor: str = ""
    carried: dict[str, Any] = {}  # noqa: RUF012  never written
    answer: Any = None

    def to_bytes(self) -> bytes:
        """As bytes. Raises: InputError for an `extra`, `carried` or `answer` that is not JSON."""
        tensors = {f"state.{name}": value for name, value in self.state.items()}
        if self.last is not None:
            tensors["last"] = self.last
        about = {
            "format": FORMAT,
            "model": self.model,
            "seq": self.seq,
            "steps": self.steps,
            "extra": self.extra,
            "processor": self.processor,
            "carried": self.carried,
            "answer": self.answer,
        }
        try:
            text = json.dumps(about, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"what is kept with a session must be JSON: {error}") from None
        return tensors_to_bytes(tensors, {_KEY: text})

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
            texts = [about["model"], about["processor"]]
            if not all(type(each) is int and each >= 0 for each in numbers) or not all(
                isinstance(each, str) for each in texts
            ):
                raise ValueError("its numbers are none")
            last = tensors.pop("last", None)
            state = {name.removeprefix("state."): value for name, value in tensors.items()}
            kept = (dict(about["extra"]), about["processor"], dict(about["carried"]), about["answer"])
            return Snapshot(about["model"], state, about["seq"], about["steps"], last, *kept)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            why = error if isinstance(error, ValueError) else "it is no snapshot of a session"
            raise SessionError("snapshot", f"the snapshot is damaged or not ours: {why}") from None

    def check(self, identity: str, processor: object = None) -> None:
        """Raises: SessionError where the snapshot is of another model, or of a session with another processor."""
        if self.model != identity:
            raise SessionError(
                "snapshot",
                f"the snapshot is of another model ({self.model[:12]}, this one is {identity[:12]}): open it with its own",
            )
        if self.processor != processor_name(processor):
            raise SessionError(
                "snapshot",
                f"the snapshot is of a session with {self.processor or 'no processor'}, this one has "
                f"{processor_name(processor) or 'none'}: open it with its own",
            )


def processor_name(processor: object) -> str:
    """As snapshots name it; "" for None."""
    return "" if processor is None else type(processor).__name__
