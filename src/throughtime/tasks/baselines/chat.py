"""What a trained dialogue model should beat: the most frequent reply, and retrieval of replies with BM25."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from throughtime.data.exchanges import Exchange
from throughtime.data.split import group_keys
from throughtime.tasks.baselines.search import BM25

_WIDE = re.compile(r"([\u2e80-\uffef])")
Symbols = Callable[[str], Sequence[int]]


def reply_baselines(
    train: Sequence[Exchange],
    found: Sequence[Exchange],
    candidates: Sequence[Sequence[int]],
    symbols: Symbols,
) -> dict[str, dict[str, float]]:
    """Recall@1 and MRR among the same candidates as the model, and what a baseline replies: exact, distinct_1, distinct_2.

    Random order, in expectation. The most frequent reply of the training part, candidates ranked by how frequent they are there.
    BM25, prompt and reply: candidates ranked by their score for the last turn. BM25, retrieved: the reply in training to the most
    similar last turn, or to the most similar history, and candidates ranked by their score for that reply. Scripts without
    spaces are compared by character. Candidates with equal scores, as those that share no word, count as in random order.
    Args: candidates, for each exchange the numbers of the others whose replies are beside its own; symbols, of a text.
    Cost: one pass over both parts, and for each exchange the texts that share a word with it.
    """
    replies = [each.reply for each in found]
    groups = [[number, *others] for number, others in enumerate(candidates)]
    ranked = [group for group in groups if len(group) > 1]
    if not ranked:
        return {}
    last = [each.history[-1].text for each in found]
    before = [" ".join(turn.text for turn in each.history) for each in found]
    counts = Counter(group_keys([each.reply for each in train]))
    frequent = next(
        each.reply for each in train if group_keys([each.reply])[0] == counts.most_common(1)[0][0]
    )
    keys = group_keys(replies)
    index = BM25([_spaced(reply) for reply in replies])
    results = {
        "random order": _ranking([[0.0] * len(group) for group in ranked]),
        "most frequent reply": {
            **_ranking([[float(counts[keys[number]]) for number in group] for group in ranked]),
            **_written([frequent] * len(found), replies, symbols),
        },
        "BM25, prompt and reply": _ranking(_among(index, [last[group[0]] for group in ranked], ranked)),
    }
    prompts = [each.history[-1].text for each in train]
    histories = [" ".join(turn.text for turn in each.history) for each in train]
    for name, known, asked in (
        ("BM25, retrieved", prompts, last),
        ("BM25, retrieved by history", histories, before),
    ):
        retrieval = BM25([_spaced(text) for text in known])
        taken = [train[int(retrieval.scores(_spaced(text)).argmax())].reply for text in asked]
        results[name] = {
            **_ranking(_among(index, [taken[group[0]] for group in ranked], ranked)),
            **_written(taken, replies, symbols),
        }
    return results


def _spaced(text: str) -> str:
    return _WIDE.sub(r" \1 ", text)


def _among(index: BM25, queries: Sequence[str], groups: Sequence[Sequence[int]]) -> list[list[float]]:
    """The scores of each group's replies for its query."""
    scores = []
    for query, group in zip(queries, groups, strict=True):
        every = index.scores(_spaced(query))
        scores.append([float(every[number]) for number in group])
    return scores


def _ranking(scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Recall@1 and MRR of groups whose first is the right one, in expectation over the order of those with equal scores."""
    first, reciprocal = [], []
    for own, *others in scores:
        better, equal = sum(each > own for each in others), sum(each == own for each in others)
        first.append(0.0 if better else 1 / (1 + equal))
        reciprocal.append(_mean([1 / (better + 1 + place) for place in range(equal + 1)]))
    return {"recall@1": _mean(first), "mrr": _mean(reciprocal)}


def _written(own: Sequence[str], true: Sequence[str], symbols: Symbols) -> dict[str, float]:
    """How often a reply is the true one, and distinct-1 and distinct-2 of all replies."""
    found: dict[str, float] = {}
    each = [list(symbols(text)) for text in own]
    for n in (1, 2):
        grams = [tuple(ids[start : start + n]) for ids in each for start in range(len(ids) - n + 1)]
        found[f"distinct_{n}"] = len(set(grams)) / len(grams) if grams else float("nan")
    pairs = zip(each, (list(symbols(text)) for text in true), strict=True)
    return found | {"exact": _mean([float(mine == theirs) for mine, theirs in pairs])}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
