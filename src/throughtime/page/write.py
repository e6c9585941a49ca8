"""The page as one HTML file: with the data of one sequence in it, or for a server that gives the data."""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.files import write_whole
from throughtime.page.inspection import LAST, Inspector
from throughtime.page.payload import influences, json_bytes, payload
from throughtime.page.running import TOP
from throughtime.page.sources import STEPS, Reading

if TYPE_CHECKING:
    from throughtime.runtime.trained import Trained

_SCRIPTS = ("data.js", "similar.js", "cells.js", "strips.js", "panels.js", "branches.js", "app.js")
POSITIONS, BACK = 1000, 100
"""Steps whose influence a file holds, and how far back each reaches."""


def write_page(trained: Trained, reading: Reading, path: str | Path, *, source: str) -> int:
    """Write a page that shows a model over one sequence and needs neither a server nor a network, whole or not at all.

    Args: source, where the sequence is from, in a few words.
    Returns: its bytes. Cost: `Inspector.read`, and a backward pass for each of the last POSITIONS steps.
    Raises: InputError as `Inspector`; RunError where it cannot be written.
    """
    inspector = Inspector(trained)
    found = inspector.read(reading)
    data: dict[str, Any] = {
        "name": trained.path.name,
        "about": inspector.about(),
        "source": source,
        "payload": payload(inspector, found),
        "influence": influences(inspector, found, POSITIONS, BACK) if inspector.labels else None,
    }
    text = page_html(data, f"{trained.path.name}, throughtime")
    write_whole(path, text)
    return len(text)


def page_html(page: dict[str, Any] | None, title: str = "throughtime") -> bytes:
    """The page; `page` is the data of one written to a file, None for a server's.

    Nothing in it is fetched from elsewhere: its policy forbids all but its own script and style and, of a server, its own origin.
    The data cannot end its element: every "<" in it is written as an escape.
    """
    parts = _parts()
    last = LAST if page is None else BACK
    data = {"page": page, "limits": {"steps": STEPS, "top": TOP, "last": last}}
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(parts['script'])}'",
            f"style-src '{_digest(parts['style'])}'",
            "connect-src 'self'" if page is None else "connect-src 'none'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    values = {
        "policy": policy,
        "title": html.escape(title),
        "style": parts["style"],
        "script": parts["script"],
        "data": json_bytes(data).decode().replace("<", "\\u003c"),
    }
    text, rest = "", parts["page"]
    while (start := rest.find("{{")) >= 0:  # one pass: what is put in is never read for names again
        name, _, after = rest[start + 2 :].partition("}}")
        text, rest = text + rest[:start] + values[name], after
    return (text + rest).encode()


@cache
def _parts() -> dict[str, str]:
    folder = Path(__file__).parent / "assets"
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return {
        "page": (folder / "page.html").read_text(encoding="utf-8"),
        "style": (folder / "page.css").read_text(encoding="utf-8"),
        "script": f'"use strict";\n(() => {{\n{script}\n}})();\n',
    }


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
