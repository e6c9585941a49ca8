"""A clock of a test's own, for some modules alone: servers of other tests run in threads of the same process, on the real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest


class _Time:
    """The module `time`, with another `monotonic`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def set_clock(monkeypatch: pytest.MonkeyPatch, monotonic: Callable[[], float], *modules: Any) -> None:
    """Let these modules, which hold `time`, read another clock."""
    for module in modules:
        monkeypatch.setattr(module, "time", _Time(monotonic))
