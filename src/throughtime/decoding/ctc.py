"""From the outputs of a CTC model to symbols: greedy, prefix beam search, alignment.

A CTC model gives at each frame t the probabilities y_t of V symbols, of which one, the blank, stands for nothing. A path is one
symbol for each frame; its text is what is left after equal neighbours are joined and blanks are removed, and

    P(text) = sum over the paths of that text of prod_t y_t(path_t)

Greedy decoding takes the text of the likeliest path; the prefix beam search looks for the likeliest text. Both keep what
they need between calls, so frames can be given in any chunks.
Source: Graves, Fernandez, Gomez & Schmidhuber 2006, ICML.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, Self
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from throughtime.decoding.state import Step, array_from_json, array_to_json, select
from throughtime.errors import InputError

BLANK = 0
_LEAST = -math.inf

Numbers = NDArray[np.float64]


class Symbol(NamedTuple):
    """A decoded symbol and the frame, from 0, at which it begins."""

    symbol: int
    frame: int


class Transcript(NamedTuple):
    """What a decoder found for one sequence."""

    symbols: tuple[int, ...]
    frames: tuple[int, ...]
    """The frame at which each symbol begins, of a greedy decoder on its path; of a beam where the symbol came into the beam
    (`align` gives those of the likeliest path)."""
    score: float
    """log P of the greedy path; of a beam log P of the text, with what a language model and a length bonus add."""


class Decoder(Protocol):
    """Frames in, symbols out: `Greedy` and `Beam`."""

    @property
    def score(self) -> float:
        """Log P of what was decoded so far: of the path, or of the best text with what is added to it."""

    def feed(self, log_probabilities: Any) -> list[Symbol]:
        """Read frames [t, V], and return the symbols that are now certain."""

    def flush(self) -> list[Symbol]:
        """The rest, at the end of the sequence; then the decoder is at a new beginning."""

    def copy(self) -> Self:
        """A decoder in the same state, which goes on by itself."""

    def to_json(self) -> dict[str, Any]:
        """The state as JSON."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a state that `to_json` gave, of a decoder with the same options."""


