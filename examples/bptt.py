"""Full, truncated and randomized BPTT side by side, from Python.

    python examples/bptt.py

A short version of `throughtime compare bptt`: the full gradient, a window that slides by five steps, and random cuts between
blocks of five steps. W stands for the window, 35 steps on the text and 10 on the task.
"""

from dataclasses import replace

from throughtime.bench.table import plain
from throughtime.studies.strategies import QUICK, Settings
from throughtime.studies.strategies_run import compare
from throughtime.studies.strategies_table import LEGEND, sentences, table


def main(settings: Settings) -> None:
    """Compare, and print the table and its conclusions."""
    found = compare(settings, progress=lambda fraction, what: print(f"{fraction:.0%} {what}", flush=True))
    print(f"\n{plain(*table(found))}\n\n{LEGEND}\n")
    print("\n".join(sentences(found)))


if __name__ == "__main__":
    main(replace(QUICK, strategies=("full", "truncated:W/5", "polynomial:W/5")))
