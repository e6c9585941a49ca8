"""Which options were typed, and the settings that they and a --config file make together."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from throughtime.errors import InputError, nearest_file

_ANSWERS = ("true", "false", "yes", "no", "on", "off", "1", "0")
Tables = dict[str, dict[str, Any]]


def given(context: typer.Context) -> dict[str, Any]:
    """The options that stand on the command line, by name; those left to their defaults are not among them."""
    typed = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            typed[name] = value
    return typed


def refuse_answers(words: Iterable[Path], flags: Iterable[str]) -> None:
    """Refuse a "true" that stands where a file's name is expected: it was meant for a flag.

    Raises: InputError naming the flags, unless there is a file of that name.
    """
    names = [f"--{name.replace('_', '-')}" for name in flags]
    for word in words:
        if str(word).lower() in _ANSWERS and names and not word.exists():
            raise InputError(
                f"{' and '.join(names)} {'takes' if len(names) == 1 else 'take'} no value, got {str(word)!r}: "
                "a flag that is given means yes, one that is left out no"
            )


def read_tables(path: Path) -> Tables:
    """The tables of a TOML file.

    Raises: InputError for a file that is missing, not TOML, or has values outside any table.
    """
    try:
        text = path.read_bytes().decode()
        tables = tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"--config: no such file: {path}.{nearest_file(path)}") from None
    except OSError as error:
        raise InputError(f"--config: cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"--config: {path} is not TOML: {error}") from None
    # A run's own config.toml can be given as it is: what identifies the run is not a setting.
    return {
        name: value
        for name, value in tables.items()
        if name not in ("format", "version", "vocabulary_sha256", "demo")
    }


def tables_of(options: dict[str, Any], kinds: Iterable[Any]) -> Tables:
    """Sort options into the table of the configuration class that has a field of that name."""
    tables: Tables = {}
    homes = {field.name: kind.section for kind in kinds for field in dataclasses.fields(kind)}
    for name, value in options.items():
        tables.setdefault(homes[name], {})[name] = value
    return tables


def over(upper: Tables, lower: Tables) -> Tables:
    """The settings of both; where they disagree, those of `upper`. What is no table in `lower` stays as it is."""
    merged = dict(lower)
    for name, table in upper.items():
        below = lower.get(name, {})
        merged[name] = {**below, **table} if isinstance(below, dict) else below
    return merged


def without(names: Iterable[str], section: str, tables: Tables) -> Tables:
    """The tables, but for some settings of one of them."""
    table = tables.get(section, {})
    if not isinstance(table, dict):  # who reads the tables says what is wrong with it
        return tables
    return {**tables, section: {name: value for name, value in table.items() if name not in names}}
