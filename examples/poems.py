"""Poems in JSON as plain text, or as a table of lines with a label.

    python examples/poems.py poet.tang.0.json poet.tang.1000.json > poems.txt
    python examples/poems.py poem=poet.tang.0.json lyric=ci.song.0.json > lines.csv

The first form has a line of a poem on each line, for `throughtime train fill` or `throughtime train text`. The second is a CSV
with the columns text, label and poem, for `throughtime train classify --group poem`, which keeps the lines of a poem in one part.

Reads the files of github.com/chinese-poetry/chinese-poetry: a list of objects, each with its lines in "paragraphs" or "content".
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path


def poems(file: str) -> Iterator[list[str]]:
    """The lines of each poem of a file."""
    for poem in json.loads(Path(file).read_text(encoding="utf-8")):
        lines = (" ".join(line.split()) for line in poem.get("paragraphs") or poem.get("content") or ())
        yield [line for line in lines if line]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/poems.py [LABEL=]FILE.json ... > poems.txt or lines.csv")
    if any("=" in each for each in sys.argv[1:]):
        table = csv.writer(sys.stdout)
        table.writerow(["text", "label", "poem"])
        for each in sys.argv[1:]:
            label, _, file = each.partition("=")
            for number, found in enumerate(poems(file)):
                table.writerows([line, label, f"{Path(file).name} {number}"] for line in found)
    else:
        for each in sys.argv[1:]:
            for found in poems(each):
                print("\n".join(found))
