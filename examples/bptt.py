"""Full, truncated and randomized BPTT side by side, from Python.

    python examples/bptt.py

A short version of `throughtime compare bptt`: the full gradient, a window that slides by five steps, and random cuts between
blocks of five steps. W stands for the window, 35 steps on the text and 10 on the task.
"""

from dataclasses import replace

from throughtime.bench.table import plain
from throughtime.studies.strategies import QUICK_STRATEGIES, StrategySettings
from throughtime.studies.strategies_report import LEGEND, sentences, table
from throughtime.studies.strategies_run import compare_strategies


def main(settings: StrategySettings) -> None:
    """Compare, and print the table and its conclusions."""
    comparison = compare_strategies(
        settings, progress=lambda fraction, text: print(f"{fraction:.0%} {text}", flush=True)
    )
    print(f"\n{plain(*table(comparison))}\n\n{LEGEND}\n")
    print("\n".join(sentences(comparison)))


if __name__ == "__main__":
    main(replace(QUICK_STRATEGIES, strategies=("full", "truncated:W/5", "polynomial:W/5")))
