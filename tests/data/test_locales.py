"""What the locale data gives: pairs in any two locales, the same each time, fewer being the first of more."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from throughtime.data.inside.locales import locale_pairs
from throughtime.errors import InputError


def test_pairs_write_out_the_same_value() -> None:
    found = locale_pairs("en", "de", 1500)
    assert len(found.sources) == len(set(found.sources)) == len(found.targets) == len(found.values) == 1500
    kinds = Counter(value.split()[0] for value in found.values)
    assert min(kinds.values()) > 20
    assert set(kinds) == {
        "date",
        "month",
        "duration",
        "quantity",
        "money",
        "rounded",
        "percent",
        "languages",
        "territories",
    }
    of = dict(zip(found.sources, found.targets, strict=True))
    months = {
        "January": "Januar",
        "March": "März",
        "May": "Mai",
        "October": "Oktober",
        "December": "Dezember",
    }
    checked = 0
    for text, other in of.items():
        month, _, rest = text.partition(" ")
        day, _, year = rest.partition(", ")
        if month in months and len(year) == 4:
            assert other == f"{day}. {months[month]} {year}"
            checked += 1
    assert checked > 30
    # Numbers keep their digits, whatever marks stand between them.
    for text, other, value in zip(found.sources, found.targets, found.values, strict=True):
        if value.startswith(("quantity", "percent", "rounded")):
            assert [c for c in text if c.isdigit()] == [
                c for c in other if c.isdigit()
            ] or "²" in text + other


def test_the_same_again_and_fewer_are_the_first_of_more() -> None:
    some, more = locale_pairs("en", "fr", 100), locale_pairs("en", "fr", 300)
    assert some == locale_pairs("en", "fr", 100)
    for name in ("sources", "targets", "values"):
        assert getattr(some, name) == getattr(more, name)[:100]
    assert some.source.sha256 != more.source.sha256
    assert locale_pairs("en", "fr", 300).values == more.values


@pytest.mark.parametrize("pair", [("zh", "ar"), ("pt-BR", "hi"), ("ru", "zh_Hant"), ("ja", "th")])
def test_any_two_locales(pair: tuple[str, str]) -> None:
    found = locale_pairs(*pair, 300)
    assert all(text.strip() for text in found.sources + found.targets)
    assert sum(a == b for a, b in zip(found.sources, found.targets, strict=True)) < 150


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("xx", "de"), "expected a locale such as en, de or pt_BR, got 'xx'"),
        (("en", "d e"), r"got 'd e'. Did you mean 'de'\?"),
        (("en", "en"), "two different locales to translate between, got en twice"),
    ],
)
def test_locales_that_are_none(pair: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        locale_pairs(*pair, 10)


def test_without_babel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(
        InputError, match=r"needs Babel, which is not installed: pip install 'throughtime\[translate\]'"
    ):
        locale_pairs("en", "fr", 10)
