"""All remedies at all lengths, over several processes; what is done is kept when it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from throughtime.studies.remedies import REMEDIES, Remedy, Settings, Trial, trial
from throughtime.studies.workers import cores, spread

Progress = Callable[[float, Trial | None], None]  # share of the work done, and what was done last
_COST = {"rnn": 1.0, "gru": 2.2, "lstm": 2.2}  # of a step, beside the others


@dataclass(frozen=True)
class Comparison:
    """The trials that were done, in the order of lengths, remedies and seeds."""

    settings: Settings
    remedies: tuple[Remedy, ...]
    trials: tuple[Trial, ...]
    complete: bool


def compare(
    settings: Settings | None = None,
    remedies: Sequence[Remedy] = REMEDIES,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Train every remedy at every length with every seed.

    Args:
        settings: lengths, steps, seeds and sizes.
        jobs: processes side by side, one thread each; None: one for each core. 1 works in this process. The results do not
            depend on it.
        progress: told after each trial, and at the start with None.

    Ctrl-C ends it early: what is done is returned, with `complete` False.
    Cost: with the defaults about ten minutes on two cores.
    """
    settings = settings or Settings()
    cases = [
        (remedy, length, seed)
        for seed in range(settings.seeds)
        for length in settings.lengths
        for remedy in remedies
    ]
    total = sum(_weight(*case) for case in cases)
    done, spent = [], 0.0
    tell = progress or (lambda share, last: None)
    tell(0.0, None)
    complete = True
    try:
        for number, found in spread(partial(_one, settings), cases, jobs or cores()):
            done.append(found)
            spent += _weight(*cases[number])
            tell(spent / total, found)
    except KeyboardInterrupt:
        complete = False
    order = {remedy.name: place for place, remedy in enumerate(remedies)}
    done.sort(key=lambda one: (one.length, order[one.remedy], one.seed))
    return Comparison(settings, tuple(remedies), tuple(done), complete)


def _weight(remedy: Remedy, length: int, seed: int) -> float:
    return _COST[remedy.model["cell"]] * length


def _one(settings: Settings, case: tuple[Remedy, int, int], stop: Callable[[], bool]) -> Trial:
    return trial(*case, settings, stop=stop)
