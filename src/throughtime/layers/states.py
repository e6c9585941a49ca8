"""The states of all layers and directions, in torch.nn's form and back.

Inside, a state has components (h, or h and c). Each is one tensor [layers * directions, B, size], or a tuple of [B, size]
where the layers differ in size; both are indexed by the number of the layer and direction.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.kernels.reference import rebuild
from throughtime.layers.checks import check_state_dtype, check_state_size
from throughtime.layers.sequence import Sequence

Stacked: TypeAlias = Tensor | tuple[Tensor, ...]


class StateForm(NamedTuple):
    """What the hx of a layer looks like."""

    fields: tuple[str, ...]  # ("h",) or ("h", "c")
    sizes: tuple[tuple[int, ...], ...]  # for each field, the size of each layer
    one_tensor: tuple[bool, ...]  # for each field, whether its component is one tensor for all layers
    directions: int
    rows: int  # layers times directions

    @staticmethod
    def of(
        state_type: type[Any], outputs: tuple[int, ...], memories: tuple[int, ...], directions: int
    ) -> StateForm:
        """From the state of one layer and the sizes of h and c in each of them."""
        fields = state_type._fields
        sizes = tuple({"h": outputs, "c": memories}[field] for field in fields)
        one_tensor = tuple(len(set(each)) == 1 for each in sizes)
        return StateForm(fields, sizes, one_tensor, directions, len(outputs) * directions)

    def read(self, hx: Any, sequence: Sequence) -> list[Stacked]:
        """The components of the caller's hx, checked, batched, and with the rows in the order of `sequence.x`; zeros for None."""
        if hx is None:
            return [self._zeros(index, sequence.x) for index in range(len(self.fields))]
        given = list(hx) if len(self.fields) > 1 else [hx]
        if len(given) != len(self.fields):
            raise ValueError(
                f"hx must be ({', '.join(self.fields)}), got {len(given)} tensors: give both, or None for zeros"
            )
        if all(isinstance(value, Tensor) for value in given):
            _check_dims(given, sequence.batched)
        components: list[Stacked] = []
        for index, value in enumerate(given):
            name = "hidden" if len(self.fields) == 1 else f"hidden[{index}]"
            if not self.one_tensor[index]:
                components.append(self._read_each(name, index, value, sequence))
                continue
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name} must be one tensor [{self.rows}, B, {self.sizes[index][0]}], got {type(value).__name__}"
                )
            check_state_dtype(value, sequence.x, name)
            value = value if sequence.batched else value.unsqueeze(1)
            check_state_size(value, (self.rows, sequence.x.shape[1], self.sizes[index][0]), name)
            components.append(value if sequence.order is None else value.index_select(1, sequence.order))
        return components

    def split(self, components: Many[Stacked], state_type: type[Any]) -> list[State]:
        """One state for each layer and direction from the components."""
        return [state_type(*(c[row] for c in components)) for row in range(self.rows)]

    def join(self, states: Many[State]) -> list[Stacked]:
        """The components from one state for each layer and direction."""
        columns = list(zip(*states, strict=True))
        return [
            torch.stack(column) if self.one_tensor[index] else column for index, column in enumerate(columns)
        ]

    def give(self, components: Many[Stacked], sequence: Sequence) -> Any:
        """The caller's form: rows in the caller's order, no batch dimension if there was none, a pair for two components."""
        given: list[Stacked] = []
        for value in components:
            if isinstance(value, Tensor):
                value = value if sequence.restore is None else value.index_select(1, sequence.restore)
                given.append(value if sequence.batched else value.squeeze(1))
            else:
                each = [v if sequence.restore is None else v.index_select(0, sequence.restore) for v in value]
                given.append(tuple(v if sequence.batched else v.squeeze(0) for v in each))
        return given[0] if len(given) == 1 else tuple(given)

    def _zeros(self, index: int, x: Tensor) -> Stacked:
        sizes, batch = self.sizes[index], x.shape[1]
        if self.one_tensor[index]:
            return torch.zeros(self.rows, batch, sizes[0], dtype=x.dtype, device=x.device)
        return tuple(
            torch.zeros(batch, sizes[row // self.directions], dtype=x.dtype, device=x.device)
            for row in range(self.rows)
        )

    def _read_each(self, name: str, index: int, value: Any, sequence: Sequence) -> Stacked:
        if isinstance(value, Tensor) or len(value) != self.rows:
            raise RuntimeError(
                f"{name} must be a tuple of {self.rows} tensors, one for each layer and direction, "
                "because the layers differ in size"
            )
        states = [v if sequence.batched else v.unsqueeze(0) for v in value]
        for row, state in enumerate(states):
            check_state_dtype(state, sequence.x, f"{name}[{row}]")
            expected = (sequence.x.shape[1], self.sizes[index][row // self.directions])
            check_state_size(state, expected, f"{name}[{row}]")
        return tuple(s if sequence.order is None else s.index_select(0, sequence.order) for s in states)


def reorder(state: State, order: Tensor | None) -> State:
    """The state with its sequences in another order; None for the same."""
    return state if order is None else rebuild(state, [value.index_select(0, order) for value in state])


def _check_dims(given: list[Tensor], batched: bool) -> None:
    wanted = 3 if batched else 2
    if all(value.dim() == wanted for value in given):
        return
    form = "batched 3-D" if batched else "unbatched 2-D"
    if len(given) == 1:
        what = f"hx should also be {wanted}-D but got {given[0].dim()}-D tensor"
    else:
        what = f"hx and cx should also be {wanted}-D but got ({given[0].dim()}-D, {given[1].dim()}-D) tensors"
    raise RuntimeError(f"For {form} input, {what}")
