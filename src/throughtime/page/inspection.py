"""What happens inside a model over one sequence, step by step: states, gates, predictions, and what they depend on."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.flow.measurement.influence import influence
from throughtime.models.crf import Scored
from throughtime.models.forecaster import Forecaster
from throughtime.models.many_to_many import ManyToMany
from throughtime.models.many_to_one import ManyToOne
from throughtime.models.transcriber import Emissions
from throughtime.page.running import CHUNK, Edit, Parts, Runner, Steps, joined
from throughtime.page.sources import Reading, kind_of, of_ids, picture_of, takes_numbers
from throughtime.runtime import draw
from throughtime.runtime.session import Session

if TYPE_CHECKING:
    from throughtime.runtime.trained import Trained

LAST = 400  # steps that an influence reaches back over
_KEPT = 8  # states that generation continues from


@dataclass(frozen=True)
class Inspection:
    """What a model did over some steps of a sequence; made by `Inspector.read` and `Inspector.extend`."""

    reading: Reading  # the whole sequence
    first: int  # the first of the steps that are shown; S = len(reading) - first of them
    parts: Parts  # [S, H] each
    top: Tensor | None  # int64 [S, K], the likeliest answers; None where the model gives no distribution
    probabilities: Tensor | None  # float32 [S, K]
    # float32 [S] of the symbol at each step, as the step before predicted it; NaN for step 0.
    log_probability: Tensor | None


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
        self.labels = self._labels()
        self.predicts = self._predicts()
        self.generates = self.predicts == "next"
        self._runner = Runner(self.model, self.predicts)
        self.forward = self._runner.forward
        if not self._runner.layers:
            raise InputError(
                f"the page shows recurrent layers, and {trained.path} has none: its cell is {trained.config.cell}"
            )
        if not isinstance(self.model, ManyToMany | ManyToOne | Forecaster):
            raise InputError(
                f"the page shows models that read one sequence, and {trained.path} is a run of {trained.task.name}: use a run of "
                "text, write, tag, classify, intent, frames, forecast or transcribe"
            )
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
            steps = self._runner.run(
                reading.inputs, self._state, self._runner.by_layer(edits, len(reading)), 0
            )
            return self._inspection(reading, steps, first, 0)

    def influence(self, reading: Reading, position: int, last: int = LAST) -> tuple[int, Tensor]:
        """How much one prediction depends on each step before it: the norm of the gradient of its log-probability.

            next symbol    |d log p(x_t | x_0 .. x_{t-1}) / d v_k|,  k < t: the symbol at `position`, from the ones before it
            labels         |d log p(best label of step t) / d v_k|,  k <= t; of a model that reads both ways, all k

        v_k is the vector of symbol k, or the numbers of step k. It reaches back `last` steps at most; the state before them is
        taken as given. Edits are not in it.
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
        first = max(0, end - max(1, last)) if self.forward and self._runner.cuts else 0
        inputs = reading.inputs[first:end].to(self._runner.device)
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
            raise InputError(
                f"only models of the next symbol continue a text, and this one is of {self.trained.task.name}"
            )
        if not 1 <= steps <= 1000:
            raise InputError(f"steps must be 1 to 1,000 symbols, got {steps}")
        before = of_ids(self.trained, ids)
        written = list(ids)
        hooks = self._runner.by_layer(edits, None)
        with self._lock:
            state, logits = self._after(before, edits, hooks)
            pieces, predicted = [], [logits]
            for _ in range(steps):
                generator = torch.Generator().manual_seed(_seed(seed, len(written)))
                allowed = logits.clone()
                if (unknown := self.session.vocabulary.unknown) is not None:
                    allowed[unknown] = -torch.inf
                chosen = int(draw(allowed, temperature=temperature, top_k=top_k, generator=generator))
                piece = self._runner.run(torch.tensor([[chosen]]), state, hooks, len(written))
                pieces.append(piece)
                written.append(chosen)
                state, logits = piece.state, piece.last
                predicted.append(logits)
            self._keep(written, edits, state, logits)
            reading = of_ids(self.trained, written)
            chances = torch.stack(predicted[:-1]).log_softmax(-1)
            new = reading.inputs[len(before) :, 0].cpu()
            surprise = chances.gather(1, new[:, None])[:, 0]
            found = self._inspection(reading, joined(pieces), len(before), len(before))
            return Inspection(
                found.reading, found.first, found.parts, found.top, found.probabilities, surprise
            )

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

    def _inspection(self, reading: Reading, steps: Steps, first: int, offset: int) -> Inspection:
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
            {
                layer: {part: value[cut:] for part, value in kept.items()}
                for layer, kept in steps.parts.items()
            },
            None if steps.top is None else steps.top[cut:],
            None if steps.probabilities is None else steps.probabilities[cut:],
            None if log_probability is None else log_probability[cut:],
        )

    def _after(
        self, reading: Reading, edits: Sequence[Edit], hooks: dict[int, list[Edit]]
    ) -> tuple[Any, Tensor]:
        """The state after a text and the logits of what follows."""
        key = (tuple(reading.inputs[:, 0].tolist()), tuple(edits))
        if key in self._states:
            return self._states[key]
        steps = self._runner.run(reading.inputs, self._state, hooks, 0)
        return steps.state, steps.last

    def _before(self, reading: Reading, first: int) -> Any:
        """The state before step `first`; of steps that are asked for one after the other, continued from the last."""
        kept, start, state = self._reached
        if kept is not reading or start > first:
            start, state = 0, self._state
        if first > start:
            with torch.no_grad():
                for chunk in torch.split(reading.inputs[start:first].to(self._runner.device), CHUNK):
                    _, state = self.model(chunk, state)
        self._reached = (reading, first, state)
        return state

    def _keep(self, ids: Sequence[int], edits: Sequence[Edit], state: Any, logits: Tensor) -> None:
        self._states[(tuple(ids), tuple(edits))] = (state, logits)
        while len(self._states) > _KEPT:
            self._states.popitem(last=False)


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


def _sharing_copy(model: nn.Module) -> nn.Module:
    """A copy of a model in evaluation mode whose parameters and buffers are the model's own."""
    shared = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared).eval()


def _seed(seed: int, place: int) -> int:
    """The seed of the draw at one place."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:7])
