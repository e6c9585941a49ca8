"""What `Strategy.backward` is called with: tensors made into Batches, modules checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves, tree_map_only

from throughtime.bptt.windows import Tree
from throughtime.data.batch import Batch, count_targets, tensors
from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.bptt.strategy import Strategy


class ParsedInputs(NamedTuple):
    """The one form that strategies work on."""

    run: Callable[..., tuple[Any, Any]]  # (window, state) -> (outputs, state)
    loss: Callable[[Any, Any], Tensor]  # (outputs, window) -> one number
    batches: Batch | Iterable[Batch]  # the whole sequence, or an iterable that is read one Batch at a time
    batch_first: bool | None  # how `run` gets its tensors; None: one sequence without a batch axis


def read(
    run: Callable[..., tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor],
    inputs: Any,
    targets: Any,
    state: Tree,
    lengths: Any,
    batch_first: bool,
    *,
    counted: bool,
) -> ParsedInputs:
    """Bring the arguments of `Strategy.backward` to one form; `counted`: count the targets.

    Raises: InputError if they are none of the forms that it lists.
    """
    if isinstance(inputs, Batch):
        if targets is not None or lengths is not None or batch_first:
            raise InputError(
                "a Batch holds its targets and lengths, time first: leave targets, lengths and batch_first out"
            )
        _check_batch(run, inputs, state)
        return ParsedInputs(run, loss, inputs, False)
    if targets is None:
        if isinstance(inputs, Tensor | PackedSequence) or not isinstance(inputs, Iterable):
            raise InputError(
                f"inputs without targets must be a Batch, or an iterable of pairs (x, target), got "
                f"{type(inputs).__name__}: pass targets= too, or an iterator of windows"
            )
        if lengths is not None:
            raise InputError(
                "lengths with an iterable of pairs cannot be cut: let it yield Batches with their lengths"
            )
        return _from_iterable(run, loss, inputs, state, batch_first)
    without_batch = (
        isinstance(inputs, Tensor) and inputs.dim() == 2 and isinstance(run, nn.Module) and _recurrent(run)
    )
    if without_batch and batch_first:
        raise InputError(
            "inputs [T, D] are one sequence without a batch axis: leave batch_first out, or pass [B, T, D]"
        )
    batch = _to_batch(run, inputs, targets, lengths, batch_first, counted=counted)
    return ParsedInputs(*_on_tensors(run, loss, batch_first), batch, None if without_batch else batch_first)


def check_module(
    module: nn.Module, strategy: Strategy, steps: int | None, *, batch_first: bool | None = False
) -> None:
    """Refuse a module that a strategy would run wrongly, as far as its submodules show it. Cost: one pass over the submodules.

    A recurrent module is a torch.nn.RNNBase, or anything with `batch_first` and `bidirectional`, as the layers here.
    `strategy.backward` does this where `run` is a module; where it is a function, its caller can.

    steps: T of the sequence, None if unknown (an iterable of windows).
    batch_first: how the module gets its inputs; None if it gets one sequence without a batch axis.
    Raises: InputError for a layer with batch_first=True that is given time first: it would take steps for sequences, and
        carry the state of one sequence into another; and for a bidirectional layer if the strategy splits the sequence:
        its backward direction starts at the end, which a window does not have.
    """
    for name, part in parts_over_time(module):
        if not _recurrent(part):
            continue
        layer = type(part).__name__ + (f" ({name})" if name else "")
        if batch_first is not None and part.batch_first and not batch_first:
            raise InputError(
                f"{layer} has batch_first=True, but inputs are cut along dimension 0, time first: pass "
                "batch_first=True with inputs [B, T, ...], or make the layer without it"
            )
        if part is module and batch_first and not part.batch_first:
            raise InputError(
                f"{layer} reads inputs time first, [T, B, D], but batch_first=True was passed: leave it out, or make "
                "the layer with batch_first=True"
            )
        if part.bidirectional and (steps is None or strategy.splits(steps)):
            found = "an iterable of windows" if steps is None else f"{strategy} over {steps} steps"
            raise InputError(
                f"{layer} is bidirectional and must read the whole sequence in one call, got {found}: use Full() over "
                "one batch, or a layer of one direction"
            )


def parts_over_time(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All submodules by name, as `named_modules`, without what is inside one that has `inside_step`.

    Such a module runs inside each step, as a recurrent layer over the characters of a word does: no strategy cuts it.
    """
    skipped: str | None = None
    for name, part in module.named_modules():
        if skipped is not None and name.startswith(skipped):
            continue
        if getattr(part, "inside_step", False):
            skipped = f"{name}." if name else ""
        else:
            yield name, part


