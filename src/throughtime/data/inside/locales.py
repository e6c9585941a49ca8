"""Translations that the Unicode locale data gives: dates, durations, quantities, money and lists in two languages."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, NamedTuple

from throughtime.data.text import Source
from throughtime.errors import InputError, nearest

CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CHF", "SEK", "PLN", "CAD", "AUD", "INR", "BRL", "CNY")
UNITS = (
    "length-kilometer", "length-meter", "length-centimeter", "length-mile", "mass-kilogram", "mass-gram", "mass-ton",
    "volume-liter", "area-hectare", "area-square-meter", "temperature-celsius", "speed-kilometer-per-hour", "power-watt",
    "digital-megabyte", "angle-degree",
)  # fmt: skip
LANGUAGES = (
    "ar", "bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "ga", "he", "hi", "hr", "hu", "is", "it", "ja", "ko",
    "lt", "lv", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "tr", "uk", "zh",
)  # fmt: skip
TERRITORIES = (
    "AR", "AT", "AU", "BE", "BG", "BR", "CA", "CH", "CL", "CN", "CZ", "DE", "DK", "EG", "ES", "FI", "FR", "GB", "GR", "HU",
    "IE", "IN", "IT", "JP", "KE", "KR", "MA", "MX", "NL", "NO", "NZ", "PE", "PL", "PT", "RO", "SE", "TR", "UA", "US", "ZA",
)  # fmt: skip
_SPANS = {
    "second": 40,
    "minute": 50,
    "hour": 20,
    "day": 6,
    "week": 3,
    "month": 10,
    "year": 90,
}  # and most of each
_SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
}
_TRIES = 200  # draws in a row without a new pair: the locales write too few things differently


class LocalePairs(NamedTuple):
    """Texts of the same values in two locales."""

    sources: list[str]
    targets: list[str]
    values: list[
        str
    ]  # what each pair writes out, such as "date 2021-01-05": a key that keeps equal values together
    source: Source


class Value(NamedTuple):
    """Something to be written out."""

    key: str
    write: Callable[[Any], str]  # in a locale


def locale_pairs(source: str = "en", target: str = "fr", count: int = 12_000) -> LocalePairs:
    """So many pairs of texts that write out the same value in two locales, all sources different.

    Dates, months, durations with and without "ago" and "in", quantities with their units, amounts of money by name and by
    symbol, rounded large numbers, percentages, and lists of languages and of countries; with the inflections and number
    formats of the Unicode Common Locale Data Repository. Drawn with a fixed seed: fewer pairs are the first of more. The same
    for the same version of Babel.
    Raises: InputError without Babel, or for a locale that it does not know.
    Cost: about 0.1 ms for each pair.
    """
    first, second = _locale(source), _locale(target)
    if first == second:
        raise InputError(f"expected two different locales to translate between, got {source} twice")
    draws = random.Random("locales")
    pairs: dict[str, tuple[str, str]] = {}
    tries = 0
    while len(pairs) < count:
        value = _draw(draws)
        text = value.write(first)
        tries += 1
        if text not in pairs:
            pairs[text] = value.write(second), value.key
            tries = 0
        elif tries > _TRIES:
            raise InputError(
                f"{source} and {target} give {len(pairs):,} different pairs, got {count:,}: take fewer"
            )
    texts = "".join(f"{text}\t{other}\n" for text, (other, _) in pairs.items()).encode()
    return LocalePairs(
        list(pairs), [other for other, _ in pairs.values()], [key for _, key in pairs.values()],
        Source(f"CLDR {source} {target}", hashlib.sha256(texts).hexdigest(), len(texts)),
    )  # fmt: skip


def _draw(draws: random.Random) -> Value:
    kinds = (_date, _money, _quantity, _list, _rounded, _percent, _duration)
    return draws.choices(kinds, weights=(30, 22, 20, 12, 6, 3, 7))[0](draws)


def _date(draws: random.Random) -> Value:
    """A day, with its weekday or without, or a month. Not the shorter forms: their "May" could be the long form's."""
    from babel.dates import format_date, format_skeleton

    day = date(1900, 1, 1) + timedelta(days=draws.randrange(73_049))  # to 2099-12-31
    style = draws.choice(("full", "full", "long", "long", "month"))
    if style == "month":
        return Value(f"month {day:%Y-%m}", lambda locale: format_skeleton("yMMMM", day, locale=locale))
    return Value(f"date {day}", lambda locale: format_date(day, style, locale=locale))


