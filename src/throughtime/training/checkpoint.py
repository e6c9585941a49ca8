"""All that a training needs to continue as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from throughtime.data.batch import Batch
from throughtime.data.epochs import Epochs
from throughtime.errors import RunError
from throughtime.layers.eval_mode import evaluating
from throughtime.metrics import Metric
from throughtime.training.evaluation import Evaluation
from throughtime.training.processes import Processes


def own_part(data: Epochs, state: Any, generator: torch.Generator, device: torch.device) -> dict[str, Any]:
    """What is each process's own: its place in the data, its carried state, its random number generators.

    Nothing is changed: a training that saves is the one that does not. Tensors are copied to the CPU.
    """
    leaves, _ = tree_flatten(state)
    return {
        "data": data.state_dict(),
        "carried": None if state is None else _moved(leaves, torch.device("cpu")),
        "random": torch.get_rng_state(),
        "device_random": None
        if device.type == "cpu"
        else torch.get_device_module(device).get_rng_state(device),
        "generator": generator.get_state(),
    }


def restore_own_part(
    part: dict[str, Any], data: Epochs, generator: torch.Generator, device: torch.device
) -> None:
    """Put back what `own_part` took, but the carried state: see `CarriedState`."""
    data.load_state_dict(part["data"])
    torch.set_rng_state(part["random"])
    generator.set_state(part["generator"])
    if part["device_random"] is not None and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(part["device_random"], device)


class CarriedState:
    """A state from a checkpoint: its tensors, but not its structure, since a file does not name classes.

    The model gives the structure, from the first step of the batch that needs the state.
    """

    def __init__(self, leaves: list[Any]) -> None:
        self._leaves = leaves

    @torch.no_grad()
    def restore(self, model: nn.Module, batch: Batch) -> Any:
        """The state, in the structure and on the device of the one that the model returns for `batch`."""
        with evaluating(model):  # draws no random numbers: those of the training stay as they are
            _, example = batch.window(0, 1).run(model)
        leaves, structure = tree_flatten(example)
        if len(leaves) != len(self._leaves) or any(
            isinstance(a, Tensor) and (not isinstance(b, Tensor) or a.shape != b.shape)
            for a, b in zip(leaves, self._leaves, strict=True)
        ):
            raise RunError(
                "the checkpoint's carried state is not one of this model's: the run was made by another model"
            )
        device = next((leaf.device for leaf in leaves if isinstance(leaf, Tensor)), torch.device("cpu"))
        return tree_unflatten(_moved(self._leaves, device), structure)


def check_world(parts: list[Any], processes: Processes) -> dict[str, Any]:
    """This process's part.

    Raises: RunError if another number of processes made the checkpoint.
    """
    if len(parts) != processes.world:
        raise RunError(
            f"the run was trained by {len(parts)} processes, each with its own data, now there are {processes.world}: "
            f"launch {len(parts)}"
        )
    part: dict[str, Any] = parts[processes.rank]
    return part


def load_weights(
    tree: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, path: Path
) -> None:
    """Put back the weights and the optimizer's state.

    Raises: RunError if they are those of another model.
    """
    try:
        model.load_state_dict(tree["model"])
        optimizer.load_state_dict(tree["optimizer"])
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"the checkpoint in {path} is one of another model: {reason}") from None


def numbers_of(evaluation: Evaluation | None) -> Any:
    """An evaluation as a checkpoint holds it."""
    if evaluation is None:
        return None
    return [evaluation.loss, evaluation.count, [metric.totals for metric in evaluation.metrics]]


def evaluation_of(numbers: Any, metrics: list[Metric]) -> Evaluation | None:
    """The inverse of `numbers_of`; `metrics` are new ones, which take the totals."""
    if numbers is None:
        return None
    loss, count, totals = numbers
    for metric, total in zip(metrics, totals, strict=True):
        metric.totals = total
    return Evaluation(loss, count, tuple(metrics))


def _moved(leaves: list[Any], device: torch.device) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), leaves)
