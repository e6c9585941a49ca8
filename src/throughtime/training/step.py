"""One step of the optimiser: a window of text, back through it, clip, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from throughtime import bptt
from throughtime.training import clipping
from throughtime.training.autocast import autocast
from throughtime.training.config import TrainingConfig
from throughtime.training.evaluation import to_device
from throughtime.training.meter import Reading
from throughtime.training.optimizer import optimizer_for
from throughtime.training.processes import Processes
from throughtime.training.spikes import Place
from throughtime.training.task import Window


class Step:
    """Everything that one step needs. `gradients` and `update` are apart, so that one can look before leaping."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        config: TrainingConfig,
        processes: Processes,
        generator: torch.Generator,
    ) -> None:
        self.model, self.loss, self.processes, self.generator = model, loss, processes, generator
        self.strategy = bptt.parse(config.bptt)
        self.clip = clipping.parse(config.clip)
        self.optimizer = optimizer_for(model, config)
        self.precision = config.precision
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(self, window: Window, state: Any, count: int, place: Place) -> tuple[Reading, Any]:
        """Leave the clipped gradient of the mean loss over all processes' targets in `.grad`.

        Args:
            window: this process's.
            state: its streams' state, None at their start.
            count: unmasked targets of all processes' windows.
            place: of the step, for who reads what it measured.

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
        return Reading(loss, clipped.norm, clipped.changed, count, place), result.state

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
