"""config.toml: what the run is, as text that a person can read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from throughtime.errors import InputError, RunError

FORMAT = "throughtime-run"
VERSION = 2
_OWN = ("format", "version", "assets_sha256")

Config = dict[str, Any]


def to_toml(config: Config, assets_sha256: str) -> str:
    """The text of config.toml; values that are None are left out, as TOML has none.

    Raises: InputError for a value that TOML has no form for, or a name that is ours.
    """
    taken = [name for name in _OWN if name in config]
    if taken:
        raise InputError(f"{taken[0]!r} is a name of the run's own; give the setting another name")
    head = {"format": FORMAT, "version": VERSION, "assets_sha256": assets_sha256}
    try:
        text = tomli_w.dumps(head | _without_none(config))
        text.encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"the configuration cannot be written as TOML: {error}") from None
    return text


def from_toml(data: bytes, path: Path) -> tuple[Config, str]:
    """The configuration, and the checksum of the assets that belong to it.

    Raises: RunError when `data` is not TOML (with the line), not a run's, or of a newer version.
    """
    try:
        config = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    if config.get("format") != FORMAT:
        raise RunError(f'{path} is not the configuration of a run: it must say format = "{FORMAT}"')
    version = config.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise RunError(f"{path} is damaged: version must be a number from 1 to {VERSION}, got {version!r}")
    if version > VERSION:
        raise RunError(
            f"{path} was written by a newer throughtime: it is of version {version}, "
            f"this one reads up to {VERSION}; upgrade throughtime"
        )
    if version < VERSION:
        raise RunError(
            f"{path} was written by an older throughtime, in version {version} of the format; this one reads version {VERSION}: "
            "train the model again"
        )
    checksum = config.get("assets_sha256")
    if not isinstance(checksum, str) or not re.fullmatch("[0-9a-f]{64}", checksum):
        raise RunError(f"{path} is damaged: assets_sha256 must be 64 hexadecimal digits, got {checksum!r}")
    return {name: value for name, value in config.items() if name not in _OWN}, checksum


def _without_none(value: Any) -> Any:
    """Also paths as text."""
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return str(value) if isinstance(value, Path) else value
