"""Strings of spoken digits, from recordings of single ones: WAV files and clips.csv (path, text, speaker).

    python examples/digit_strings.py fsdd/recordings digits --strings 150
    throughtime train transcribe --data digits/clips.csv --validation-where speaker=lucas --test-where speaker=theo

Reads files named DIGIT_SPEAKER_NUMBER.wav, as the Free Spoken Digit Dataset has them (github.com/Jakobovski/
free-spoken-digit-dataset, CC BY-SA 4.0): 3 to 7 digits of one speaker, a short silence of random length after each, the same
for the same seed.
"""

from __future__ import annotations

import argparse
import csv
import random
import wave
from pathlib import Path

import numpy as np

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def main() -> None:
    """Write the strings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--strings", type=int, default=150, help="of each speaker")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    of_speaker: dict[str, list[Path]] = {}
    for file in sorted(arguments.recordings.glob("*_*_*.wav")):
        of_speaker.setdefault(file.stem.split("_")[1], []).append(file)
    if not of_speaker:
        raise SystemExit(f"{arguments.recordings} holds no files named DIGIT_SPEAKER_NUMBER.wav")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "clips.csv", "w", newline="") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["path", "text", "speaker"])
        for speaker, files in of_speaker.items():
            draws = random.Random(f"{arguments.seed}/{speaker}")
            for number in range(arguments.strings):
                chosen = draws.choices(files, k=draws.randint(3, 7))
                parts = [np.zeros(draws.randint(400, 1600), np.int16)]
                rate = 0
                for file in chosen:
                    with wave.open(str(file)) as opened:
                        rate = opened.getframerate()
                        parts.append(np.frombuffer(opened.readframes(opened.getnframes()), "<i2"))
                    parts.append(np.zeros(draws.randint(400, 2400), np.int16))
                name = f"{speaker}_{number}.wav"
                with wave.open(str(arguments.out / name), "wb") as written:
                    written.setnchannels(1)
                    written.setsampwidth(2)
                    written.setframerate(rate)
                    written.writeframes(np.concatenate(parts).astype("<i2").tobytes())
                rows.writerow(
                    [name, " ".join(WORDS[int(file.stem.split("_")[0])] for file in chosen), speaker]
                )
    print(
        f"{arguments.out / 'clips.csv'}: {arguments.strings * len(of_speaker)} strings of {', '.join(of_speaker)}"
    )


if __name__ == "__main__":
    main()