class Greedy:
    """The text of the likeliest path, symbol by symbol as it comes: a symbol is certain at once.

    Cost: one argmax for each frame.
    """

    def __init__(self, *, blank: int = BLANK) -> None:
        self.blank = blank
        self.reset()

    def reset(self) -> None:
        """Go back to before the first frame."""
        self._last, self._frames, self._score = self.blank, 0, 0.0

    @property
    def score(self) -> float:
        """Log P of the path so far."""
        return self._score

    def feed(self, log_probabilities: Any) -> list[Symbol]:
        """Read frames [t, V]; the symbols that begin in them. Among equals the first symbol is taken."""
        frames = _frames(log_probabilities, self.blank)
        if not len(frames):
            return []
        path = frames.argmax(1)
        self._score += float(frames.max(1).sum())
        before = np.concatenate([[self._last], path[:-1]])
        begins = np.flatnonzero((path != self.blank) & (path != before))
        found = [Symbol(int(path[at]), self._frames + int(at)) for at in begins]
        self._last, self._frames = int(path[-1]), self._frames + len(path)
        return found

    def flush(self) -> list[Symbol]:
        """Nothing is left at the end."""
        self.reset()
        return []

    def copy(self) -> Self:
        """A decoder in the same state."""
        return copy.copy(self)

    def to_json(self) -> dict[str, Any]:
        """The state as JSON."""
        return {"last": self._last, "frames": self._frames, "score": self._score}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a state that `to_json` gave."""
        self._last, self._frames, self._score = state["last"], state["frames"], state["score"]


class _Prefix:
    """A text as its last symbol and the text before it. It lives while the beam or a longer text holds it."""

    __slots__ = ("__weakref__", "before", "children", "frame", "length", "number", "symbol")

    def __init__(self, before: _Prefix | None, symbol: int, frame: int, number: int) -> None:
        self.before, self.symbol, self.frame, self.number = before, symbol, frame, number
        self.length: int = 0 if before is None else before.length + 1
        self.children: WeakValueDictionary[int, _Prefix] = WeakValueDictionary()

    def symbols(self, after: int = 0) -> list[Symbol]:
        """Its symbols behind the first `after`."""
        found, node = [], self
        while node.length > after and node.before is not None:
            found.append(Symbol(node.symbol, node.frame))
            node = node.before
        return found[::-1]


class Beam:
    """CTC prefix beam search: the `width` likeliest texts of the frames read so far, each with all its paths that were kept.

    For a text l, p_b(l) is the probability of its paths that end in a blank, p_n(l) of the others. A frame y changes them to

        p_b'(l)  = (p_b(l) + p_n(l)) y(blank)
        p_n'(l)  = p_n(l) y(last of l) + (the same text, reached from the text before it)
        p_n'(lc) = (p_b(l) + p_n(l)) y(c),  or p_b(l) y(c) where c is the last of l

    and the best `width` texts are kept by log(p_b + p_n) + alpha log P_lm(l) + beta |l|. All sums are of float64 logarithms. A
    width that no text is dropped from gives the exact P(text). Width 1 keeps the likeliest text of each moment; where the best
    symbol of every frame has a probability of at least 3/4 that is what `Greedy` finds, else it may be another.

    Args:
        width: texts that are kept.
        prune: symbols with a smaller probability in a frame start nothing new there; 0 keeps all. The time of a frame grows with
            the symbols left.
        lm: `step(state, symbols [N]) -> (logits [N, V], state)` of the next symbol after `symbols`, over the V symbols of the
            CTC model; the blank's logit is not read. The first call has the state None and one blank, which stands for the
            beginning; the state is a pytree of tensors whose axis -2 counts the rows.
        alpha: weight of the language model's log-probabilities.
        beta: added for each symbol: a language model alone prefers short texts.

    Cost: a frame takes O(width V) time, in numpy; of the language model one call of at most `width` rows where texts are new.
    Memory: the kept texts.
    Raises: InputError for options out of range.
    Source: Graves 2012, Supervised Sequence Labelling, 7.5; Hannun, Maas, Jurafsky & Ng 2014, arXiv 1408.2873.
    """

    def __init__(
        self,
        width: int = 16,
        *,
        blank: int = BLANK,
        prune: float = 0.0,
        lm: Step | None = None,
        alpha: float = 0.5,
        beta: float = 0.0,
    ) -> None:
        if width < 1:
            raise InputError(f"the width of a beam must be at least 1, got {width}")
        if not 0 <= prune < 1:
            raise InputError(f"prune must be a probability from 0 up to 1, got {prune}")
        if not (0 <= alpha < math.inf and math.isfinite(beta)):
            raise InputError(
                f"alpha must be a number from 0 on and beta a finite number, got {alpha} and {beta}"
            )
        self.width, self.blank, self.lm, self.alpha, self.beta = width, blank, lm, alpha, beta
        self._floor = math.log(prune) if prune else _LEAST
        self._example: list[Any] = []  # a state of the language model, for its form; copies share it
        self.reset()

    def reset(self) -> None:
        """Go back to before the first frame."""
        self._count = 1  # prefixes made, which numbers them
        self._prefixes = [_Prefix(None, -1, -1, 0)]
        self._blank, self._symbol = np.zeros(1), np.full(1, _LEAST)  # log p_b, log p_n
        self._bonus = np.zeros(1)  # of the language model and the length
        self._next: Numbers | None = None  # [n, V]: what a next symbol adds to the bonus
        self._state: Any = None
        self._frame = self._certain = 0

    def feed(self, log_probabilities: Any) -> list[Symbol]:
        """Read frames [t, V]; the symbols that all kept texts begin with, less those returned before: they cannot change."""
        frames = _frames(log_probabilities, self.blank)
        if self.lm is not None and self._next is None and len(frames):
            logits, self._state = self.lm(None, torch.tensor([self.blank]))
            self._next = self._bonuses(logits, frames.shape[1])
        for frame in frames:
            self._step(frame)
            self._frame += 1
        return self._agreed()

    def flush(self) -> list[Symbol]:
        """The rest of the best text."""
        rest = self._prefixes[int(self._scores().argmax())].symbols(self._certain)
        self.reset()
        return rest

    def copy(self) -> Self:
        """A decoder in the same state; both share the texts read so far."""
        other = copy.copy(self)
        other._prefixes = list(self._prefixes)
        return other

    def to_json(self) -> dict[str, Any]:
        """The state as JSON. Its size: the symbols of the kept texts that are not certain yet, and the language model's state."""
        nodes: dict[int, _Prefix] = {}
        for node in self._prefixes:
            while node.number not in nodes:
                nodes[node.number] = node
                if node.before is None or node.length <= self._certain:
                    break
                node = node.before
        first = min(nodes)  # the text that all of them begin with
        found: dict[str, Any] = {
            "nodes": [
                [n, -1 if n == first or each.before is None else each.before.number, each.symbol, each.frame]
                for n, each in sorted(nodes.items())
            ],
            "kept": [each.number for each in self._prefixes],
            "numbers": array_to_json(np.stack([self._blank, self._symbol, self._bonus])),
            "made": self._count,
            "frame": self._frame,
            "certain": self._certain,
        }
        if self._next is not None:
            leaves = [each for each in tree_flatten(self._state)[0] if isinstance(each, Tensor)]
            found["next"] = array_to_json(self._next)
            found["state"] = [array_to_json(each.detach().cpu().numpy()) for each in leaves]
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a state that `to_json` gave, of a decoder with the same options. `best` gives what was not certain then.

        Cost: the first time one step of the language model, whose state's form is not in the JSON.
        """
        made: dict[int, _Prefix] = {}
        for number, before, symbol, frame in state["nodes"]:
            node = made[number] = _Prefix(made.get(before), symbol, frame, number)
            if node.before is None:
                node.length = state["certain"]
            else:
                node.before.children[symbol] = node
        self._prefixes = [made[number] for number in state["kept"]]
        self._blank, self._symbol, self._bonus = array_from_json(state["numbers"])
        self._count, self._frame, self._certain = state["made"], state["frame"], state["certain"]
        self._next = self._state = None
        if self.lm is not None and "next" in state:
            if not self._example:
                self._example.append(self.lm(None, torch.tensor([self.blank]))[1])
            tensors = iter(state["state"])
            leaves, form = tree_flatten(self._example[0])
            self._state = tree_unflatten(
                [
                    torch.from_numpy(array_from_json(next(tensors))) if isinstance(each, Tensor) else each
                    for each in leaves
                ],
                form,
            )
            self._next = array_from_json(state["next"])

    def best(self, n: int = 1) -> list[Transcript]:
        """The n best texts, or as many as there are, the best first."""
        scores = self._scores()
        found = []
        for place in np.argsort(-scores, kind="stable")[:n]:
            symbols = self._prefixes[place].symbols()
            found.append(
                Transcript(
                    tuple(each.symbol for each in symbols),
                    tuple(each.frame for each in symbols),
                    float(scores[place]),
                )
            )
        return found

    @property
    def score(self) -> float:
        """That of the best text."""
        return float(self._scores().max())

    def _scores(self) -> Numbers:
        scores: Numbers = np.logaddexp(self._blank, self._symbol) + self._bonus
        return scores

    def _step(self, frame: Numbers) -> None:
        """Read one frame [V]."""
        symbols = np.flatnonzero(frame >= self._floor) if self._floor > _LEAST else np.arange(len(frame))
        symbols = symbols[symbols != self.blank]
        kept, n = self._prefixes, len(self._prefixes)
        last = np.fromiter((each.symbol for each in kept), np.int64, n)
        total = np.logaddexp(self._blank, self._symbol)
        blank = total + frame[self.blank]
        symbol = self._symbol + np.where(last >= 0, frame[last], _LEAST)
        longer = np.where(symbols == last[:, None], self._blank[:, None], total[:, None]) + frame[symbols]
        self._join(longer, symbol, symbols, last)
        bonus = np.full(longer.shape, self.beta) if self._next is None else self._next[:, symbols]
        ranks = np.concatenate(
            [np.logaddexp(blank, symbol) + self._bonus, (longer + self._bonus[:, None] + bonus).ravel()]
        )
        chosen = np.flatnonzero(ranks > _LEAST)
        if len(chosen) > self.width:
            order = np.argsort(-ranks[chosen], kind="stable")[: self.width]
            chosen = np.sort(chosen[order])
        if not len(chosen):
            raise InputError(
                f"frame {self._frame} leaves no text with a probability above 0: the model is damaged, or prune is too large"
            )
        old, new = chosen[chosen < n], chosen[chosen >= n] - n
        rows, columns = (new // len(symbols), new % len(symbols)) if len(new) else (new, new)
        self._prefixes = [kept[place] for place in old] + [
            self._child(kept[row], int(symbols[column])) for row, column in zip(rows, columns, strict=True)
        ]
        self._blank = np.concatenate([blank[old], np.full(len(new), _LEAST)])
        self._symbol = np.concatenate([symbol[old], longer[rows, columns]])
        self._bonus = np.concatenate([self._bonus[old], self._bonus[rows] + bonus[rows, columns]])
        if self.lm is not None:
            self._ask(old, rows, symbols[columns])

    def _join(
        self, longer: Numbers, symbol: Numbers, symbols: NDArray[np.int64], last: NDArray[np.int64]
    ) -> None:
        """Where a longer text is in the beam already, its new paths are that one's."""
        column = np.full(int(max(symbols.max(initial=-1), last.max())) + 2, -1)
        column[symbols] = np.arange(len(symbols))
        place = {each.number: row for row, each in enumerate(self._prefixes)}
        for row, each in enumerate(self._prefixes):
            from_row = -1 if each.before is None else place.get(each.before.number, -1)
            if from_row >= 0 and (at := column[each.symbol]) >= 0:
                symbol[row] = np.logaddexp(symbol[row], longer[from_row, at])
                longer[from_row, at] = _LEAST

    def _child(self, before: _Prefix, symbol: int) -> _Prefix:
        """The text with one more symbol: the same object while anything holds it, so that equal texts are found to be equal."""
        found = before.children.get(symbol)
        if found is None:
            found = _Prefix(before, symbol, self._frame, self._count)
            before.children[symbol] = found
            self._count += 1
        return found

    def _ask(self, old: NDArray[np.int64], rows: NDArray[np.int64], symbols: NDArray[np.int64]) -> None:
        """Keep the language model's rows of the texts that stay, and compute those of the new ones."""
        assert self.lm is not None
        assert self._next is not None
        kept = select(self._state, torch.from_numpy(old))
        if not len(rows):
            self._state, self._next = kept, self._next[old]
            return
        logits, state = self.lm(select(self._state, torch.from_numpy(rows)), torch.from_numpy(symbols))
        new = self._bonuses(logits, self._next.shape[1])
        self._state, self._next = _joined(kept, state), np.concatenate([self._next[old], new])

    def _bonuses(self, logits: Tensor, symbols: int) -> Numbers:
        """Alpha log P + beta for each next symbol; P is over all symbols but the blank."""
        if logits.dim() != 2 or logits.shape[1] != symbols:
            raise InputError(
                f"the language model must give logits [N, {symbols}], those of the CTC model's symbols, got {list(logits.shape)}"
            )
        logits = logits.detach().cpu().double().clone()
        logits[:, self.blank] = _LEAST
        found: Numbers = logits.log_softmax(-1).numpy()
        return self.alpha * found + self.beta if self.alpha else np.full(found.shape, self.beta)

    def _agreed(self) -> list[Symbol]:
        common = self._prefixes[0]
        for other in self._prefixes[1:]:
            while common is not other:  # all come from the empty text
                if common.length >= other.length:
                    common = common.before or common
                else:
                    other = other.before or other
        found = common.symbols(self._certain)
        self._certain += len(found)
        return found


