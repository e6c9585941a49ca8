"""Cases in worker processes: the same results as in one process, for both comparisons."""

from __future__ import annotations

import operator
from functools import partial

from throughtime.studies.remedies import REMEDIES, RemedySettings, run_trial
from throughtime.studies.strategies import StrategySettings
from throughtime.studies.strategies_run import StrategyCase, run_case
from throughtime.studies.workers import run_cases


def test_processes_give_what_one_gives():
    """The case is a function of `stop`, so that both comparisons share two processes: starting one takes seconds."""
    settings = StrategySettings(
        length=2, task_window=4, strategies=("full", "randomized:W"), task_steps=6, task_hidden=13, batch=3,
        draws=4, evaluations=3,
    )  # fmt: skip
    tiny = RemedySettings(steps=4, hidden=3, batch=2, every=3, validation=7)
    _, problem = settings.problems()
    cases = [
        *(partial(run_case, StrategyCase(problem, spec, 0, settings)) for spec in problem.strategies),
        partial(run_case, StrategyCase(problem, "randomized:4", None, settings)),
        *(partial(run_trial, REMEDIES[5], length, 0, tiny) for length in (5, 9)),
    ]
    here = dict(run_cases(operator.call, cases, 1))
    assert len({repr(result) for result in here.values()}) == len(cases)
    assert dict(run_cases(operator.call, cases, 2)) == here
