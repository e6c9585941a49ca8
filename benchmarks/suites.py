"""The suites by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import generation, jax_peer, options, ragged, recurrences
from benchmarks.plan import Plan

Results = list[dict[str, Any]]


class Suite(NamedTuple):
    """What is measured together, and how it is shown."""

    measure: Callable[[Plan, float], Results]
    table: Callable[[Results], tuple[list[str], list[list[str]]]]
    summary: Callable[[Results], str] | None = None


SUITES = {
    "training": Suite(
        lambda plan, peak: recurrences.measure(plan, peak, train=True), recurrences.table, recurrences.summary
    ),
    "inference": Suite(
        lambda plan, peak: recurrences.measure(plan, peak, train=False),
        recurrences.table,
        recurrences.summary,
    ),
    "ragged": Suite(lambda plan, peak: ragged.measure(plan), ragged.table),
    "options": Suite(lambda plan, peak: options.measure(plan), options.table),
    "generation": Suite(lambda plan, peak: generation.measure(plan), generation.table),
    "jax": Suite(lambda plan, peak: jax_peer.measure(plan), jax_peer.table),
}
