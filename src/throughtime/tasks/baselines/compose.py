"""What a model of music should beat: frequencies, Markov chains, and logistic regression on the last frame."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import InputError
from throughtime.tasks.baselines.texts import require_scikit_learn

if TYPE_CHECKING:
    from torch import Tensor

Sequences = Sequence[Sequence[Hashable]]
KEYS = 88
MOST_FRAMES = 20_000  # that logistic regression is trained on
ORDERS = (1, 2, 3)


class Chain:
    """A Markov chain whose orders are interpolated as Witten & Bell 1991 did (IEEE Trans. IT 37(4)); order 0 with 1/size.

        P(s | c) = (count(c, s) + kinds(c) P(s | c without its oldest)) / (count(c) + kinds(c))

    Args: order; size: how many symbols there are, also those that training never shows.
    """

    def __init__(self, sequences: Sequences, order: int, size: int) -> None:
        self.order, self.size = order, size
        self.counts: list[defaultdict[Any, Counter[Hashable]]] = [
            defaultdict(Counter) for _ in range(order + 1)
        ]
        for symbols in sequences:
            for at, symbol in enumerate(symbols):
                for length in range(order + 1):
                    self.counts[length][self._before(symbols, at, length)][symbol] += 1

    def nll(self, symbols: Sequence[Hashable]) -> list[float]:
        """-log P of each symbol, nats."""
        found = []
        for at, symbol in enumerate(symbols):
            probability = 1 / self.size
            for length in range(self.order + 1):
                counts = self.counts[length].get(self._before(symbols, at, length))
                if counts:
                    total, kinds = counts.total(), len(counts)
                    probability = (counts[symbol] + kinds * probability) / (total + kinds)
            found.append(-math.log(probability))
        return found

    def _before(self, symbols: Sequence[Hashable], at: int, length: int) -> tuple[Hashable, ...]:
        """The `length` symbols before, None where the sequence has not begun."""
        return tuple(symbols[place] if place >= 0 else None for place in range(at - length, at))


def markov_baselines(
    train: Sequence[Tensor], validation: Sequence[Tensor], test: Sequence[Tensor], pitches: int, lengths: int
) -> dict[str, dict[str, float] | str]:
    """Frequencies of pitches and lengths; and the best Markov chain of some on the validation tunes.

    The chains: of whole notes (pitch and length), or of pitches and of lengths apart; orders 1 to 3. Without validation tunes it
    is that of pitches and lengths apart with order 2. They know the key of each tune, and neither metre nor genre.
    Args: notes [t, 2] of each tune, pitch counted from the tonic and length, the last of them the end; pitches, lengths: how
    many there are.
    """
    parts = {
        name: [[(pitch, length) for pitch, length in tune.tolist()] for tune in tunes]
        for name, tunes in (("train", train), ("validation", validation), ("test", test))
    }

    def scores(name: str, joint: bool, order: int) -> dict[str, float]:
        tunes = parts[name]
        count = sum(map(len, tunes))
        if joint:
            chain = Chain(parts["train"], order, pitches * lengths)
            nll = sum(sum(chain.nll(tune)) for tune in tunes) / count
            return {"nll": nll, "loss": nll}
        found = {}
        for column, size in enumerate((pitches, lengths)):
            chain = Chain([_column(tune, column) for tune in parts["train"]], order, size)
            total = sum(sum(chain.nll(_column(tune, column))) for tune in tunes)
            found["nll_length" if column else "nll_pitch"] = total / count
        nll = sum(found.values())
        return {"nll": nll, **found, "loss": nll}

    candidates = [(joint, order) for joint in (False, True) for order in ORDERS]
    best = (False, 2)
    if parts["validation"]:
        best = min(candidates, key=lambda each: scores("validation", *each)["nll"])
    of = "notes" if best[0] else "pitches and of lengths"
    return {
        "frequencies in the key": scores("test", False, 0),
        f"Markov chain of {of} in the key, order {best[1]}": scores("test", *best),
    }


def _column(tune: Sequence[tuple[int, int]], column: int) -> list[int]:
    """Pitches, or lengths; the end has no length."""
    return [note[column] for note in tune if note[column] >= 0 or not column]


def frame_baselines(train: Sequence[Tensor], test: Sequence[Tensor]) -> dict[str, dict[str, float] | str]:
    """Each note's frequency; each note from its own last state; each from the whole last frame, by logistic regression.

    The notes of a frame are independent of each other in all of them. Before the first frame there is an empty one.
    """
    rolls = [each.numpy().astype(np.float64) for each in train]
    wanted = [each.numpy().astype(np.float64) for each in test]
    now, last = np.concatenate(rolls), np.concatenate([_shifted(roll) for roll in rolls])
    often = (now.sum(0) + 0.5) / (len(now) + 1)
    kept = [((now * (last == state)).sum(0) + 0.5) / ((last == state).sum(0) + 1) for state in (0, 1)]
    found: dict[str, dict[str, float] | str] = {
        "frequency of each note": _frame_scores(wanted, lambda before: np.tile(often, (len(before), 1))),
        "each note from its own last state": _frame_scores(
            wanted, lambda before: np.where(before > 0, kept[1], kept[0])
        ),
    }
    name = "each note from the last frame, logistic regression"
    try:
        require_scikit_learn()
        found[name] = _frame_scores(wanted, _logistic(last, now, often))
    except InputError as error:
        found[name] = str(error)
    return found


def _logistic(
    last: NDArray[np.float64], now: NDArray[np.float64], often: NDArray[np.float64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """scikit-learn's LogisticRegression with C = 1 for each note, on at most MOST_FRAMES frames evenly spaced."""
    linear, sparse = import_module("sklearn.linear_model"), import_module("scipy.sparse")
    chosen = np.linspace(0, len(now) - 1, min(len(now), MOST_FRAMES)).astype(int)
    features, models = sparse.csr_matrix(last[chosen]), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one that has not converged is what it is
        for note in range(KEYS):
            if 0 < now[chosen, note].sum() < len(chosen):
                models[note] = linear.LogisticRegression(C=1.0, max_iter=200).fit(features, now[chosen, note])

    def probabilities(before: NDArray[np.float64]) -> NDArray[np.float64]:
        result = np.tile(often, (len(before), 1))
        for note, model in models.items():
            result[:, note] = model.predict_proba(sparse.csr_matrix(before))[:, 1]
        return result

    return probabilities


def _shifted(roll: NDArray[np.float64]) -> NDArray[np.float64]:
    """The frame before each."""
    return np.concatenate([np.zeros_like(roll[:1]), roll[:-1]])


def _frame_scores(
    rolls: Sequence[NDArray[np.float64]], model: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> dict[str, float]:
    """The metrics of independent probabilities [t, 88] from the frames before."""
    losses = []
    for roll in rolls:
        chances = model(_shifted(roll)).clip(1e-12, 1 - 1e-12)
        losses.append(-(roll * np.log(chances) + (1 - roll) * np.log1p(-chances)).sum(1))
    later = [each[1:] for each in losses if len(each) > 1]
    return {
        "nll": float(np.concatenate(later).mean()) if later else math.nan,
        "nll_piece": float(np.mean([each.mean() for each in later])) if later else math.nan,
        "loss": float(np.concatenate(losses).mean()),
    }
