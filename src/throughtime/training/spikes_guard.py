"""What is done about a spike: say it and go on, stop, or go back to earlier weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from throughtime.training.config import TrainingConfig
from throughtime.training.rollback import Rollback
from throughtime.training.spikes import Measured, Spike, Spikes
from throughtime.training.spikes_report import describe, numbers
from throughtime.training.step import Step
from throughtime.training.task import Task
from throughtime.training.watch import Watch


class Event(NamedTuple):
    """A spike that was dealt with."""

    text: str  # one paragraph
    record: dict[str, Any]  # for the history
    stops: bool
    back: bool  # the weights are earlier ones, and the step's gradient is not to be used


class Guard:
    """Judges every step, and acts as `config.on_spike` says.

    A loss or a norm that is no number stops the training unless the weights can go back: no update can be made of it.
    """

    def __init__(self, config: TrainingConfig, step: Step, task: Task, device: torch.device) -> None:
        self.watch = Watch(config.watch, step.model, task, device)
        self.rollback = Rollback(config, step) if config.on_spike == "rollback" else None
        self.at_once = config.on_spike != "warn" or device.type == "cpu"
        """Whether a step is judged before its update. Elsewhere than on a CPU that would wait for the device in every step."""
        self._config, self._step, self._spikes = config, step, Spikes()

    def before(self, step: int) -> float:
        """After step `step`, before the next: keep what going back needs. What the learning rate is to be multiplied by."""
        if self.rollback is None:
            return 1.0
        if self._config.on_spike == "rollback":
            self.rollback.keep(step)
        return self.rollback.factor

    def judge(self, step: Measured) -> Event | None:
        """Deal with the step, if it is a spike."""
        spike = self._spikes.judge(step)
        if spike is None:
            return None
        clip = self._config.clip if self.rollback is None else self.rollback.clip
        text, record = describe(spike, clip, self.watch), numbers(spike, self.watch)
        action, more, end = self._act(spike)
        start = "training stopped at step" if action == "stop" else "Step"
        whole = f"{start} {step.step}: {text}. {end}"
        record = {**record, "action": action, **more, "text": whole}
        return Event(whole, record, action == "stop", action == "rollback")

    def state_dict(self) -> dict[str, Any]:
        """All that the next judgement depends on, and what going back would need."""
        rollback = None if self.rollback is None else self.rollback.state_dict()
        return {"spikes": self._spikes.state_dict(), "watch": self.watch.state_dict(), "rollback": rollback}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, also from that of a training which could not go back."""
        self._spikes.load_state_dict(state["spikes"])
        self.watch.load_state_dict(state["watch"])
        rolled = state["rollback"]
        if self.rollback is None and rolled is not None and rolled["used"]:
            # What was calmed stays calm, though nothing is to go back any more: what going back needs is let go.
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
                    + _KEPT,
                )
            to = self.rollback.back(spike.at.step)
            self._spikes.forget(to)
            done = {"to_step": to, "lr_factor": self.rollback.factor, "clip": self.rollback.clip}
            return "rollback", done, self.rollback.describe(to)
        if self._config.on_spike == "stop" or spike.kind == "number":
            return "stop", {}, _KEPT
        return "warn", {}, "Training goes on; with on_spike = rollback it would go back and on from there"


_KEPT = "The last checkpoint is kept"
