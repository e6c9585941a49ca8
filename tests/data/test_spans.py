"""Schemes of tags: what they mean, how they are told apart, and what breaks their rules."""

from __future__ import annotations

import random

import pytest

from throughtime.data.readers.spans import (
    Span,
    as_scheme,
    broken_tags,
    scheme_of,
    span_labels,
    spans_of,
    tags_of,
)
from throughtime.errors import InputError


def random_spans(draws, length):
    found, place = [], 0
    while place < length:
        size = draws.randint(1, 3)
        if draws.random() < 0.5 and place + size <= length:
            found.append(Span(place, place + size, draws.choice("xy")))
        else:
            size = 1
        place += size
    return found


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
def test_spans_to_tags_and_back(scheme):
    draws = random.Random(1)
    for _ in range(200):
        length = draws.randint(0, 9)
        spans = random_spans(draws, length)
        tags = tags_of(spans, length, scheme)
        assert spans_of(tags) == spans
        assert broken_tags(tags, scheme) == 0
        assert set(tags) <= set(span_labels("xy", scheme))
        assert spans_of(as_scheme(tags, "bio")) == spans


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("I-x I-x O I-x", [(0, 2, "x"), (3, 4, "x")]),
        ("I-x B-x I-x", [(0, 1, "x"), (1, 3, "x")]),
        ("B-x I-y", [(0, 1, "x"), (1, 2, "y")]),
        ("S-x E-x", [(0, 1, "x"), (1, 2, "x")]),
        ("B-x E-x I-x", [(0, 2, "x"), (2, 3, "x")]),
        ("U-x B-y L-y", [(0, 1, "x"), (1, 3, "y")]),
        ("O O", []),
    ],
)
def test_tags_are_read_as_conlleval_reads_them(tags, spans):
    assert spans_of(tags.split()) == [Span(*each) for each in spans]


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["B-x I-x O", "O B-y"], "bio"),
        (["I-x I-x B-x O", "I-y O"], "iob1"),
        (["B-x E-x O S-y"], "bioes"),
        (["O U-x"], "bioes"),
        (["NOUN VERB"], "plain"),
        (["O O"], "plain"),
        (["B-x I-x", "I-x O B-x", "B-y"], "bio"),  # one tag breaks the rules
    ],
)
def test_schemes_are_told_apart(sentences, scheme):
    assert scheme_of(each.split() for each in sentences) == scheme


def test_broken_tags_are_counted():
    assert broken_tags(["O", "I-x", "I-x", "B-x", "I-y"], "bio") == 2
    assert broken_tags(["B-x", "O", "I-x", "E-x", "S-x"], "bioes") == 2
    assert broken_tags(["I-x", "B-x"], "iob1") == 0
    with pytest.raises(InputError, match="such as B-TYPE and I-TYPE, got 'NN'"):
        spans_of(["NN"])
