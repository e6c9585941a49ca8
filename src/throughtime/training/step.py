"""One step of the optimiser: a window of text, back through it, clip, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.bptt import Strategy
from throughtime.training.autocast import autocast
from throughtime.training.clipping import Clip
from throughtime.training.evaluation import to_device
from throughtime.training.meter import Reading
from throughtime.training.processes import Processes
from throughtime.training.task import Window


class Step:
    """Everything that one step needs. `gradients` and `update` are apart, so that one can look before leaping."""

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        loss: Callable[[Any, Any], Tensor],
        clip: Clip,
        optimizer: torch.optim.Optimizer,
        processes: Processes,
        precision: str,
        generator: torch.Generator,
    ) -> None:
        self.model, self.strategy, self.loss, self.clip = model, strategy, loss, clip
        self.optimizer, self.processes = optimizer, processes
        self.precision, self.generator = precision, generator
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(self, window: Window, state: Any, count: int) -> tuple[Reading, Any]:
        """Leave the clipped gradient of the mean loss over all processes' targets in `.grad`.

        Args:
            window: this process's.
            state: its streams' state, None at their start.
            count: unmasked targets of all processes' windows.

        Returns: what to watch, and the state after the window, detached.
        """
        device = self.processes.device
        result = self.strategy.backward(
            self._run,
            self.loss,
            to_device(window.inputs, device),
            to_device(window.targets, device),
            state,
            reduction="mean",
            count=count,
            generator=self.generator,
        )
        loss = result.loss
        if self.processes.world > 1:
            loss = loss.clone().to(device)
            for parameter in self.parameters:  # the same message from all, also where a gradient did not come
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self.processes.sum_([loss, *(p.grad for p in self.parameters if p.grad is not None)])
        clipped = self.clip(self.parameters)
        return Reading(loss, clipped.norm, clipped.changed, count), result.state

    def update(self, lr: float) -> None:
        """Move the weights, and forget the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _run(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        with autocast(self.processes.device, self.precision):
            outputs, state = self.model(inputs, state)
        return outputs, state
