"""Sound as it arrives, and its text as it is understood."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from throughtime.data.assets import Assets
from throughtime.decoding.ctc import Decoder, Symbol
from throughtime.errors import InputError
from throughtime.models.log_mel import LogMelState
from throughtime.sessions.processor import Carried, Processor, floats_from_text, floats_to_text
from throughtime.tasks.transcribe import TranscribeTask, text_of


class TranscribeProcessor(Processor):
    """Takes samples in pieces of any size, and gives the text that is new.

        stream = throughtime.load("runs/morse").stream()
        for piece in pieces:
            print(stream.feed(piece)["text"], end="")
        print(stream.flush()["text"])

    Down to single samples, the text together is that of the whole sound, since frames have the same bits. Greedy decoding writes
    a character in the step in which it is recognized; a beam writes what all its texts agree on.

    Args: decoder, a new one, which is copied.
    Attributes: rate, samples in a second; seconds, of a step; delay, seconds of sound from the beginning of a step until the
    model has read it: the length of its frames.
    """

    def __init__(self, task: TranscribeTask, assets: Assets, decoder: Decoder) -> None:
        self._assets, self._front, self._decoder = assets, task.front(assets), decoder
        self.rate, self.seconds, self.delay = self._front.rate, self._front.seconds, self._front.latency

    def about(self) -> dict[str, Any]:
        return {
            "kind": "audio",
            "takes": "samples of one channel: real numbers of full scale 1, whole numbers of 16 bits, or their bytes, the lower "
            "first",
            "gives": "text: what is new of the transcript",
            "rate": self.rate,
            "seconds": self.seconds,
            "delay": self.delay,
            "symbols": list(self._assets.labels["symbol"]),
        }

    def read(self, data: Any, carried: Carried) -> tuple[Tensor, Carried]:
        frames, state = self._front.feed(samples_of(data), self._state(carried))
        return frames, {**carried, "samples": floats_to_text(state.samples), "begun": state.begun}

    def flush(self, carried: Carried) -> tuple[Tensor, Carried]:
        return self._front.flush(self._state(carried)), carried

    def write(self, outputs: Tensor, carried: Carried) -> tuple[Any, Carried]:
        if not len(outputs):
            return {"text": ""}, carried
        decoder, symbols = self._decoded(outputs, carried)
        text, kept = self._text(symbols, carried)
        return {"text": text}, {**kept, "decoder": decoder.to_json()}

    def finish(self, outputs: Tensor, carried: Carried) -> Any:
        decoder, symbols = self._decoded(outputs, carried)
        return {"text": self._text([*symbols, *decoder.flush()], carried)[0]}

    def _state(self, carried: Carried) -> LogMelState | None:
        if "samples" not in carried:
            return None
        return LogMelState(floats_from_text(carried["samples"]), carried["begun"])

    def _decoded(self, outputs: Tensor, carried: Carried) -> tuple[Decoder, list[Symbol]]:
        decoder = self._decoder.copy()
        if "decoder" in carried:
            decoder.restore(carried["decoder"])
        return decoder, decoder.feed(outputs.cpu().float().log_softmax(-1)) if len(outputs) else []

    def _text(self, symbols: Iterable[Symbol], carried: Carried) -> tuple[str, Carried]:
        """The text of new symbols: no space at the beginning or the end, and none twice."""
        written, space, begun = "", carried.get("space", False), carried.get("written", False)
        for character in text_of(self._assets, (each.symbol for each in symbols)):
            if character == " ":
                space = begun
                continue
            written += " " + character if space else character
            space, begun = False, True
        return written, {**carried, "space": space, "written": begun}


def samples_of(values: Any) -> Tensor:
    """Samples [n] as float32 of full scale 1; whole numbers are of 16 bits, and bytes are those of such numbers.

    Raises: InputError for anything else.
    """
    if isinstance(values, bytes | bytearray | memoryview):
        if len(values) % 2:
            raise InputError(f"samples of 16 bits must be an even number of bytes, got {len(values)}")
        values = np.frombuffer(values, "<i2")
    try:
        found = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        raise InputError(f"samples must be numbers [n], one channel, got {values!r:.60}") from None
    if found.dim() != 1 or found.is_complex():
        raise InputError(f"samples must be [n], one channel, got {list(found.shape)}")
    found = found.float() if found.is_floating_point() else found.float() / 32768
    if not bool(found.isfinite().all()):
        raise InputError("expected finite samples, got NaN or infinity")
    return found
