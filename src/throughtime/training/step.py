"""One optimizer step: a batch, its gradient through time, clipping, the update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from throughtime import bptt
from throughtime.data.batch import Batch
from throughtime.errors import one_of
from throughtime.training import clipping
from throughtime.training.config import OPTIMIZERS, TrainingConfig
from throughtime.training.processes import Processes
from throughtime.training.spikes import Place


@dataclass(frozen=True, slots=True)
class Reading:
    """One step's loss and gradient norm, still on the device."""

    loss: Tensor  # per target
    norm: Tensor  # of the gradient, before clipping
    clipped: Tensor  # bool
    count: int
    place: Place


class Step:
    """Everything one step needs. `gradients` and `update` are separate, so that gradients can be inspected before the update."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Batch], Tensor],
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

    def gradients(self, batch: Batch, state: Any, count: int, place: Place) -> tuple[Reading, Any]:
        """Leave the clipped gradient of the mean loss over all processes' targets in `.grad`.

        Args:
            batch: this process's.
            state: its sequences' state, None at their start.
            count: unmasked targets of all processes' batches.
            place: of the step, for the record of what it measured.

        Returns: what to record, and the state after the batch, detached.
        """
        device = self.processes.device
        result = self.strategy.backward(
            self._run, self.loss, batch.to(device), state=state, count=count, generator=self.generator
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
        """Update the weights, and clear the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _run(self, batch: Batch, state: Any) -> tuple[Any, Any]:
        with autocast(self.processes.device, self.precision):
            return batch.run(self.model, state)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """fp32: nothing. bf16: torch's autocast, for the forward pass only.

    torch's and not accelerate's, which is a setting of the whole process that cannot be changed once made: two
    trainings in one process may differ.
    """
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, torch.bfloat16)


def optimizer_for(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of `config` over the model's parameters.

    sgd, momentum (sgd with it), adam, adamw, rmsprop. Weight decay acts on matrices, not on biases and gains: those
    do not multiply features.
    Raises: InputError for an unknown name.
    """
    one_of("optimizer", config.optimizer, OPTIMIZERS)
    decay = config.weight_decay
    if decay is None:
        decay = 0.01 if config.optimizer == "adamw" else 0.0
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: Any = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.lr)
    # One kernel for all of a parameter's arithmetic: several times faster than torch's default on a CPU.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    if config.optimizer in ("sgd", "momentum"):
        momentum = config.momentum if config.optimizer == "momentum" else 0.0
        return torch.optim.SGD(groups, lr=config.lr, momentum=momentum, fused=fused)
    betas = (config.betas[0], config.betas[1])
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=betas, fused=fused)
