"""Applications: data, model, loss and metric of each. Importing this imports no torch; using a task does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from throughtime.tasks.memory_config import MemoryConfig
from throughtime.tasks.text_config import TextConfig

if TYPE_CHECKING:
    from throughtime.tasks.memory import MemoryTask
    from throughtime.tasks.text import TextTask

__all__ = ["MemoryConfig", "MemoryTask", "TextConfig", "TextTask"]

_LAZY = {"MemoryTask": "memory", "TextTask": "text"}


def __getattr__(name: str) -> Any:
    """Import a task when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