def greedy(
    log_probabilities: Tensor, lengths: Tensor | None = None, *, blank: int = BLANK
) -> list[Transcript]:
    """The text of the likeliest path of each sequence; see `Greedy`.

    Args: log_probabilities [T, B, V]; logits do for the symbols, but the score is then no log-probability. lengths [B]: frames of
    each; None: all T.
    """
    found = []
    for row in _rows(log_probabilities, lengths):
        decoder = Greedy(blank=blank)
        symbols = decoder.feed(row)
        found.append(
            Transcript(
                tuple(each.symbol for each in symbols), tuple(each.frame for each in symbols), decoder.score
            )
        )
    return found


def beam(
    log_probabilities: Tensor, lengths: Tensor | None = None, *, n: int = 1, **options: Any
) -> list[list[Transcript]]:
    """The n likeliest texts of each sequence, the best first; options as of `Beam`. Each row is decoded by itself.

    Args: log_probabilities [T, B, V], with log_softmax; lengths [B]: frames of each; None: all T.
    """
    found = []
    for row in _rows(log_probabilities, lengths):
        decoder = Beam(**options)
        decoder.feed(row)
        found.append(decoder.best(n))
    return found


def align(log_probabilities: Any, symbols: Sequence[int], *, blank: int = BLANK) -> list[int]:
    """The symbol of each frame, blanks included, on the likeliest path of a text: [T] of [T, V].

    Cost: O(T U) for U symbols. Raises: InputError for a text that the frames are too few for (`least_frames`).
    Source: the Viterbi form of the forward recursion in Graves et al. 2006.
    """
    frames = _frames(log_probabilities, blank)
    if (needed := least_frames(symbols)) > len(frames):
        raise InputError(
            f"a text of {len(symbols)} symbols needs at least {needed} frames, got {len(frames)}"
        )
    if not len(frames):
        return []
    states = np.full(2 * len(symbols) + 1, blank)
    states[1::2] = symbols
    skips = np.zeros(len(states), dtype=bool)  # may follow the state two before it: no blank needed between
    skips[2:] = (states[2:] != blank) & (states[2:] != states[:-2])
    score = np.full(len(states), _LEAST)
    score[:2] = frames[0, states[:2]]
    back = np.zeros((len(frames), len(states)), dtype=np.int64)
    for t in range(1, len(frames)):
        ways = np.full((3, len(states)), _LEAST)
        ways[0], ways[1, 1:], ways[2, 2:] = score, score[:-1], np.where(skips[2:], score[:-2], _LEAST)
        back[t] = ways.argmax(0)
        score = ways.max(0) + frames[t, states]
    at = len(states) - 1
    if len(states) > 1 and score[at - 1] > score[at]:
        at -= 1
    path = [at]
    for t in range(len(frames) - 1, 0, -1):
        at -= int(back[t, at])
        path.append(at)
    return [int(states[each]) for each in reversed(path)]


