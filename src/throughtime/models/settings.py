"""Settings as tables of names and values, the form they have in a TOML file, and back."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from throughtime.errors import InputError, nearest


def settings_from(mapping: Mapping[str, Any], *kinds: type[Any]) -> tuple[Any, ...]:
    """Read one configuration of each kind from its table in `mapping`.

    A kind is a dataclass with a `section`, the name of its table; a table or a value that is left out keeps its
    defaults. `text, model = settings_from(tomllib.load(file), TextConfig, ModelConfig)`.
    Raises: InputError for an unknown table or name (with the nearest known one), or a value of a wrong type.
    """
    sections = [kind.section for kind in kinds]
    for name, table in mapping.items():
        if name not in sections:
            known = ", ".join(f"[{section}]" for section in sections)
            raise InputError(f"sections are {known}, got {name!r}.{nearest(name, sections)}")
        if not isinstance(table, Mapping):
            raise InputError(f"[{name}] must be a section with settings, got {name} = {table!r}")
    return tuple(_read(kind, mapping.get(kind.section, {})) for kind in kinds)


def settings_to_dict(*configs: Any) -> dict[str, dict[str, Any]]:
    """The tables that `settings_from` reads; values that are None are left out, as TOML has none."""
    tables = {}
    for config in configs:
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        tables[config.section] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }
    return tables


def _read(kind: type[Any], table: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    values = {}
    for name, value in table.items():
        if name not in names:
            raise InputError(f"[{kind.section}] has no setting {name!r}.{nearest(name, names)}")
        values[name] = _typed(f"{kind.section}.{name}", value, hints[name])
    return kind(**values)


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value in the type that the field has.

    Raises: InputError if it is of none of the field's types.
    """
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if get_origin(option) is tuple and isinstance(value, (list, tuple)):
            return tuple(_typed(name, item, get_args(option)[0]) for item in value)
        # bool is an int to Python, but `layers = true` is a mistake.
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if (
            isinstance(option, type)
            and isinstance(value, option)
            and (option is bool or not isinstance(value, bool))
        ):
            return value
    wanted = " or ".join(_name(option) for option in options if option is not type(None))
    raise InputError(f"{name} must be {wanted}, got {value!r}")


def _name(option: Any) -> str:
    if get_origin(option) is tuple:
        return "a list, each item " + _name(get_args(option)[0])
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(
        option, str(option)
    )
