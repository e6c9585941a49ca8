"""One sequence, read chunk by chunk: `tt.stream(model)`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from throughtime.sessions.engine import Engine, NativeEngine, engine_of
from throughtime.sessions.snapshot import Snapshot


class Stream:
    """A model or a layer in the middle of one sequence; make one with `throughtime.stream`.

    However the steps are divided into chunks, the outputs are those of one call with all of them: to the last bit where `native`
    is true, else up to rounding. A call that raises leaves the state as it was. One thread at a time may use a stream.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.grow(1)
        self.steps = 0
        self._run = engine.run_one if isinstance(engine, NativeEngine) else self._run_any

    @property
    def native(self) -> bool:
        """Whether the C++ of native runs it."""
        return self._engine.native

    @property
    def reason(self) -> str | None:
        """Why the model itself runs, where native does not."""
        return self._engine.reason

    def feed(self, x: Tensor) -> Tensor:
        """Read a chunk: numbers [t, D], or symbols' ids [t] where the model embeds them; the outputs [t, ...].

        A model with one output for a sequence gives it as of the chunk's last step, [1, Q].
        Raises: InputError for another shape or dtype.
        Cost of a step: the layers' arithmetic and a few microseconds.
        """
        y = self._run(x)
        self.steps += len(x)
        return y

    def _run_any(self, x: Tensor) -> Tensor:
        return self._engine.run([0], [self._engine.check(x)])[0]

    @property
    def state(self) -> dict[str, Tensor]:
        """A copy of the state, by name: h.0, h.1, ... [H] of each layer, and c.0, ... of an LSTM's."""
        return self._engine.read(0)

    def snapshot(self, extra: dict[str, Any] | None = None) -> bytes:
        """The stream at this moment, for `restore`, also in another process. Args: extra, kept with it, as JSON."""
        return Snapshot(self._engine.identity, self.state, 0, self.steps, None, extra or {}).to_bytes()

    def restore(self, data: bytes) -> dict[str, Any]:
        """Go to where a snapshot was taken; its `extra`.

        Raises: SessionError for a snapshot that is damaged or of another model; the stream is unchanged then.
        """
        found = Snapshot.from_bytes(data)
        found.check_model(self._engine.identity)
        self._engine.write(0, found.state)
        self.steps = found.steps
        return found.extra

    def fork(self) -> Stream:
        """Another stream that goes on from here; packed weights are shared, states are not."""
        other = Stream(self._engine.like())
        other._engine.write(0, self._engine.read(0))
        other.steps = self.steps
        return other

    def reset(self) -> None:
        """Go back to before the first step."""
        self._engine.write(0, None)
        self.steps = 0

    def __repr__(self) -> str:
        how = "native" if self.native else f"the model itself: {self.reason}"
        return f"<Stream after {self.steps} steps, {how}>"


def stream(model: nn.Module, *, native: bool | None = None) -> Stream:
    """Read one sequence chunk by chunk, the state carried: `s = tt.stream(model); y = s.feed(x)`.

    Args: model: a layer (`tt.GRU` ...), or any model `(inputs [T, B, ...], state) -> (outputs, state)` that reads from left to
    right. native: True asks for the native loop, False for the model itself; None: native where it can run.
    Native copies the weights into packed panels; later changes of the model have no effect on the stream.
    Raises: InputError for a model that cannot run from left to right; BackendError where native was asked for and cannot run.
    """
    return Stream(engine_of(model, native))
