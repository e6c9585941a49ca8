"""The device of this process, and the other processes that train with it, through accelerate."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.errors import InputError


class Processes:
    """One of `world` processes that train together; alone, `world` is 1 and nothing is sent.

    Started by `accelerate launch`, which says how many there are and where. The gradient is summed by us once per
    optimizer step: wrappers that sum in each `backward` do it too often for a strategy that goes back many times.
    Args: device, "auto" or a torch device.
    Raises: InputError for a device that is not there.
    """

    def __init__(self, device: str = "auto") -> None:
        from accelerate import PartialState

        wanted = None if device == "auto" else _known(device)
        best = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        # Without being told, accelerate takes processes without a GPU for single ones, each of which would write.
        state = PartialState(cpu=True) if (wanted or best).type == "cpu" else PartialState()
        self.rank: int = state.process_index
        self.world: int = state.num_processes
        self.first = self.rank == 0
        """Whether this is the process that writes."""
        if self.world == 1:
            self.device = wanted or best
            return
        # A process that exits while the group's threads run is aborted.
        atexit.register(_leave)
        self.device = state.device
        if wanted is not None and wanted.type != self.device.type:
            raise InputError(
                f"device is {device}, but the {self.world} processes were launched on {self.device.type}: "
                "leave device at auto, or launch with other options"
            )

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Make all processes' tensors those of the first, in place."""
        if self.world > 1:
            from accelerate.utils import broadcast

            for tensor in tensors:
                tensor.data.copy_(broadcast(tensor.data.clone()))

    def sum(self, *numbers: float) -> list[float]:
        """Each number summed over the processes; waits for all of them."""
        if self.world == 1:
            return list(numbers)
        from accelerate.utils import reduce

        total: list[float] = reduce(
            torch.tensor(numbers, dtype=torch.float64, device=self.device), reduction="sum"
        ).tolist()
        return total

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over the processes, in place, in one message."""
        if self.world == 1:
            return
        from accelerate.utils import reduce

        flat = reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]), reduction="sum")
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in their order."""
        if self.world == 1:
            return [value]
        from accelerate.utils import gather_object

        values: list[Any] = gather_object([value])
        return values

    def tell(self, value: Any) -> Any:
        """The first process's value, on all of them."""
        if self.world == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _known(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device must be auto, cpu, cuda or cuda:NUMBER, got {name!r}") from None
    if device.type == "cpu":
        return device
    here = torch.accelerator.current_accelerator(check_available=True)
    if here is None or here.type != device.type:
        there = "cpu" if here is None else f"cpu, {here.type}"
        raise InputError(
            f"device {name} is not on this machine, which has {there}: use one of these, or auto"
        )
    count = torch.accelerator.device_count()
    if (device.index or 0) >= count:
        raise InputError(
            f"device {name} is not on this machine, which has {count} of the kind, from 0: use one of these"
        )
    return device
