"""What is done about a spike: report it and continue, stop, or roll back to earlier weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from throughtime.training import clipping
from throughtime.training.config import TrainingConfig
from throughtime.training.spikes import Spike, Spikes, StepNumbers, describe, numbers
from throughtime.training.step import Step
from throughtime.training.watch import Watch

EVERY = 25  # steps between the weights that are kept
MARGIN = 10  # steps that kept weights must lie before a spike, which shows only some steps after its cause
KEPT = 2  # so that one of them always lies so far back
_SAVED = "The last checkpoint is kept"


class Rollback:
    """Keeps the weights and the optimizer's state every `EVERY` steps, and puts them back after a spike.

    Weights go back, the data does not: training continues with the batch after the spike's, at the same step of the schedule,
    with its learning rate times `config.rollback_lr` for every rollback so far and, if there is one, with `config.rollback_clip`.
    The same batch under the same weights would only jump again.

    Kept by the number of steps and not by the clock, and saved with the checkpoint, so that a training that was killed rolls
    back to the same weights. Memory, and checkpoint: `KEPT` more copies of the weights and the optimizer's state.
    """

    def __init__(self, config: TrainingConfig, step: Step) -> None:
        self._config, self._step = config, step
        self._kept: list[tuple[int, dict[str, Any], dict[str, Any]]] = []
        self.used = 0
        self.clip = config.clip

    @property
    def left(self) -> int:
        """Rollbacks that remain."""
        return self._config.rollbacks - self.used

    @property
    def factor(self) -> float:
        """What the schedule's learning rate is multiplied by."""
        return self._config.rollback_lr**self.used

    def keep(self, step: int) -> None:
        """Keep the weights after step `step`, if it is time or there are none yet."""
        if self._kept and step % EVERY:
            return
        model, optimizer = self._step.model.state_dict(), self._step.optimizer.state_dict()
        self._kept = [*self._kept, (step, _copy(dict(model)), _copy(optimizer))][-KEPT:]

    def back(self, step: int) -> int:
        """Put back the last weights that lie well before the spike of step `step`: after which step they were kept."""
        early = [kept for kept in self._kept if step - kept[0] >= MARGIN] or self._kept[:1]
        self._kept = early
        to, model, optimizer = early[-1]
        self._step.model.load_state_dict(model)
        self._step.optimizer.load_state_dict(_copy(optimizer))  # it would update the tensors it is given
        self._step.optimizer.zero_grad(set_to_none=True)
        self.used += 1
        self._clip_harder()
        return to

    def describe(self, to: int) -> str:
        """What was done, in a sentence."""
        clip = "" if self._config.rollback_clip is None else f", with clip = {self.clip}"
        return (
            f"Rolled back to the weights after step {to} and continued with the next batch, at {self.factor:.3g} times the "
            f"learning rate{clip}; rollback {self.used} of {self._config.rollbacks}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The weights that are kept, and how often they were used."""
        return {"kept": [list(kept) for kept in self._kept], "used": self.used}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Continue from `state_dict`; from None, with nothing kept."""
        if state is None:
            return
        parameters = self._step.parameters
        device = parameters[0].device
        self._kept = [
            (step, tree_map_only(Tensor, lambda t: t.to(device), model), optimizer)
            for step, model, optimizer in state["kept"]
        ]
        self.used = state["used"]
        self._clip_harder()

    def _clip_harder(self) -> None:
        """Clip as from the first rollback on."""
        if self.used and self._config.rollback_clip is not None:
            self.clip = self._config.rollback_clip
            self._step.clip = clipping.parse(self.clip)


def _copy(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), tree)


class Event(NamedTuple):
    """A spike that was dealt with."""

    text: str  # one paragraph
    record: dict[str, Any]  # for the history
    stops: bool
    back: bool  # the weights are earlier ones, and the step's gradient is not to be used


class Guard:
    """Judges every step, and acts as `config.on_spike` says.

    A loss or a norm that is not finite stops the training unless the weights can be rolled back: no update can be made of it.
    """

    def __init__(self, config: TrainingConfig, step: Step, device: torch.device) -> None:
        self.watch = Watch(config.watch, step.model, step.loss, device)
        self.rollback = Rollback(config, step) if config.on_spike == "rollback" else None
        self.at_once = config.on_spike != "warn" or device.type == "cpu"
        """Whether a step is judged before its update. Elsewhere than on a CPU that would wait for the device in every step."""
        self._config, self._step, self._spikes = config, step, Spikes()

    def before(self, step: int) -> float:
        """After step `step`, before the next: keep what a rollback needs. Returns the factor of the learning rate."""
        if self.rollback is None:
            return 1.0
        if self._config.on_spike == "rollback":
            self.rollback.keep(step)
        return self.rollback.factor

    def judge(self, step: StepNumbers) -> Event | None:
        """Act on the step, if it is a spike."""
        spike = self._spikes.judge(step)
        if spike is None:
            return None
        clip = self._config.clip if self.rollback is None else self.rollback.clip
        watched = self.watch.words, self.watch.step
        text, record = describe(spike, clip, *watched), numbers(spike, *watched)
        action, more, end = self._act(spike)
        start = "training stopped at step" if action == "stop" else "Step"
        whole = f"{start} {step.step}: {text}. {end}"
        record = {**record, "action": action, **more, "text": whole}
        return Event(whole, record, action == "stop", action == "rollback")

    def state_dict(self) -> dict[str, Any]:
        """All that the next judgement depends on, and what a rollback would need."""
        rollback = None if self.rollback is None else self.rollback.state_dict()
        return {"spikes": self._spikes.state_dict(), "watch": self.watch.state_dict(), "rollback": rollback}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`, also from that of a training without rollbacks."""
        self._spikes.load_state_dict(state["spikes"])
        self.watch.load_state_dict(state["watch"])
        rolled = state["rollback"]
        if self.rollback is None and rolled is not None and rolled["used"]:
            # The smaller steps stay, though nothing is rolled back any more: the kept weights are dropped.
            self.rollback = Rollback(self._config, self._step)
            rolled = {**rolled, "kept": []}
        if self.rollback is not None:
            self.rollback.load_state_dict(rolled)

    def _act(self, spike: Spike) -> tuple[str, dict[str, Any], str]:
        """What was done: "warn", "stop" or "rollback", its numbers, and a sentence."""
        if self._config.on_spike == "rollback" and self.rollback is not None:
            if self.rollback.left == 0:
                return (
                    "stop",
                    {},
                    f"It is the {self.rollback.used + 1}. spike after {self.rollback.used} rollbacks: "
                    + _SAVED,
                )
            to = self.rollback.back(spike.at.step)
            self._spikes.forget(to)
            done = {"to_step": to, "lr_factor": self.rollback.factor, "clip": self.rollback.clip}
            return "rollback", done, self.rollback.describe(to)
        if self._config.on_spike == "stop" or spike.kind == "number":
            return "stop", {}, _SAVED
        return (
            "warn",
            {},
            "Training continues; with on_spike = rollback it would continue from earlier weights",
        )