def _duration(draws: random.Random) -> Value:
    """Hours ago, in so many hours, or so many hours; all three have one key."""
    from babel.dates import format_timedelta

    unit: Any = draws.choice(tuple(_SPANS))
    number = draws.randint(1, _SPANS[unit])
    sign = draws.choice((-1, 0, 1))
    span = timedelta(seconds=(sign or 1) * number * _SECONDS[unit])
    return Value(
        f"duration {number} {unit}",
        lambda locale: format_timedelta(span, unit, threshold=1, add_direction=sign != 0, locale=locale),
    )


def _quantity(draws: random.Random) -> Value:
    from babel.units import format_unit

    number, unit = _number(draws, 5_000), draws.choice(UNITS)
    length: Any = draws.choice(("long", "long", "short"))
    return Value(f"quantity {number} {unit}", lambda locale: format_unit(number, unit, length, locale=locale))


def _money(draws: random.Random) -> Value:
    from babel.numbers import format_currency

    number = draws.randint(1, 10 ** draws.randint(1, 6)) / draws.choice((1, 1, 100))
    currency = draws.choice(CURRENCIES)
    form: Any = draws.choice(("name", "standard"))
    return Value(
        f"money {number} {currency}",
        lambda locale: format_currency(number, currency, locale=locale, format_type=form),
    )


def _rounded(draws: random.Random) -> Value:
    from babel.numbers import format_compact_decimal

    number = draws.randint(1, 999) * 10 ** draws.randint(3, 9)

    def write(locale: Any) -> str:
        form: Any = "long" if locale.compact_decimal_formats.get("long") else "short"
        return str(format_compact_decimal(number, format_type=form, locale=locale, fraction_digits=1))

    return Value(f"rounded {number}", write)


def _percent(draws: random.Random) -> Value:
    from babel.numbers import format_percent

    number = _number(draws, 1_000)
    return Value(f"percent {number}", lambda locale: format_percent(number / 100, "#,##0.#%", locale=locale))


def _list(draws: random.Random) -> Value:
    """Two to four languages or countries, joined by "and" or "or"."""
    from babel.lists import format_list

    kind = draws.choice(("languages", "territories"))
    codes = draws.sample(LANGUAGES if kind == "languages" else TERRITORIES, draws.choice((1, 2, 2, 3, 3, 4)))
    style: Any = draws.choice(("standard", "standard", "or"))

    def write(locale: Any) -> str:
        return str(
            format_list([getattr(locale, kind).get(code, code) for code in codes], style, locale=locale)
        )

    return Value(f"{kind} {' '.join(sorted(codes))}", write)


def _number(draws: random.Random, most: int) -> float | int:
    """A whole number, or one with a decimal; small ones, which languages inflect, more often."""
    number = draws.randint(1, draws.choice((5, 100, most)))
    return number if draws.random() < 0.7 else number + draws.randint(1, 9) / 10


def _locale(name: str) -> Any:
    try:
        from babel import Locale, UnknownLocaleError
        from babel.localedata import locale_identifiers
    except ImportError:
        raise InputError(
            "the data that translate makes itself needs Babel, which is not installed: pip install 'throughtime[translate]', or "
            "name a file of pairs with --data"
        ) from None
    try:
        return Locale.parse(name.replace("-", "_"))
    except (UnknownLocaleError, ValueError, TypeError):
        raise InputError(
            f"expected a locale such as en, de or pt_BR, got {name!r}.{nearest(name, locale_identifiers())}"
        ) from None
