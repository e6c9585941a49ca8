"""Strategies as words."""

from __future__ import annotations

import pytest

from throughtime import bptt
from throughtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("full", bptt.Full()),
        (" full ", bptt.Full()),
        ("truncated:35", bptt.Truncated(35)),
        ("truncated:35/5", bptt.Truncated(35, 5)),
        ("randomized:35", bptt.Randomized(35)),
        ("randomized:35/5", bptt.Randomized(35, every=5)),
        ("polynomial:35", bptt.Randomized(35, "polynomial")),
        ("polynomial:35/5", bptt.Randomized(35, "polynomial", every=5)),
        ("random_window:20-50", bptt.RandomWindow(20, 50)),
        ("checkpointed", bptt.Checkpointed()),
        ("checkpointed:8", bptt.Checkpointed(8)),
        ("checkpointed:8/5", bptt.Checkpointed(8, 5)),
    ],
)
def test_words(text, strategy):
    assert bptt.parse(text) == strategy
    assert isinstance(bptt.parse(text), bptt.Strategy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("truncted:35", "bptt must be one of full, truncated, .*, got 'truncted'. Did you mean 'truncated'?"),
        ("", "bptt must be one of full"),
        ("35", "bptt must be one of full"),
        ("truncated", "bptt must read truncated:WINDOW or .*, got 'truncated'"),
        ("truncated:", "bptt must read truncated:WINDOW"),
        ("truncated:x", "bptt must read truncated:WINDOW"),
        ("truncated:-3", "bptt must read truncated:WINDOW"),
        ("truncated:3.5", "bptt must read truncated:WINDOW"),
        ("truncated:٣", "bptt must read truncated:WINDOW"),
        ("truncated:35/", "bptt must read truncated:WINDOW"),
        ("full:3", "bptt must read full, got 'full:3'"),
        ("random_window:20", "bptt must read random_window:LOW-HIGH"),
        ("truncated:0", "bptt 'truncated:0': window must be at least 1 step"),
        ("truncated:35/4", "bptt 'truncated:35/4': window must be a multiple of stride"),
        ("randomized:1", "bptt 'randomized:1': mean_length must be above every"),
        ("random_window:50-20", "1 <= low <= high, got 50 and 20"),
        ("checkpointed:0", "window must be at least 1 step, got 0"),
    ],
)
def test_errors_are_one_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        bptt.parse(text)
    assert "\n" not in str(caught.value)
