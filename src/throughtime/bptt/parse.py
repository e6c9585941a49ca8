"""A strategy from its name and numbers, as the command line and configuration files write it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from throughtime.bptt.checkpointed import Checkpointed
from throughtime.bptt.randomized import Randomized
from throughtime.bptt.strategy import Full, Strategy
from throughtime.bptt.truncated import RandomWindow, Truncated
from throughtime.errors import InputError, one_of


class _Form(NamedTuple):
    syntax: str
    pattern: str  # of what follows the name; its groups are integers, or absent
    make: Callable[..., Strategy]


_FORMS = {
    "full": _Form("full", r"", lambda: Full()),
    "truncated": _Form(
        "truncated:WINDOW or truncated:WINDOW/STRIDE, as in truncated:35 or truncated:35/5",
        r":(\d+)(?:/(\d+))?",
        lambda window, stride: Truncated(window, stride),
    ),
    "randomized": _Form(
        "randomized:MEAN or randomized:MEAN/EVERY, as in randomized:35 or randomized:35/5",
        r":(\d+)(?:/(\d+))?",
        lambda mean, every: Randomized(mean, "step", every=1 if every is None else every),
    ),
    "polynomial": _Form(
        "polynomial:MEAN or polynomial:MEAN/EVERY, as in polynomial:35 or polynomial:35/5",
        r":(\d+)(?:/(\d+))?",
        lambda mean, every: Randomized(mean, "polynomial", every=1 if every is None else every),
    ),
    "random_window": _Form(
        "random_window:LOW-HIGH, as in random_window:20-50",
        r":(\d+)-(\d+)",
        lambda low, high: RandomWindow(low, high),
    ),
    "checkpointed": _Form(
        "checkpointed, checkpointed:WINDOW or checkpointed:WINDOW/SLOTS, as in checkpointed:8 or checkpointed:8/5",
        r"(?::(\d+)(?:/(\d+))?)?",
        lambda window, slots: Checkpointed(1 if window is None else window, slots),
    ),
}


def parse(text: str) -> Strategy:
    """Return the strategy for a text such as "truncated:35".

    full | truncated:WINDOW[/STRIDE] | randomized:MEAN[/EVERY] | polynomial:MEAN[/EVERY] |
    random_window:LOW-HIGH | checkpointed[:WINDOW[/SLOTS]], all numbers in steps, but SLOTS in states.

    Raises: InputError for an unknown name, with the nearest known one, for numbers that are missing or do not
        belong, and for numbers that the strategy refuses.
    """
    name, colon, numbers = text.strip().partition(":")
    form = _FORMS[one_of("bptt", name, _FORMS)]
    match = re.fullmatch(form.pattern, colon + numbers, flags=re.ASCII)
    if match is None:
        raise InputError(f"bptt must read {form.syntax}, got {text!r}")
    try:
        return form.make(*(None if group is None else int(group) for group in match.groups()))
    except InputError as error:
        raise InputError(f"bptt {text!r}: {error}") from None
