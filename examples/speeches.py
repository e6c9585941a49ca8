"""The speeches of a play as a table: the text, and who speaks, its style.

    python examples/speeches.py input.txt > speeches.csv
    throughtime train write --data speeches.csv --label speaker --styles 10

Reads the form of char-rnn's Shakespeare: the speaker and a colon on a line, the speech below, a blank line behind it.
"""

import csv
import sys
from pathlib import Path

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/speeches.py PLAY.txt > speeches.csv")
    table = csv.writer(sys.stdout)
    table.writerow(["text", "speaker"])
    for block in Path(sys.argv[1]).read_text(encoding="utf-8").split("\n\n"):
        speaker, colon, speech = block.strip().partition(":\n")
        if colon and speech:
            table.writerow([speech, speaker])
