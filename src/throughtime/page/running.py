"""A model run step by step: what its layers keep, what it answers, and its state edited on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.flow.measurement.model_copy import Layer, layers_of
from throughtime.models.crf import Scored
from throughtime.models.many_to_one import ManyToOne
from throughtime.models.transcriber import Emissions

TOP = 8  # answers of a step that are kept, the likeliest
CHUNK = 1024  # steps of a long sequence that are run at once
_PREFIXES = 16  # prefixes that are pooled at once
_LONGEST = 1500  # steps of a sequence whose prefixes are all pooled, which costs the square of them

Parts = dict[str, dict[str, Tensor]]
"""Layer ("l0", "l0_reverse", "l1" ...) -> name of the state or gate -> [T, H]."""


@dataclass(frozen=True)
class Edit:
    """A unit of the state that is set to a value after a step, and again after every later step with `hold`.

    What is read from the state afterwards reads the value: the layers above and the prediction of this step where `part` is the
    output h, and the next step of its own layer always.
    """

    layer: str  # "l0", "l1" ...
    part: str  # of the state: "h", or "c" of an LSTM
    unit: int
    step: int
    value: float
    hold: bool = False


@dataclass
class Steps:
    """What one run over some steps left."""

    parts: Parts
    top: Tensor | None
    probabilities: Tensor | None
    log_probability: Tensor | None  # [S] of the symbol after each step, the last NaN
    last: Tensor  # [Q] logits of the last step
    state: Any


class _Found:
    """What the layers of one call kept."""

    def __init__(self) -> None:
        self.traces: dict[str, dict[str, dict[str, Tensor]]] = {}
        self.top = torch.empty(0)  # the output of the last layer [T, 1, H]

    def parts(self, stacks: int) -> Parts:
        """[T, H] on the CPU; the layers of several stacks have the path of theirs before their names."""
        return {
            f"{path}.{name}" if stacks > 1 else name: {
                part: values.detach()[:, 0].float().cpu() for part, values in kept.items()
            }
            for path, steps in self.traces.items()
            for name, kept in steps.items()
        }


class Runner:
    """Runs a model over the steps of one sequence on the reference, and keeps every state, gate and prediction.

    Args: model, which nobody else runs meanwhile, in evaluation mode; predicts, as of `Inspector`; "" for no distribution.
    """

    def __init__(self, model: nn.Module, predicts: str) -> None:
        self.model: Any = model
        self.predicts = predicts
        self.layers = layers_of(model)
        self.forward = not getattr(model, "bidirectional", False)
        # Whether a state can be carried from one call to the next.
        whole = getattr(model, "needs_whole", "") or getattr(model, "reads_whole", False)
        self.cuts = self.forward and not whole

    @property
    def device(self) -> torch.device:
        """That of the model."""
        found: torch.device = next(self.model.parameters()).device
        return found

    def by_layer(self, edits: Sequence[Edit], steps: int | None) -> dict[int, list[Edit]]:
        """The edits by number of the layer. Args: steps, of the sequence; None where it goes on.

        Raises: InputError for those that cannot be made.
        """
        found: dict[int, list[Edit]] = {}
        if edits and (not self.forward or len(self.layers) != 1):
            raise InputError(
                "units can be edited in models of one stack of layers that reads from left to right"
            )
        for edit in edits:
            sizes = self.sizes()
            if edit.layer not in sizes or edit.part not in sizes[edit.layer]:
                known = ", ".join(f"{layer} {part}" for layer, parts in sizes.items() for part in parts)
                raise InputError(f"a unit is edited in one of {known}, got {edit.layer} {edit.part}")
            size = sizes[edit.layer][edit.part]
            if not 0 <= edit.unit < size:
                raise InputError(f"unit must lie between 0 and {size - 1}, got {edit.unit}")
            if edit.step < 0 or (steps is not None and edit.step >= steps):
                last = "the last" if steps is None else steps - 1
                raise InputError(f"step must lie between 0 and {last}, got {edit.step}")
            if not -1e6 < edit.value < 1e6:
                raise InputError(f"value must be a finite number, got {edit.value}")
            found.setdefault(list(sizes).index(edit.layer), []).append(edit)
        return found

    def sizes(self) -> dict[str, dict[str, int]]:
        """The sizes of the states of each layer of the one stack, by name, in the order of their numbers."""
        (layer,) = self.layers.values()
        kinds = getattr(getattr(layer, "state_type", None), "_fields", None)
        if kinds is None:  # cells of one's own
            states = [cell.initial_state(1) for cell in layer.cells]  # type: ignore[union-attr]
            return {f"l{n}": _named_sizes(state) for n, state in enumerate(states)}
        hidden: Any = layer.hidden_sizes
        outputs = [int(getattr(layer, "proj_size", 0)) or size for size in hidden]
        return {
            f"l{n}": {part: output if part == "h" else size for part in kinds}
            for n, (size, output) in enumerate(zip(hidden, outputs, strict=True))
        }

    def run(self, inputs: Tensor, state: Any, edits: dict[int, list[Edit]], offset: int) -> Steps:
        """Run steps, the first of which is number `offset` of the sequence, in pieces where the model can be cut."""
        inputs = inputs.to(self.device)
        pieces: list[Steps] = []
        for chunk in torch.split(inputs, CHUNK) if self.cuts else [inputs]:
            with torch.no_grad(), self._traced(edits, offset) as found:
                outputs, state = self.model(chunk, state)
                logits = self._logits(outputs, found.top)
            piece = Steps(found.parts(len(self.layers)), *_best(logits, chunk, self.predicts), state)
            if pieces and pieces[-1].log_probability is not None:
                pieces[-1].log_probability[-1] = pieces[-1].last.log_softmax(-1)[chunk[0, 0]]
            pieces.append(piece)
            offset += len(chunk)
        return joined(pieces)

    def _logits(self, outputs: Any, top: Tensor) -> Tensor | None:
        """[T, Q] for every step; of a label for the whole, that of each prefix, or of the last step alone."""
        if not self.predicts:
            return None
        if isinstance(self.model, ManyToOne):
            return self._of_prefixes(self.model, outputs, top)
        if isinstance(outputs, Emissions | Scored):
            outputs = outputs[0]
        found: Tensor = outputs[:, 0]
        return found

    def _of_prefixes(self, model: ManyToOne, outputs: Tensor, top: Tensor) -> Tensor:
        """The answers [T, Q] of a model of a whole sequence had it ended at each step, NaN where they are not known."""
        steps = len(top)
        if self.forward and model.pooling == "last":
            found: Tensor = model.head(top[:, 0])
            return found
        if not self.forward or steps > _LONGEST:
            nothing = outputs.new_full((steps - 1, outputs.shape[1]), torch.nan)
            return torch.cat([nothing, outputs])
        rows = []
        for lengths in torch.split(torch.arange(1, steps + 1), _PREFIXES):
            longest = int(lengths[-1])
            wide = top[:longest].expand(longest, len(lengths), top.shape[2])
            rows.append(model.head(model._pool(wide, lengths)))
        return torch.cat(rows)

    @contextmanager
    def _traced(self, edits: dict[int, list[Edit]], offset: int) -> Iterator[_Found]:
        """While it lasts, the layers run step by step, keep what they do, and have their units edited."""
        found = _Found()

        def visit(number: int, step: int, state: Any) -> None:
            for edit in edits.get(number, ()):
                at = step + offset
                if at == edit.step or (edit.hold and at > edit.step):
                    values = state[
                        state._fields.index(edit.part) if hasattr(state, "_fields") else int(edit.part)
                    ]
                    values[..., edit.unit] = edit.value

        def forward_of(path: str, layer: Layer) -> Callable[..., Any]:
            def forward(input: Any, hx: Any = None, *, lengths: Any = None) -> Any:
                trace = layer.trace(input, hx, lengths=lengths, visit=visit if edits else None)
                found.traces[path] = trace.steps
                found.top = trace.output
                return trace.output, trace.hx

            return forward

        for path, layer in self.layers.items():
            layer.__dict__["forward"] = forward_of(path, layer)
        try:
            yield found
        finally:
            for layer in self.layers.values():
                del layer.__dict__["forward"]


def _best(
    logits: Tensor | None, inputs: Tensor, predicts: str
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """The likeliest answers of each step, their probabilities, the log-probability of the next symbol, the last logits."""
    if logits is None:
        return None, None, None, torch.empty(0)
    chances = logits.float().log_softmax(-1)
    best = chances.topk(min(TOP, chances.shape[-1]))
    after = None
    if predicts == "next":
        after = torch.full((len(inputs),), torch.nan)
        after[:-1] = chances[:-1].gather(1, inputs[1:, :1])[:, 0].cpu()
    return best.indices.cpu(), best.values.exp().cpu(), after, logits[-1].float().cpu()


def joined(pieces: Sequence[Steps]) -> Steps:
    """Pieces one after the other as one."""
    if len(pieces) == 1:
        return pieces[0]

    def cat(values: Sequence[Tensor | None]) -> Tensor | None:
        there = [value for value in values if value is not None]
        return torch.cat(there) if there else None

    parts = {
        layer: {part: torch.cat([piece.parts[layer][part] for piece in pieces]) for part in kept}
        for layer, kept in pieces[0].parts.items()
    }
    top, probabilities, after = (
        cat([getattr(piece, name) for piece in pieces])
        for name in ("top", "probabilities", "log_probability")
    )
    return Steps(parts, top, probabilities, after, pieces[-1].last, pieces[-1].state)


def _named_sizes(state: Any) -> dict[str, int]:
    names = getattr(state, "_fields", tuple(str(n) for n in range(len(state))))
    return {name: int(value.shape[-1]) for name, value in zip(names, state, strict=True)}
