"""What stands between a user's data and the steps of a model, in streams and sessions: text, samples or rows in, answers out."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from throughtime.errors import InputError

Carried = dict[str, Any]


class Processor(ABC):
    """Data to steps, and outputs to answers.

    What a processor must know of the chunks before is `carried`: a dict as JSON gives it back (keys are texts, lists instead of
    tuples), since it is part of a session's snapshot. It is {} before the first chunk. Methods never change what they are
    given: they return another dict. One processor serves many sessions, from several threads.

    A chunk is `read`, the model runs over its steps, and `write` makes the answer. At the end of the input `flush` gives the
    steps that are still held, and `finish` makes the last answer. However the data is divided into chunks, the steps are the
    same.
    """

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What a client must know, as JSON: "kind" ("text", "numbers", "audio", "tokens", "series"), "takes" and "gives", a
        sentence each, and what belongs to the kind: "features", "columns", "rate", "labels", "symbols".
        """

    @abstractmethod
    def read(self, data: Any, carried: Carried) -> tuple[Tensor, Carried]:
        """The steps [t, ...] that data completes; t may be 0, as of audio that fills no frame yet.

        Raises: InputError for data that is not what `about` says, in one line.
        """

    @abstractmethod
    def write(self, outputs: Tensor, carried: Carried) -> tuple[Any, Carried]:
        """The answer, as JSON, for the outputs [t, Q] of the steps that `read` gave; of no steps they are [0, 0]."""

    def flush(self, carried: Carried) -> tuple[Tensor, Carried]:
        """The steps that are still held when the input ends; by default none."""
        return torch.zeros(0), carried

    def finish(self, outputs: Tensor, carried: Carried) -> Any:
        """The last answer, for the outputs of the steps that `flush` gave; by default what `write` gives."""
        return self.write(outputs, carried)[0]


def floats_to_text(values: Tensor) -> str:
    """Numbers as base64 of float32, to be carried with all their bits."""
    return base64.b64encode(values.detach().cpu().contiguous().float().numpy().tobytes()).decode()


def floats_from_text(text: str) -> Tensor:
    """What `floats_to_text` wrote, [N]. Raises: InputError for another text."""
    try:
        return torch.from_numpy(np.frombuffer(base64.b64decode(text, validate=True), "<f4").copy())
    except (ValueError, TypeError):
        raise InputError(f"expected base64 of float32 numbers, got {text!r:.40}") from None
