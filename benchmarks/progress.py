"""A line for each case that is measured, with the time left. No bar: its thread would disturb what is timed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO, TypeVar

from throughtime.progress import duration

Case = TypeVar("Case", bound=tuple[object, ...])


def with_progress(
    name: str,
    cases: Sequence[Case],
    weight: Callable[[Case], float] = lambda case: 1.0,
    stream: TextIO | None = None,
) -> Iterator[Case]:
    """Yield the cases in order, with a line before each.

    Args:
        name: of the suite.
        cases: what is to be measured, a tuple each.
        weight: how long a case takes beside the others, in any unit.
        stream: for the lines; default stderr, so that the tables on stdout stay whole.
    """
    weights = [weight(case) for case in cases]
    start = time.monotonic()
    for number, case in enumerate(cases):
        done = sum(weights[:number])
        spent = time.monotonic() - start
        left = f"about {duration(spent / done * sum(weights[number:]))} left" if done else "starting"
        what = " ".join(str(part) for part in case)
        print(f"{name} {number + 1}/{len(cases)}, {left}: {what}", file=stream or sys.stderr, flush=True)
        yield case
