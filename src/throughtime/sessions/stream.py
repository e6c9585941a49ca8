"""One sequence, read chunk by chunk: `tt.stream(model)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.sessions.engine import Engine, NativeEngine, engine_of
from throughtime.sessions.processor import Carried, Processor
from throughtime.sessions.snapshot import Snapshot, processor_name


class Stream:
    """A model or a layer in the middle of one sequence; make one with `throughtime.stream`.

    However the steps are divided into chunks, the outputs are those of one call with all of them: to the last bit where `native`
    is true, else up to rounding. A call that raises leaves the stream as it was. One thread at a time may use a stream.

    With a processor, chunks are the user's data and answers come back instead of outputs.
    Attributes: steps, read so far; processor.
    """

    def __init__(self, engine: Engine, processor: Processor | None = None) -> None:
        self._engine, self.processor = engine, processor
        engine.grow(1)
        self.steps = 0
        self._carried: Carried = {}
        self._run = engine.run_one if isinstance(engine, NativeEngine) else self._run_any

    @property
    def native(self) -> bool:
        """Whether the C++ of native runs it."""
        return self._engine.native

    @property
    def reason(self) -> str | None:
        """Why the model itself runs, where native does not."""
        return self._engine.reason

    def feed(self, x: Any) -> Any:
        """Read a chunk: numbers [t, D], or symbols' ids [t] where the model embeds them; the outputs [t, ...].

        A model with one output for a sequence gives it as of the chunk's last step, [1, Q]. With a processor: read some data, and
        give the answer; `processor.about()` says what both are.
        Raises: InputError for another shape, dtype or kind of data.
        Cost of a step: the layers' arithmetic and a few microseconds; that of the processor comes to it.
        """
        if self.processor is not None:
            return self._feed(*self.processor.read(x, self._carried), self.processor.write)
        y = self._run(x)
        self.steps += len(x)
        return y

    def flush(self) -> Any:
        """End the input: run the steps that the processor still holds, and give its last answer; the stream is then reset.

        Raises: InputError for a stream without a processor, which holds nothing.
        """
        processor = self.processor
        if processor is None:
            raise InputError("flush is for streams with a processor; without one no step is held: use reset")
        answer = self._feed(
            *processor.flush(self._carried), lambda y, carried: (processor.finish(y, carried), {})
        )
        self.reset()
        return answer

    def _feed(self, steps: Tensor, carried: Carried, write: Callable[[Tensor, Carried], Any]) -> Any:
        """Run steps and `write` the answer; state and carried change together, or not at all."""
        if not len(steps):
            answer, self._carried = write(torch.zeros(0, 0), carried)
            return answer
        before = self._engine.read(0)
        y = self._run(steps)
        try:
            answer, self._carried = write(y, carried)
        except BaseException:
            self._engine.write(0, before or None)
            raise
        self.steps += len(steps)
        return answer

    def _run_any(self, x: Tensor) -> Tensor:
        return self._engine.run([0], [self._engine.check(x)])[0]

    @property
    def state(self) -> dict[str, Tensor]:
        """A copy of the state, by name: h.0, h.1, ... [H] of each layer, and c.0, ... of an LSTM's."""
        return self._engine.read(0)

    def snapshot(self, extra: dict[str, Any] | None = None) -> bytes:
        """The stream at this moment, for `restore`, also in another process. Args: extra, kept with it, as JSON."""
        kept = (extra or {}, processor_name(self.processor), self._carried)
        return Snapshot(self._engine.identity, self.state, 0, self.steps, None, *kept).to_bytes()

    def restore(self, data: bytes) -> dict[str, Any]:
        """Go to where a snapshot was taken; its `extra`.

        Raises: SessionError for a snapshot that is damaged, or of another model or processor; the stream is unchanged then.
        """
        found = Snapshot.from_bytes(data)
        found.check(self._engine.identity, self.processor)
        self._engine.write(0, found.state)
        self.steps, self._carried = found.steps, found.carried
        return found.extra

    def fork(self) -> Stream:
        """Another stream that goes on from here; packed weights are shared, states are not."""
        other = Stream(self._engine.like(), self.processor)
        other._engine.write(0, self._engine.read(0))
        other.steps, other._carried = self.steps, self._carried
        return other

    def reset(self) -> None:
        """Go back to before the first step."""
        self._engine.write(0, None)
        self.steps, self._carried = 0, {}

    def __repr__(self) -> str:
        how = "native" if self.native else f"the model itself: {self.reason}"
        return f"<Stream after {self.steps} steps, {how}>"


def stream(
    model: nn.Module,
    processor: Processor | None = None,
    *,
    native: bool | None = None,
    weights: str = "float32",
) -> Stream:
    """Read one sequence chunk by chunk, the state carried: `s = tt.stream(model); y = s.feed(x)`.

    Args: model: a layer (`tt.GRU` ...), or any model `(inputs [T, B, ...], state) -> (outputs, state)` that reads from left to
    right. processor: what makes steps of data and answers of outputs, such as a task's (`Trained.stream` gives it); None: the
    steps and outputs themselves. native: True asks for the native loop, False for the model itself; None: native where it can.
    weights: float32, or rounded to bf16 or int8, as for generation: a step of a large model takes as long as reading its
    weights. The outputs are those of the rounded weights.
    Native copies the weights into packed panels; later changes of the model have no effect on the stream.
    Raises: InputError for a model that cannot run from left to right; BackendError where native, or rounded weights, were asked
    for and cannot run.
    """
    return Stream(engine_of(model, native, processor is not None, weights), processor)
