"""`throughtime backends`."""

from __future__ import annotations


def backends() -> None:
    """Print who runs recurrences on this machine, and why the others do not."""
    from throughtime.kernels.dispatch import backends as report

    print(report())
