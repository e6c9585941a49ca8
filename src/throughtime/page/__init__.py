"""Look inside a trained model over one sequence: states, gates, predictions, influence; and the page that shows them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
