"""Going back to the weights from before a spike, and on with smaller steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from throughtime.training import clipping
from throughtime.training.config import TrainingConfig
from throughtime.training.step import Step

EVERY = 25  # steps between the weights that are kept
MARGIN = 10  # steps that kept weights must lie before a spike, which shows only some steps after its cause
KEPT = 2  # so that one of them always lies so far back


class Rollback:
    """Keeps the weights and the optimiser's state of now and then, and puts them back after a spike.

    Weights go back, the data does not: training goes on with the window after the spike's, at the same step of the schedule,
    with its learning rate times `config.rollback_lr` for every rollback so far and, if there is one, with `config.rollback_clip`.
    The same batch under the same weights would only jump again.

    Kept by the number of steps and not by the clock, and saved with the checkpoint, so that a training that was killed goes back
    to the same weights. Memory, and checkpoint: `KEPT` more copies of the weights and the optimiser's state.
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
        self._step.optimizer.load_state_dict(_copy(optimizer))  # it would go on with the tensors it is given
        self._step.optimizer.zero_grad(set_to_none=True)
        self.used += 1
        self._calm()
        return to

    def describe(self, to: int) -> str:
        """What was done, in a sentence."""
        clip = "" if self._config.rollback_clip is None else f", with clip = {self.clip}"
        return (
            f"Went back to the weights after step {to} and on with the next window, at {self.factor:.3g} times the learning "
            f"rate{clip}; rollback {self.used} of {self._config.rollbacks}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The weights that are kept, and how often they were used."""
        return {"kept": [list(kept) for kept in self._kept], "used": self.used}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from `state_dict`; from None, with nothing kept."""
        if state is None:
            return
        parameters = self._step.parameters
        device = parameters[0].device
        self._kept = [
            (step, tree_map_only(Tensor, lambda t: t.to(device), model), optimizer)
            for step, model, optimizer in state["kept"]
        ]
        self.used = state["used"]
        self._calm()

    def _calm(self) -> None:
        """Clip as from the first rollback on."""
        if self.used and self._config.rollback_clip is not None:
            self.clip = self._config.rollback_clip
            self._step.clip = clipping.parse(self.clip)


def _copy(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), tree)
