"""One direction of one layer through the library, with the masks that a test gives, where a layer would draw them."""

from __future__ import annotations

from throughtime.kernels.native.library import load
from throughtime.kernels.native.recurrence import autograd
from throughtime.kernels.native.recurrence.call import Extras
from throughtime.kernels.native.recurrence.rows import rows_of
from throughtime.kernels.native.recurrence.weights import KINDS, NAMES, Weights
from throughtime.kernels.stack import Stack


def stack_of(recurrence):
    """A stack of one layer and direction over the weights of a bound recurrence, without its mask."""
    found = {name: getattr(recurrence, name, None) for name in NAMES}
    weights = {name: value for name, value in found.items() if value is not None}
    options = {"reset_after": getattr(recurrence, "reset_after", True)}
    options["nonlinearity"] = getattr(recurrence, "nonlinearity", "tanh")
    return Stack(type(recurrence), KINDS[recurrence.kind][1], options, (weights,), 1, False, 0.0, True)


def run(
    recurrence,
    x,
    state,
    *,
    lengths=None,
    reverse=False,
    zoneout=None,
    carry_scale=None,
    named=False,
    library=None,
):
    """What `unroll` computes from the same arguments: outputs [T, B, .] and the final state, sequences in the caller's order.

    `state` may be None, for zeros; `library`: another one than the process's.
    """
    weights = Weights(stack_of(recurrence), load() if library is None else library)
    rows = rows_of(x, lengths)
    sort = lambda value: value if value is None or rows.order is None else value.index_select(0, rows.order)  # noqa: E731
    components = [sort(value)[None].contiguous() for value in state or ()]
    keep = (None, None) if zoneout is None or zoneout.keep is None else (*zoneout.keep, None)[:2]
    masks = (sort(getattr(recurrence, "h_mask", None)), *(None if k is None else rows.pack(k) for k in keep))
    given = any(mask is not None for mask in masks)
    extras = Extras(
        (masks,) if given else None, () if zoneout is None else tuple(zoneout.rates), carry_scale, reverse
    )
    h0, c0 = (*components, None, None)[:2]
    y, *finals = autograd.apply(weights, rows, extras, named, rows.pack(x).contiguous(), h0, c0)
    finals = [value[0] for value in finals if value is not None]
    if rows.restore is not None:
        finals = [value.index_select(0, rows.restore) for value in finals]
    return rows.unpack(y), tuple(finals)
