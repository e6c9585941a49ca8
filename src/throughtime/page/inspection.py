"""What happens inside a model over one sequence, step by step: states, gates, predictions, and what they depend on."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.flow.measurement.influence import influence
from throughtime.flow.measurement.model_copy import Layer, layers_of
from throughtime.models.crf import Scored
from throughtime.models.forecaster import Forecaster
from throughtime.models.many_to_many import ManyToMany
from throughtime.models.many_to_one import ManyToOne
from throughtime.models.transcriber import Emissions
from throughtime.page.sources import Reading, kind_of, of_ids, picture_of, takes_numbers
from throughtime.runtime.session import Session
from throughtime.runtime import draw

if TYPE_CHECKING:
    from throughtime.runtime.trained import Trained

TOP = 8  # answers of a step that are kept, the likeliest
LAST = 400  # steps that an influence reaches back over
_CHUNK = 1024  # steps of a long sequence that are run at once
_PREFIXES = 16  # prefixes that are pooled at once
_KEPT = 8  # states that generation continues from

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


@dataclass(frozen=True)
class Inspection:
    """What a model did over some steps of a sequence; made by `Inspector.read` and `Inspector.extend`."""

    reading: Reading  # the whole sequence
    first: int  # the first of the steps that are shown; S = len(reading) - first of them
    parts: Parts  # [S, H] each
    top: Tensor | None  # int64 [S, K], the likeliest answers of each step; None where the model gives no distribution
    probabilities: Tensor | None  # float32 [S, K]
    log_probability: Tensor | None  # float32 [S] of the symbol at each step, predicted by the step before; NaN for step 0


class Inspector:
    """Looks into a trained model. It works on a copy that shares the weights, so what else uses the model is not disturbed.

    Attributes:
        kind: what the model reads: "text", "numbers" or "audio".
        labels: what its answers are: symbols, tags, classes; empty where it gives no distribution.
        predicts: "next" symbol, a label of each "step", a label of the "whole" sequence (of each prefix where the model reads
            forward), or "" for no distribution.
        forward: whether it reads from left to right alone, so that units can be edited.
        generates: whether a text can be continued.

    Safe to use from several threads, which wait for each other.
    Raises: InputError for a model without a recurrent layer, and an encoder-decoder.
    Cost: `read` runs the reference, one step at a time: about 0.2 ms for each step and layer, and all states and gates in memory.
    """

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.kind = kind_of(trained)
        model, self._state = trained.model, None
        self.session: Session | None = None
        if self.kind == "text":
            try:
                self.session = trained.session()
            except InputError:  # labels, or both ways: it has no next symbol
                self.session = None
            else:
                model, self._state = self.session.model, self.session.snapshot().model
        self.model = _sharing_copy(model)
        self._layers = layers_of(self.model)
        if not self._layers:
            raise InputError(
                f"the page shows recurrent layers, and {trained.path} has none: its cell is {trained.config.cell}"
            )
        if not isinstance(self.model, ManyToMany | ManyToOne | Forecaster):
            raise InputError(
                f"the page shows models that read one sequence, and {trained.path} is a run of {trained.task.name}: use a run of "
                "text, write, tag, classify, intent, frames, forecast or transcribe"
            )
        self.forward = not getattr(self.model, "bidirectional", False)
        self.labels = self._labels()
        self.predicts = self._predicts()
        self.generates = self.predicts == "next"
        self._lock = threading.Lock()
        self._reached: tuple[Reading | None, int, Any] = (None, 0, None)
        self._states: OrderedDict[Any, tuple[Any, Tensor]] = OrderedDict()

    def about(self) -> dict[str, Any]:
        """JSON for the page: what the model is, reads and answers."""
        trained = self.trained
        picture = picture_of(trained) if self.kind != "text" else {"draw": "text"}
        return {
            "task": trained.task.name,
            "cell": trained.config.cell,
            "sizes": list(trained.config.sizes),
            "parameters": sum(each.numel() for each in trained.model.parameters()),
            "kind": self.kind,
            "predicts": self.predicts,
            "labels": list(self.labels),
            "forward": self.forward,
            "generates": self.generates,
            "typed": self.kind == "text" or takes_numbers(trained),
            "by_character": any(each.kind == "char" for each in trained.assets.vocabularies.values()),
            **picture,
        }

    def read(self, reading: Reading, edits: Sequence[Edit] = (), first: int = 0) -> Inspection:
        """Run the model over a whole sequence and keep the steps from `first` on.

        Raises: InputError for edits of what is not there, or of a model that reads both ways.
        """
        with self._lock:
            steps = self._run(reading.inputs, self._state, self._checked(edits, reading), 0)
            return self._inspection(reading, steps, first, 0)

    def influence(self, reading: Reading, position: int, last: int = LAST) -> tuple[int, Tensor]:
        """How much one prediction depends on each step before it: the norm of the gradient of its log-probability.

            next symbol    |d log p(x_t | x_0 .. x_{t-1}) / d v_k|,  k < t: the symbol at `position`, from the ones before it
            labels         |d log p(best label of step t) / d v_k|,  k <= t; of a model that reads both ways, all k

        v_k is the vector of symbol k, or the numbers of step k. It reaches back `last` steps at most; the state before them counts
        as given. Edits are not in it.
        Returns: (first step, [n] float64), one number for each step from the first on.
        Raises: InputError for a position outside the sequence, or a model without a distribution. Cost: one backward pass.
        """
        if not self.labels:
            raise InputError("this model gives no distribution whose gradient could be shown")
        if not 0 <= position < len(reading):
            raise InputError(f"position must lie between 0 and {len(reading) - 1}, got {position}")
        shown = self.predicts == "next"
        if shown and position == 0:
            return 0, torch.zeros(0, dtype=torch.float64)
        end = position if shown else position + 1
        if not self.forward:
            end = len(reading)
        first = max(0, end - max(1, last)) if self.forward and self._cuts else 0
        inputs = reading.inputs[first:end].to(self._device)
        target = int(reading.inputs[position, 0]) if shown else None
        step = end - 1 - first if self.forward else position
        with self._lock:
            state = self._before(reading, first)
            found = influence(_OneAnswer(self.model, step, target), inputs, state)
        return first, found.matrix[0]

    def extend(
        self,
        ids: Sequence[int],
        steps: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        edits: Sequence[Edit] = (),
    ) -> Inspection:
        """Continue a text by `steps` symbols; the same ids, seed and edits give the same text, however it is divided over calls.

        The symbol at place n is drawn with a generator of the seed and n alone.
        Returns: the new steps; `reading` is the whole text. Raises: InputError for a model that does not generate.
        """
        if not self.generates or self.session is None:
            raise InputError(f"only models of the next symbol continue a text, and this one is of {self.trained.task.name}")
        if not 1 <= steps <= 1000:
            raise InputError(f"steps must be 1 to 1,000 symbols, got {steps}")
        before = of_ids(self.trained, ids)
        written = list(ids)
        hooks = self._checked(edits, before, beyond=True)
        with self._lock:
            state, logits = self._after(before, edits, hooks)
            pieces, predicted = [], [logits]
            for _ in range(steps):
                generator = torch.Generator().manual_seed(_seed(seed, len(written)))
                allowed = logits.clone()
                if (unknown := self.session.vocabulary.unknown) is not None:
                    allowed[unknown] = -torch.inf
                chosen = int(draw(allowed, temperature=temperature, top_k=top_k, generator=generator))
                piece = self._run(torch.tensor([[chosen]]), state, hooks, len(written))
                pieces.append(piece)
                written.append(chosen)
                state, logits = piece.state, piece.last
                predicted.append(logits)
            self._keep(written, edits, state, logits)
            reading = of_ids(self.trained, written)
            chances = torch.stack(predicted[:-1]).log_softmax(-1)
            new = reading.inputs[len(before) :, 0].cpu()
            surprise = chances.gather(1, new[:, None])[:, 0]
            found = self._inspection(reading, _joined(pieces), len(before), len(before))
            return Inspection(found.reading, found.first, found.parts, found.top, found.probabilities, surprise)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _cuts(self) -> bool:
        """Whether the model carries a state from one call to the next."""
        return not (getattr(self.model, "needs_whole", "") or getattr(self.model, "reads_whole", False))

    def _labels(self) -> tuple[str, ...]:
        """The names of the model's answers: what of the assets has as many names as the head has outputs."""
        outputs = int(getattr(getattr(self.model, "head", None), "out_features", 0))
        assets = self.trained.assets
        if hasattr(self.trained.task, "front"):
            names = ("blank", *assets.labels.get("symbol", ()), "unknown")
            return names if len(names) == outputs else ()
        known = [tuple(each) for each in assets.labels.values()]
        if self.kind == "text" and len(assets.vocabularies) == 1:
            vocabulary = assets.vocabulary
            known.append(tuple(vocabulary.decode([n]) for n in range(len(vocabulary))))
        return next((each for each in known if len(each) == outputs), ())

    def _predicts(self) -> str:
        if not self.labels:
            return ""
        if isinstance(self.model, ManyToOne):
            return "whole"
        return "next" if self.session is not None else "step"

    def _checked(self, edits: Sequence[Edit], reading: Reading, beyond: bool = False) -> dict[int, list[Edit]]:
        """The edits by number of the layer. Raises: InputError for those that cannot be made."""
        found: dict[int, list[Edit]] = {}
        if edits and (not self.forward or len(self._layers) != 1):
            raise InputError("units can be edited in models of one stack of layers that reads from left to right")
        for edit in edits:
            sizes = self._sizes()
            if edit.layer not in sizes or edit.part not in sizes[edit.layer]:
                known = ", ".join(f"{layer} {part}" for layer, parts in sizes.items() for part in parts)
                raise InputError(f"a unit is edited in one of {known}, got {edit.layer} {edit.part}")
            size = sizes[edit.layer][edit.part]
            if not 0 <= edit.unit < size:
                raise InputError(f"unit must lie between 0 and {size - 1}, got {edit.unit}")
            if edit.step < 0 or (edit.step >= len(reading) and not beyond):
                raise InputError(f"step must lie between 0 and {len(reading) - 1}, got {edit.step}")
            if not -1e6 < edit.value < 1e6:
                raise InputError(f"value must be a finite number, got {edit.value}")
            found.setdefault(list(sizes).index(edit.layer), []).append(edit)
        return found

    def _sizes(self) -> dict[str, dict[str, int]]:
        """The sizes of the states of each layer of the one stack, by name, in the order of their numbers."""
        (layer,) = self._layers.values()
        kinds = getattr(getattr(layer, "state_type", None), "_fields", None)
        if kinds is None:  # cells of one's own
            states = [cell.initial_state(1) for cell in layer.cells]  # type: ignore[union-attr, operator]
            return {f"l{n}": _named_sizes(state) for n, state in enumerate(states)}
        hidden: Any = layer.hidden_sizes
        outputs = [int(getattr(layer, "proj_size", 0)) or size for size in hidden]
        return {
            f"l{n}": {part: output if part == "h" else size for part in kinds}
            for n, (size, output) in enumerate(zip(hidden, outputs, strict=True))
        }

    def _run(self, inputs: Tensor, state: Any, edits: dict[int, list[Edit]], offset: int) -> _Steps:
        """Run steps, the first of which is number `offset` of the sequence, in pieces where the model can be cut."""
        inputs = inputs.to(self._device)
        pieces: list[_Steps] = []
        for chunk in inputs.split(_CHUNK) if self._cuts else [inputs]:
            with torch.no_grad(), self._traced(edits, offset) as found:
                outputs, state = self.model(chunk, state)
                logits = self._logits(outputs, found.top)
            piece = _Steps(found.parts(len(self._layers)), *_best(logits, chunk, self.predicts), state)
            if pieces and pieces[-1].log_probability is not None:
                pieces[-1].log_probability[-1] = pieces[-1].last.log_softmax(-1)[chunk[0, 0]]
            pieces.append(piece)
            offset += len(chunk)
        return _joined(pieces)

    def _logits(self, outputs: Any, top: Tensor) -> Tensor | None:
        """[T, Q] for every step; of a label for the whole, that of each prefix, or of the last step alone."""
        if not self.labels:
            return None
        if isinstance(self.model, ManyToOne):
            model, steps = self.model, len(top)
            if not self.forward:
                return torch.as_tensor(outputs).new_full((steps, len(self.labels)), torch.nan).index_copy(
                    0, torch.tensor([steps - 1], device=top.device), outputs
                )
            rows = []
            for lengths in torch.arange(1, steps + 1).split(_PREFIXES):
                longest = int(lengths[-1])
                wide = top[:longest].expand(longest, len(lengths), top.shape[2])
                rows.append(model.head(model._pool(wide, lengths)))
            return torch.cat(rows)
        if isinstance(outputs, Emissions | Scored):
            outputs = outputs[0]
        found: Tensor = outputs[:, 0]
        return found

    @contextmanager
    def _traced(self, edits: dict[int, list[Edit]], offset: int) -> Iterator[_Found]:
        """While it lasts, the layers run step by step, keep what they do, and have their units edited."""
        found = _Found()

        def visit(number: int, step: int, state: Any) -> None:
            for edit in edits.get(number, ()):
                at = step + offset
                if at == edit.step or (edit.hold and at > edit.step):
                    values = state[state._fields.index(edit.part) if hasattr(state, "_fields") else int(edit.part)]
                    values[..., edit.unit] = edit.value

        def forward_of(path: str, layer: Layer) -> Callable[..., Any]:
            def forward(input: Any, hx: Any = None, *, lengths: Any = None) -> Any:
                trace = layer.trace(input, hx, lengths=lengths, visit=visit if edits else None)
                found.traces[path] = trace.steps
                found.top = trace.output
                return trace.output, trace.hx

            return forward

        for path, layer in self._layers.items():
            layer.__dict__["forward"] = forward_of(path, layer)
        try:
            yield found
        finally:
            for layer in self._layers.values():
                del layer.__dict__["forward"]

    def _inspection(self, reading: Reading, steps: _Steps, first: int, offset: int) -> Inspection:
        """The steps from `first` on, of those that began at `offset`."""
        cut = first - offset
        log_probability = steps.log_probability
        if log_probability is not None:
            nothing = log_probability.new_full((1,), torch.nan)
            if offset == 0:
                ids = reading.inputs[1:, 0].cpu()
                log_probability = torch.cat([nothing, log_probability[: len(ids)]])
        return Inspection(
            reading,
            first,
            {layer: {part: value[cut:] for part, value in kept.items()} for layer, kept in steps.parts.items()},
            None if steps.top is None else steps.top[cut:],
            None if steps.probabilities is None else steps.probabilities[cut:],
            None if log_probability is None else log_probability[cut:],
        )

    def _after(self, reading: Reading, edits: Sequence[Edit], hooks: dict[int, list[Edit]]) -> tuple[Any, Tensor]:
        """The state after a text and the logits of what follows."""
        key = (tuple(reading.inputs[:, 0].tolist()), tuple(edits))
        if key in self._states:
            return self._states[key]
        steps = self._run(reading.inputs, self._state, hooks, 0)
        return steps.state, steps.last

    def _before(self, reading: Reading, first: int) -> Any:
        """The state before step `first`; of steps that are asked for one after the other, continued from the last."""
        kept, start, state = self._reached
        if kept is not reading or start > first:
            start, state = 0, self._state
        if first > start:
            with torch.no_grad():
                for chunk in reading.inputs[start:first].to(self._device).split(_CHUNK):
                    _, state = self.model(chunk, state)
        self._reached = (reading, first, state)
        return state

    def _keep(self, ids: Sequence[int], edits: Sequence[Edit], state: Any, logits: Tensor) -> None:
        self._states[(tuple(ids), tuple(edits))] = (state, logits)
        while len(self._states) > _KEPT:
            self._states.popitem(last=False)


