"""A page that stands alone: no script, no network, light or dark as the reader has it."""

from __future__ import annotations

import html

_LOOKS = """
:root { color-scheme: light dark; --ink: #1b1f23; --paper: #ffffff; --soft: #5a6370; --line: #d5d9de; --box: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #16181c; --soft: #a3acb8; --line: #3a4049; --box: #1f2329; }
}
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.verdict { background: var(--box); padding: .8rem 1.1rem; border-left: 4px solid #0072B2; white-space: pre-line; }
.note, figcaption { color: var(--soft); font-size: .9rem; }
code { white-space: nowrap; font-size: .92em; }
figure { margin: 1rem 0 1.6rem; } .wide { overflow-x: auto; } figure svg { max-width: 100%; height: auto; color: var(--ink); }
@media (max-width: 600px) { figure svg { max-width: none; min-width: 40rem; } }
pre { background: var(--box); padding: .6rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def page(title: str, body: str) -> str:
    """A whole HTML document around `body`, which is HTML already; the title is text."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_LOOKS}</style></head><body>\n{body}\n</body></html>\n"
    )
