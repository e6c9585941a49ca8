"""A comparison of remedies in words: a table, and what the gradient's half-life says of who learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from throughtime.studies.remedies import Gradient, Trial
from throughtime.studies.remedies_run import Comparison

CAPTION = (
    "Steps until learned, or the error at the end; in brackets the gradient's half-life in steps, before -> after training: "
    "negative where it doubles, 'keeps' from ten times T on."
)


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one for each remedy and a column for each length; see `CAPTION`. Of several seeds the medians."""
    lengths = _lengths(comparison)
    rows = []
    for remedy in comparison.remedies:
        groups = [(of(comparison, remedy.name, length), length) for length in lengths]
        cells = [f"{outcome(trials)} [{half_lives(trials, n)}]" if trials else "" for trials, n in groups]
        rows.append([remedy.name, *cells])
    return ["", *(f"T = {length}" for length in lengths)], rows


def outcome(trials: Sequence[Trial]) -> str:
    """After how many steps it learned, or the error that it ended with."""
    after = [trial.learned for trial in trials if trial.learned is not None]
    if after:
        return f"{median(after):.0f}" + (
            f" ({len(after)} of {len(trials)})" if len(after) < len(trials) else ""
        )
    losses = [trial.loss for trial in trials if not math.isnan(trial.loss)]
    return f"no, {median(losses):.3f}" if losses else "no, diverged"


def half_lives(trials: Sequence[Trial], length: int) -> str:
    """Before and after training."""
    start = [trial.start for trial in trials]
    end = [trial.end for trial in trials if trial.end is not None]
    return f"{steps(start, length)} -> {steps(end, length) if end else 'none'}"


def steps(gradients: Sequence[Gradient], length: int) -> str:
    """The median half-life; beyond ten times the length it cannot be told from keeping its size."""
    # Halvings a step can be ordered, half-lives cannot: next to infinity comes minus infinity.
    rate = median(math.inf if math.isnan(g.half_life) else 1 / g.half_life for g in gradients)
    if rate == math.inf:
        return "gone"
    return "keeps" if abs(rate) * 10 * length < 1 else f"{1 / rate:.3g}"


def sentences(comparison: Comparison) -> list[str]:
    """Who learned at which length, and how the half-life explains it: every number from these trials."""
    found = []
    for length in _lengths(comparison):
        names: dict[bool, list[str]] = {True: [], False: []}
        for remedy in comparison.remedies:
            trials = of(comparison, remedy.name, length)
            if trials:
                learned = sum(trial.learned is not None for trial in trials)
                names[learned > 0].append(
                    remedy.name
                    if learned in (0, len(trials))
                    else f"{remedy.name} ({learned} of {len(trials)})"
                )
        line = f"T = {length}: learned by {'; '.join(names[True]) or 'none'}."
        found.append(line + (f" Not by {'; '.join(names[False])}." if names[False] else ""))
    return found + _explained(comparison)


def concordance(trials: Sequence[Trial], left: Callable[[Trial], float]) -> tuple[float, int]:
    """Of two trials at one length of which one learned: the share of such pairs in which `left` of the learner is larger.

    Returns that share (ties count half, 0.5 is chance, NaN without pairs) and the number of pairs.
    """
    pairs = [
        (left(a), left(b))
        for a in trials
        for b in trials
        if a.length == b.length and a.learned is not None and b.learned is None
    ]
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)
    return (wins / len(pairs) if pairs else math.nan), len(pairs)


def of(comparison: Comparison, remedy: str, length: int) -> list[Trial]:
    """The trials of one remedy at one length."""
    return [trial for trial in comparison.trials if (trial.remedy, trial.length) == (remedy, length)]


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """All of it as JSON values."""
    return {
        "settings": asdict(comparison.settings),
        "complete": comparison.complete,
        "remedies": [asdict(remedy) for remedy in comparison.remedies],
        "trials": [trial.to_dict() for trial in comparison.trials],
        "sentences": sentences(comparison),
    }


def _explained(comparison: Comparison) -> list[str]:
    trials = comparison.trials
    say = []
    for who, group in (
        ("All", trials),
        ("Plain RNNs", [t for t in trials if t.remedy.startswith("RNN")]),
    ):
        before, pairs = concordance(group, lambda trial: trial.start.left)
        if pairs:
            after, _ = concordance(group, _left_at_end)
            say.append(
                f"{who}: of two runs at one length of which one learned, the learner had more of its gradient left 3/4 T steps "
                f"back in {before:.0%} of {pairs} pairs before training and in {after:.0%} after (chance: 50%)."
            )
    for learned, who in ((True, "that learned"), (False, "that did not")):
        group = [trial for trial in trials if (trial.learned is not None) == learned]
        if group:
            say.append(
                f"Runs {who}: {share(median(t.start.left for t in group))} of the gradient left 3/4 T steps back before "
                f"training, {share(median(_left_at_end(t) for t in group))} after (medians)."
            )
    return say


def share(value: float) -> str:
    """As a percentage a person can read."""
    return f"{value:.0%}" if value >= 0.1 else f"{100 * value:.2g}%"


def _left_at_end(trial: Trial) -> float:
    return 0.0 if trial.end is None else trial.end.left


def _lengths(comparison: Comparison) -> list[int]:
    return sorted({trial.length for trial in comparison.trials})
