"""All that a training needs to go on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from throughtime.errors import RunError
from throughtime.training.evaluation import Evaluation, to_device
from throughtime.training.processes import Processes
from throughtime.training.task import Windows


def own_part(
    streams: Windows, state: Any, generator: torch.Generator, device: torch.device
) -> dict[str, Any]:
    """What is each process's own: its place in the data, its streams' state, its random numbers.

    Nothing is changed by looking: a training that saves is the one that does not. Tensors are copied to the CPU.
    """
    leaves, _ = tree_flatten(state)
    return {
        "streams": streams.state_dict(),
        "carried": None if state is None else to_device(leaves, torch.device("cpu")),
        "random": torch.get_rng_state(),
        "device_random": None
        if device.type == "cpu"
        else torch.get_device_module(device).get_rng_state(device),
        "generator": generator.get_state(),
    }


def restore_own_part(
    part: dict[str, Any], streams: Windows, generator: torch.Generator, device: torch.device
) -> None:
    """Put back what `own_part` took, but the carried state: see `Carried`."""
    streams.load_state_dict(part["streams"])
    torch.set_rng_state(part["random"])
    generator.set_state(part["generator"])
    if part["device_random"] is not None and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(part["device_random"], device)


class Carried:
    """A state from a checkpoint, which knows its tensors and not its form: a file does not name classes.

    The model is asked for the form, with the first window that needs the state.
    """

    def __init__(self, leaves: list[Any]) -> None:
        self._leaves = leaves

    @torch.no_grad()
    def state(self, model: nn.Module, inputs: Tensor) -> Any:
        """The state, in the form and on the device of the one that the model returns."""
        training = model.training
        model.eval()  # draws no random numbers: those of the training stay as they are
        _, example = model(inputs[:1], None)
        model.train(training)
        shapes, form = tree_flatten(example)
        if len(shapes) != len(self._leaves) or any(
            isinstance(a, Tensor) and (not isinstance(b, Tensor) or a.shape != b.shape)
            for a, b in zip(shapes, self._leaves, strict=True)
        ):
            raise RunError(
                "the checkpoint's carried state is not one of this model's: the run was made by another model"
            )
        return tree_unflatten(to_device(self._leaves, inputs.device), form)


def check_world(parts: list[Any], processes: Processes) -> dict[str, Any]:
    """This process's part.

    Raises: RunError if another number of processes made the checkpoint.
    """
    if len(parts) != processes.world:
        raise RunError(
            f"the run was trained by {len(parts)} processes, each with its own streams, now there are {processes.world}: "
            f"launch {len(parts)}"
        )
    part: dict[str, Any] = parts[processes.rank]
    return part


def load_weights(
    tree: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, path: Path
) -> None:
    """Put back the weights and the optimiser's state.

    Raises: RunError if they are those of another model.
    """
    try:
        model.load_state_dict(tree["model"])
        optimizer.load_state_dict(tree["optimizer"])
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"the checkpoint in {path} is one of another model: {reason}") from None


def numbers_of(evaluation: Evaluation | None) -> list[float] | None:
    """An evaluation as a checkpoint holds it."""
    return None if evaluation is None else [evaluation.loss, evaluation.count]


def evaluation_of(numbers: Any) -> Evaluation | None:
    """What `numbers_of` was given."""
    return None if numbers is None else Evaluation(*numbers)
