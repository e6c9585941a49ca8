"""Models by their shape, and the settings they are built from. Importing this imports no torch; using a model does.

`throughtime.models.build.build` makes a model from its settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from throughtime.models.config import CELLS, ModelConfig
from throughtime.models.settings import settings_from, settings_to_dict

if TYPE_CHECKING:
    from throughtime.models.aligned import Aligned
    from throughtime.models.onehot import OneHot

__all__ = ["CELLS", "Aligned", "ModelConfig", "OneHot", "settings_from", "settings_to_dict"]

_LAZY = {"Aligned": "aligned", "OneHot": "onehot"}


def __getattr__(name: str) -> Any:
    """Import a model when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
