"""The states of all layers and directions, in torch.nn's form and back.

Inside, a state has components (h, or h and c). Each is one tensor [layers * directions, B, size], or a tuple of [B, size]
where the layers differ in size; both are indexed by the number of the layer and direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.layers.sequence import PaddedBatch

Stacked: TypeAlias = Tensor | tuple[Tensor, ...]


class StateForm(NamedTuple):
    """The form of a layer's hx: its components and their shapes."""

    fields: tuple[str, ...]  # ("h",) or ("h", "c")
    sizes: tuple[tuple[int, ...], ...]  # for each field, the size of each layer
    one_tensor: tuple[bool, ...]  # for each field, whether its component is one tensor for all layers
    directions: int
    rows: int  # layers times directions

    @staticmethod
    def of(
        state_type: type[Any], outputs: tuple[int, ...], hidden: tuple[int, ...], directions: int
    ) -> StateForm:
        """From the state of one layer and the sizes of h and c in each of them."""
        fields = state_type._fields
        sizes = tuple({"h": outputs, "c": hidden}[field] for field in fields)
        one_tensor = tuple(len(set(each)) == 1 for each in sizes)
        return StateForm(fields, sizes, one_tensor, directions, len(outputs) * directions)

    def read(self, hx: Any, batch: PaddedBatch) -> list[Stacked]:
        """The components of the caller's hx, checked, batched, and with the rows in the order of `batch.x`; zeros for None."""
        if hx is None:
            return [self._zeros(index, batch.x) for index in range(len(self.fields))]
        parts = list(hx) if len(self.fields) > 1 else [hx]
        if len(parts) != len(self.fields):
            raise ValueError(
                f"hx must be ({', '.join(self.fields)}), got {len(parts)} tensors: give both, or None for zeros"
            )
        if all(isinstance(value, Tensor) for value in parts):
            _check_dims(parts, batch.batched)
        components: list[Stacked] = []
        for index, value in enumerate(parts):
            name = "hidden" if len(self.fields) == 1 else f"hidden[{index}]"
            if not self.one_tensor[index]:
                components.append(self._read_each(name, index, value, batch))
                continue
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name} must be one tensor [{self.rows}, B, {self.sizes[index][0]}], got {type(value).__name__}"
                )
            _check_state_dtype(value, batch.x, name)
            value = value if batch.batched else value.unsqueeze(1)
            _check_state_size(value, (self.rows, batch.x.shape[1], self.sizes[index][0]), name)
            components.append(value if batch.order is None else value.index_select(1, batch.order))
        return components

    def split(self, components: Sequence[Stacked], state_type: type[Any]) -> list[State]:
        """One state for each layer and direction from the components."""
        return [state_type(*(c[row] for c in components)) for row in range(self.rows)]

    def join(self, states: Sequence[State]) -> list[Stacked]:
        """The components from one state for each layer and direction."""
        columns = list(zip(*states, strict=True))
        return [
            torch.stack(column) if self.one_tensor[index] else column for index, column in enumerate(columns)
        ]

    def give(self, components: Sequence[Stacked], batch: PaddedBatch) -> Any:
        """The caller's form: rows in the caller's order, no batch dimension if there was none, a pair for two components."""
        parts: list[Stacked] = []
        for value in components:
            if isinstance(value, Tensor):
                value = value if batch.restore is None else value.index_select(1, batch.restore)
                parts.append(value if batch.batched else value.squeeze(1))
            else:
                each = [v if batch.restore is None else v.index_select(0, batch.restore) for v in value]
                parts.append(tuple(v if batch.batched else v.squeeze(0) for v in each))
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _zeros(self, index: int, x: Tensor) -> Stacked:
        sizes, batch = self.sizes[index], x.shape[1]
        if self.one_tensor[index]:
            return torch.zeros(self.rows, batch, sizes[0], dtype=x.dtype, device=x.device)
        return tuple(
            torch.zeros(batch, sizes[row // self.directions], dtype=x.dtype, device=x.device)
            for row in range(self.rows)
        )

    def _read_each(self, name: str, index: int, value: Any, batch: PaddedBatch) -> Stacked:
        if isinstance(value, Tensor) or len(value) != self.rows:
            raise RuntimeError(
                f"{name} must be a tuple of {self.rows} tensors, one for each layer and direction, "
                "because the layers differ in size"
            )
        states = [v if batch.batched else v.unsqueeze(0) for v in value]
        for row, state in enumerate(states):
            _check_state_dtype(state, batch.x, f"{name}[{row}]")
            expected = (batch.x.shape[1], self.sizes[index][row // self.directions])
            _check_state_size(state, expected, f"{name}[{row}]")
        return tuple(s if batch.order is None else s.index_select(0, batch.order) for s in states)


def _check_dims(parts: list[Tensor], batched: bool) -> None:
    wanted = 3 if batched else 2
    if all(value.dim() == wanted for value in parts):
        return
    form = "batched 3-D" if batched else "unbatched 2-D"
    if len(parts) == 1:
        what = f"hx should also be {wanted}-D but got {parts[0].dim()}-D tensor"
    else:
        what = f"hx and cx should also be {wanted}-D but got ({parts[0].dim()}-D, {parts[1].dim()}-D) tensors"
    raise RuntimeError(f"For {form} input, {what}")


def _check_state_size(value: Tensor, expected: tuple[int, ...], name: str) -> None:
    """One tensor of hx, [layers * directions, batch, size]."""
    if value.shape != expected:
        raise RuntimeError(f"Expected {name} size {expected}, got {list(value.shape)}")


def _check_state_dtype(value: Tensor, x: Tensor, name: str) -> None:
    """One tensor of hx must be of the input's dtype and on its device; under autocast the dtypes may differ."""
    if value.device != x.device:
        raise RuntimeError(
            f"{name} must be on the input's device, {x.device}, got {value.device}: move it with .to()"
        )
    if value.dtype != x.dtype and not torch._C._is_any_autocast_enabled():
        raise RuntimeError(
            f"{name} must have the input's dtype, {x.dtype}, got {value.dtype}: convert it with .to()"
        )