@dataclass
class _Steps:
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


class _OneAnswer(nn.Module):
    """The log-probability of one answer of a model at one step, as outputs [1, B, 1]. Args: target, None: the likeliest."""

    def __init__(self, model: nn.Module, step: int, target: int | None) -> None:
        super().__init__()
        self.model, self.step, self.target = model, step, target

    def forward(self, x: Tensor, state: Any = None) -> Tensor:
        outputs, _ = self.model(x, state)
        if isinstance(outputs, Emissions | Scored):
            outputs = outputs[0]
        logits = outputs if isinstance(self.model, ManyToOne) else outputs[self.step]
        chances = logits.log_softmax(-1)
        target = int(chances[0].argmax()) if self.target is None else self.target
        found: Tensor = chances[:, target].reshape(1, -1, 1)
        return found


def _best(logits: Tensor | None, inputs: Tensor, predicts: str) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
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


def _joined(pieces: Sequence[_Steps]) -> _Steps:
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
        cat([getattr(piece, name) for piece in pieces]) for name in ("top", "probabilities", "log_probability")
    )
    return _Steps(parts, top, probabilities, after, pieces[-1].last, pieces[-1].state)


def _named_sizes(state: Any) -> dict[str, int]:
    names = getattr(state, "_fields", tuple(str(n) for n in range(len(state))))
    return {name: int(value.shape[-1]) for name, value in zip(names, state, strict=True)}


def _sharing_copy(model: nn.Module) -> nn.Module:
    """A copy of a model in evaluation mode whose parameters and buffers are the model's own."""
    shared = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared).eval()


def _seed(seed: int, place: int) -> int:
    """The seed of the draw at one place."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:7])