def _recurrent(module: Any) -> bool:
    return isinstance(module, nn.RNNBase) or all(
        isinstance(getattr(module, name, None), bool) for name in ("batch_first", "bidirectional")
    )


def _check_batch(run: Any, batch: Batch, state: Tree) -> None:
    if isinstance(run, nn.Module) and _recurrent(run):
        raise InputError(
            f"run gets Batches, and {type(run).__name__} takes tensors: pass "
            "run=lambda window, state: window.run(layer, state)"
        )
    if batch.reset and any(tensor.requires_grad for tensor in tensors(state)):
        raise InputError(
            "state requires grad, but the Batch has reset=True and starts without it: make it with reset=False to "
            "start from a learned state"
        )


def _from_iterable(run: Any, loss: Any, items: Iterable[Any], state: Tree, batch_first: bool) -> ParsedInputs:
    run_tensors, loss_tensors = _on_tensors(run, loss, batch_first)
    pairs: bool | None = None  # known from the first item

    def batches() -> Iterator[Batch]:
        nonlocal pairs
        for item in items:
            is_pair = not isinstance(item, Batch)
            if is_pair and (not isinstance(item, tuple | list) or len(item) != 2):
                raise InputError(
                    f"an iterator of windows must yield Batches or pairs (x, target), got {type(item).__name__}: "
                    "map it, as in ((w.inputs, w.targets) for w in windows)"
                )
            if pairs not in (None, is_pair):
                raise InputError("an iterator of windows must yield Batches or pairs (x, target), got both")
            if pairs is None and not is_pair:
                if batch_first:
                    raise InputError("a Batch is time first: leave batch_first out")
                _check_batch(run, item, state)
            pairs = is_pair
            if is_pair:
                inputs, targets = item
                item = _to_batch(run, inputs, targets, None, batch_first, counted=False)
            yield item

    def run_either(window: Batch, state: Tree) -> tuple[Any, Any]:
        return (run_tensors if pairs else run)(window, state)

    def loss_either(outputs: Any, window: Batch) -> Tensor:
        return (loss_tensors if pairs else loss)(outputs, window)

    return ParsedInputs(run_either, loss_either, batches(), batch_first)


def _on_tensors(
    run: Any, loss: Any, batch_first: bool
) -> tuple[Callable[..., tuple[Any, Any]], Callable[[Any, Any], Tensor]]:
    """`run` and `loss` over tensors as functions of a Batch, which is time first."""

    def run_window(window: Batch, state: Tree) -> tuple[Any, Any]:
        options = {} if window.lengths is None else {"lengths": window.lengths}
        inputs = _swapped(window.inputs) if batch_first else window.inputs
        return run(inputs, state, **options)  # type: ignore[no-any-return]

    def loss_window(outputs: Any, window: Batch) -> Tensor:
        return loss(outputs, _swapped(window.targets) if batch_first else window.targets)  # type: ignore[no-any-return]

    return run_window, loss_window


def _to_batch(
    run: Any, inputs: Any, targets: Any, lengths: Any, batch_first: bool, *, counted: bool
) -> Batch:
    if isinstance(inputs, PackedSequence):
        if lengths is not None:
            raise InputError("a PackedSequence holds its lengths: leave lengths= out")
        targets = _pad_alike(targets, inputs, batch_first)
        inputs, lengths = pad_packed_sequence(inputs, batch_first=batch_first)
    packed = [leaf for leaf in _unpacked((inputs, targets)) if isinstance(leaf, PackedSequence)]
    if packed:
        raise InputError(
            "a PackedSequence must be all of the inputs, and targets packed alike or padded; got one inside a "
            "container, or packed targets with inputs that are not: pass padded tensors and lengths="
        )
    if lengths is not None and isinstance(run, nn.RNNBase):
        name = type(run).__name__
        raise InputError(
            f"torch.nn.{name} takes no lengths=: use throughtime.{name}, with the same arguments and parameters"
        )
    _check_shapes(inputs, targets, batch_first, with_batch=batch_first or lengths is not None)
    if batch_first:
        inputs, targets = _swapped(inputs), _swapped(targets)
    if lengths is not None:
        return Batch.of(inputs, targets, lengths, reset=False)
    # Not `Batch.of`: without lengths nothing needs a batch axis, and any pytrees that share T will do.
    count = 0
    if counted:  # in chunks: a count needs several bytes for each target, and T may be large
        count = count_targets(tree_map_only(Tensor, lambda leaf: leaf.split(1024), targets))
    return Batch(inputs, targets, reset=False, num_targets=count)


