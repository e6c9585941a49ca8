"""Poems in JSON as plain text, a line of a poem on each line, for `throughtime train fill` or `throughtime train text`.

    python examples/poems.py poet.tang.0.json poet.tang.1000.json > poems.txt

Reads the files of github.com/chinese-poetry/chinese-poetry: a list of objects, each with its lines in "paragraphs" or "content".
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path


def lines(file: str) -> Iterator[str]:
    """The lines of all poems of a file."""
    for poem in json.loads(Path(file).read_text(encoding="utf-8")):
        for line in poem.get("paragraphs") or poem.get("content") or ():
            yield " ".join(line.split())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/poems.py FILE.json ... > poems.txt")
    for each in sys.argv[1:]:
        print("\n".join(lines(each)))
