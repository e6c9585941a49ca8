"""Applications: data, model, loss and metric of each. Importing this imports no torch; using a task does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from throughtime.tasks.text_config import TextConfig

if TYPE_CHECKING:
    from throughtime.tasks.text import TextTask

__all__ = ["TextConfig", "TextTask"]


def __getattr__(name: str) -> Any:
    """Import a task when it is first asked for."""
    if name != "TextTask":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from throughtime.tasks.text import TextTask

    return TextTask
