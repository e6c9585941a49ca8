"""Full, truncated and randomised BPTT side by side, from Python.

    python examples/bptt.py

A small edition of `throughtime compare bptt`, with strategies of your own beside the full gradient: a window that slides, and
random cuts between blocks of five steps. W stands for the window, 35 steps on the text and 10 on the task.
"""

from dataclasses import replace

from throughtime.bench.table import plain
from throughtime.studies.strategies import QUICK, Settings
from throughtime.studies.strategies_run import compare
from throughtime.studies.strategies_table import LEGEND, sentences, table


def main(settings: Settings) -> None:
    """Compare, and print what was found."""
    found = compare(settings, progress=lambda share, what: print(f"{share:.0%} {what}", flush=True))
    print(f"\n{plain(*table(found))}\n\n{LEGEND}\n")
    print("\n".join(sentences(found)))


if __name__ == "__main__":
    main(replace(QUICK, strategies=("full", "truncated:W/5", "polynomial:W/5")))