def least_frames(symbols: Sequence[int]) -> int:
    """The frames that a text needs: one for each symbol, and a blank between equal neighbours."""
    return len(symbols) + sum(a == b for a, b in pairwise(symbols))


def _rows(values: Tensor, lengths: Tensor | None) -> Iterator[Numbers]:
    if values.dim() != 3:
        raise InputError(f"expected [T, B, V], time first, got {list(values.shape)}")
    array = values.detach().cpu().double().numpy()
    ends = [len(array)] * array.shape[1] if lengths is None else lengths.tolist()
    return (array[:end, row] for row, end in enumerate(ends))


def _frames(values: Any, blank: int) -> Numbers:
    """Frames [t, V] as float64."""
    array: Numbers = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, np.float64)
    if array.ndim != 2 or array.shape[1] <= blank:
        raise InputError(
            f"expected frames [t, V] with the blank {blank} among the V symbols, got {list(array.shape)}"
        )
    if np.isnan(array).any():
        raise InputError("the outputs hold NaN: the model's training diverged, or it is damaged")
    return array


def _joined(first: Any, second: Any) -> Any:
    """The rows of two states."""
    leaves, form = tree_flatten(first)
    pairs = zip(leaves, tree_flatten(second)[0], strict=True)
    return tree_unflatten(
        [torch.cat(pair, dim=-2) if isinstance(pair[0], Tensor) else pair[0] for pair in pairs], form
    )
