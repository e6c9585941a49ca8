"""The optimal schedule of checkpoints: which states to hold, so that the fewest steps are run again."""

from __future__ import annotations

from math import comb


def advances(units: int, slots: int) -> int:
    """Return the fewest plain forward runs that reversing `units` units takes with `slots` held states.

    The state before the first unit takes one slot. The run of a unit that is followed at once by its own
    backward pass does not count: every schedule has `units` of those. It is the value of

        F(1, s) = 0,  F(n, 1) = n (n - 1) / 2,  F(n, s) = min_{0<k<n} k + F(n - k, s - 1) + F(k, s)

    in closed form: F(n, s) = r n - C(s + r, s + 1), r the smallest number with n <= C(s + r, s), which is how
    often a unit is run at most.

    Source: Griewank & Walther 2000, ACM TOMS 26(1), proposition 1; Gruslys et al. 2016, arXiv 1606.03401.
    """
    if slots == 1:
        return units * (units - 1) // 2
    r = _repetitions(units, slots)
    return r * units - comb(slots + r, slots + 1)


def split(units: int, slots: int) -> int:
    """Return k, the unit before which to hold the next state: the minimiser of `advances`' recursion.

    The later part, n - k units, must fit into r repetitions with one slot fewer, the earlier part, k units,
    into r - 1 with all slots, and neither into fewer than it needs; the largest such k is taken.
    """
    if slots == 1:
        return units - 1  # nothing further can be held: the last unit comes next
    r = _repetitions(units, slots)
    return min(comb(slots + r - 1, slots), units - comb(slots + r - 2, slots - 1))


def _repetitions(units: int, slots: int) -> int:
    """Return the smallest r with units <= C(slots + r, slots)."""
    r = 0
    while comb(slots + r, slots) < units:
        r += 1
    return r
