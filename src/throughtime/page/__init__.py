"""Look inside a trained model over one sequence: states, gates, predictions, influence; and the page that shows them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.page.endpoints import routes
    from throughtime.page.inspection import Inspection, Inspector
    from throughtime.page.running import Edit
    from throughtime.page.sources import Reading
    from throughtime.page.write import write_page

_HOME = {
    "Edit": "running",
    "Inspection": "inspection",
    "Inspector": "inspection",
    "Reading": "sources",
    "routes": "endpoints",
    "write_page": "write",
}
__all__ = ["Edit", "Inspection", "Inspector", "Reading", "routes", "write_page"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "anyio"):
            raise
        raise InputError(f"{name} needs starlette: pip install 'throughtime[serve]'") from None
    return getattr(home, name)
