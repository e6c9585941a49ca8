"""Options declared once: a dataclass field with its help text is the command-line option, the TOML key, the check and the record.

class Model(Settings):
    section = "model"
    hidden: int = option(512, "Units of a layer.", metavar="N", low=1, high=65_536)

The command line gives text (`parse`), a TOML file values (`from_table`); both end in the dataclass, which checks every value's
type, range and choice when it is built. Imports no torch, so that a help text can read it.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

from throughtime.errors import InputError, nearest, one_of

WHOLE = 2**53  # the largest whole number where no range is declared: what JSON and float64 hold exactly


@dataclass(frozen=True)
class Option:
    """What a field says of itself beyond its type and default."""

    help: str = ""
    metavar: str | None = None
    panel: str | None = None  # the heading under which its help stands
    choices: tuple[str, ...] = ()  # of a text value
    low: float | None = None  # the least number
    high: float | None = None  # the largest number
    above: float | None = None  # numbers must be larger than this
    below: float | None = None  # numbers must be smaller than this
    default_text: str | None = None  # how the help names the default, where that is not the value
    check: Callable[[Any, str], object] | None = None  # given the value and its name, raises InputError


def option(default: Any, help: str, **details: Any) -> Any:
    """A dataclass field with `Option(help, **details)`."""
    return dataclasses.field(default=default, metadata={"option": Option(help, **details)})


class Field(NamedTuple):
    """A field of a settings class."""

    name: str
    hint: Any
    default: Any
    option: Option


@dataclass(frozen=True)
class Settings:
    """A frozen dataclass whose fields are options; `section` is the name of its table in a TOML file.

    Raises: InputError, on one line, for a value of a wrong type, out of range, or of no known choice.
    """

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name), field.name))

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """From a table of a TOML file; what is left out keeps its default.

        Raises: InputError for an unknown name (with the nearest known one), or a value that cannot be used.
        """
        known = {field.name: field for field in fields_of(cls)}
        for name in table:
            if name not in known:
                raise InputError(f"[{cls.section}] has no setting {name!r}.{nearest(name, known)}")
        return cls(
            **{name: checked(known[name], value, f"{cls.section}.{name}") for name, value in table.items()}
        )

    def to_table(self) -> dict[str, Any]:
        """What `from_table` reads; values that are None are left out, as TOML has none."""
        values = {field.name: getattr(self, field.name) for field in fields_of(type(self))}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }


_FIELDS: dict[type[Any], tuple[Field, ...]] = {}


def fields_of(kind: type[Any]) -> tuple[Field, ...]:
    """The fields of a settings class, in their order."""
    if kind in _FIELDS:
        return _FIELDS[kind]
    hints = get_type_hints(kind)
    _FIELDS[kind] = tuple(
        Field(each.name, hints[each.name], each.default, each.metadata.get("option", Option()))
        for each in dataclasses.fields(kind)
    )
    return _FIELDS[kind]


def from_tables(tables: Mapping[str, Any], *kinds: type[Settings]) -> tuple[Any, ...]:
    """One settings object of each kind, from its table.

    Raises: InputError as `Settings.from_table`, and for a table of no kind.
    """
    sections = [kind.section for kind in kinds]
    for name, table in tables.items():
        if name not in sections:
            known = ", ".join(f"[{section}]" for section in sections)
            raise InputError(f"sections are {known}, got {name!r}.{nearest(name, sections)}")
        if not isinstance(table, Mapping):
            raise InputError(f"[{name}] must be a section with settings, got {name} = {table!r}")
    return tuple(kind.from_table(tables.get(kind.section, {})) for kind in kinds)


def parse(field: Field, texts: Sequence[str], name: str) -> Any:
    """The value that was typed for a field; `texts` are several where the option was repeated.

    Raises: InputError naming the option, `name`.
    """
    options = _options(field.hint)
    many = next((option for option in options if get_origin(option) is tuple), None)
    if many is not None and get_args(many)[0] is str:
        return tuple(texts)
    text = texts[-1]
    if many is not None and "," in text:
        return tuple(_number(get_args(many)[0], part, name, field.hint) for part in text.split(","))
    for option in options:
        if option in (int, float):
            try:
                return _number(option, text, name, field.hint)
            except InputError:
                if str not in options:
                    raise
    if many is not None:
        return (_number(get_args(many)[0], text, name, field.hint),)
    return text


def default_text(field: Field) -> str:
    """The default as the help shows it; empty where there is none to show."""
    if field.option.default_text is not None:
        return field.option.default_text
    if field.default is None or field.default is False or field.default == ():
        return ""
    return ",".join(map(str, field.default)) if isinstance(field.default, tuple) else f"{field.default}"


def _number(kind: type, text: str, name: str, hint: Any) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{name} must be {_words(hint)}, got {text!r}") from None


def checked(field: Field, value: Any, name: str) -> Any:
    """The value in the field's type, within its range.

    Raises: InputError, under `name`.
    """
    value = _typed(field, value, name)
    rule = field.option
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, (int, float)) and not isinstance(each, bool):
            _check_range(rule, each, name)
        if isinstance(each, str) and rule.choices:
            one_of(name, each, (*(["a whole number"] if int in _options(field.hint) else []), *rule.choices))
    if rule.check is not None and value is not None:
        rule.check(value, name)
    return value


def _check_range(rule: Option, number: float, name: str) -> None:
    low, high = rule.low, WHOLE if isinstance(number, int) and rule.high is None else rule.high
    inside = math.isfinite(number)
    inside = inside and (low is None or number >= low) and (high is None or number <= high)
    inside = inside and (rule.above is None or number > rule.above)
    inside = inside and (rule.below is None or number < rule.below)
    if inside:
        return
    bounds = [
        words
        for bound, words in (
            (low, f"at least {low:,}" if low is not None else ""),
            (rule.above, f"above {rule.above:,}" if rule.above is not None else ""),
            (rule.high, f"at most {rule.high:,}" if rule.high is not None else ""),
            (rule.below, f"below {rule.below:,}" if rule.below is not None else ""),
        )
        if bound is not None
    ]
    raise InputError(f"{name} must be {' and '.join(bounds) or 'a finite number'}, got {number}")


def _typed(field: Field, value: Any, name: str) -> Any:
    """The value if it is of one of the field's types, a whole number for a float as a float."""
    for option in _options(field.hint):
        if option is type(None):
            if value is None:
                return None
        elif get_origin(option) is tuple:
            inner = get_args(option)[0]
            if isinstance(value, (list, tuple)) and (value or inner is str):
                each = field._replace(hint=inner)
                return tuple(_typed(each, item, name) for item in value)
        elif option is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return _as_float(value, name)
        elif isinstance(value, option) and (option is bool or not isinstance(value, bool)):
            return value  # bool is an int to Python, but `layers = true` is a mistake
    raise InputError(f"{name} must be {_words(field.hint)}, got {value!r}")


def _as_float(value: float, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InputError(
            f"{name} must be a number that a float can hold, got one of {len(str(value))} digits"
        ) from None


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _words(hint: Any) -> str:
    """The types of a field, in words."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    each = [
        f"a list, each item {words.get(get_args(option)[0], 'a value')}"
        if get_origin(option) is tuple
        else words[option]
        for option in _options(hint)
        if option is not type(None)
    ]
    return " or ".join(each)