def _pad_alike(targets: Any, inputs: PackedSequence, batch_first: bool) -> Any:
    """Targets packed as the inputs are, padded; others as they came."""
    if not isinstance(targets, PackedSequence):
        return targets
    orders = (targets.sorted_indices, inputs.sorted_indices)
    same_order = orders == (None, None) or (None not in orders and torch.equal(*orders))  # type: ignore[arg-type]
    if not same_order or not torch.equal(targets.batch_sizes, inputs.batch_sizes):
        raise InputError(
            "targets must be packed as the inputs are, with the same lengths in the same order: pack both with the "
            "same lengths and enforce_sorted"
        )
    return pad_packed_sequence(targets, batch_first=batch_first)[0]


def _check_shapes(inputs: Tree, targets: Tree, batch_first: bool, *, with_batch: bool) -> None:
    """Refuse tensors that do not share T, with a batch axis also B; and targets that would be cut along the batch."""
    axis, form = (1, "[B, T, ...]") if batch_first else (0, "[T, B, ...]" if with_batch else "[T, ...]")
    first = "with the batch first" if batch_first else "with time first"
    x, y = tensors(inputs), tensors(targets)
    axes = 2 if with_batch else 1
    if not x or any(leaf.dim() < axes for leaf in x) or any(leaf.dim() == 0 for leaf in y):
        got = "none or a scalar" if axes == 1 or not x else "one without both"
        raise InputError(f"inputs and targets must be tensors {first}, {form}, got {got}")
    steps = x[0].shape[axis]
    for leaf in y:
        if _one_per_sequence(x[0], leaf, batch_first, with_batch):
            raise InputError(
                f"targets {list(leaf.shape)} with inputs {list(x[0].shape)} look like one for each sequence, not for each "
                f"step, {form}: for those pass inputs=Batch.of(inputs, targets, per_sequence=True) and no targets"
            )
    found = sorted({leaf.shape[axis] for leaf in x + y})
    if len(found) > 1:
        raise InputError(
            f"inputs and targets must have the same number of steps (dimension {axis}), got {found}: "
            f"put {'the batch' if batch_first else 'time'} first, as in {'[B, T, F]' if batch_first else '[T, B, F]'}"
        )
    if steps == 0:
        raise InputError(f"inputs must have at least one step (dimension {axis}), got 0")
    sizes = sorted({leaf.shape[1 - axis] for leaf in x + y}) if with_batch else []
    if len(sizes) > 1:
        raise InputError(
            f"inputs and targets must have the same number of sequences (dimension {1 - axis}), got {sizes}"
        )


def _one_per_sequence(x: Tensor, target: Tensor, batch_first: bool, with_batch: bool) -> bool:
    """Whether a target has, or may have, the batch where time must be; if T == B, what is not [T, B, ...] may."""
    if x.dim() < 2:
        return False
    steps, size = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    if target.dim() == 1:
        return with_batch or len(target) == size
    has_batch = x.dim() > 2 or not x.is_floating_point()  # otherwise x may be one sequence [T, D]
    return not with_batch and has_batch and steps == size == target.shape[0] != target.shape[1]


def _swapped(tree: Tree) -> Tree:
    return tree_map_only(Tensor, lambda leaf: leaf.transpose(0, 1), tree)


def _unpacked(tree: Tree) -> list[Any]:
    """The tensors of a pytree, and the PackedSequences in it as they are."""
    leaves = tree_leaves(tree, is_leaf=lambda leaf: isinstance(leaf, PackedSequence))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor | PackedSequence)]
