"""Send a file to a server as if it were just being recorded, and print what the model says as it arrives.

    throughtime serve runs/morse
    python examples/stream_file.py message.wav
    python examples/stream_file.py --morse "cq cq de tt"
    python examples/stream_file.py sensor.csv --model frames --rate 25

A WAV file goes in pieces of 100 ms to a run of transcribe; `--morse` keys a message with noise in place of a file. Of a CSV file
each row of numbers is a step, `--rate` of them in a second, for a run of frames. Any other file is read as text, line by line.
"""

from __future__ import annotations

import argparse
import csv
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from throughtime.data.inside import morse
from throughtime.serve import Client

PIECE = 0.1  # seconds of sound


def main() -> None:
    """Send, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--morse", metavar="TEXT", help="key this message, in place of a file")
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--model", help="name of the model; needed where the server has several")
    parser.add_argument("--rate", type=float, default=10.0, help="rows or lines in a second")
    parser.add_argument("--fast", action="store_true", help="as fast as the server answers")
    arguments = parser.parse_args()
    if (arguments.file is None) == (arguments.morse is None):
        parser.error("name a file, or give --morse TEXT")
    pieces = keyed(arguments.morse) if arguments.morse else read(arguments.file, arguments.rate)
    began, seconds = time.monotonic(), 0.0
    with Client(arguments.server) as client, client.open(arguments.model) as session:
        for length, piece in pieces:
            seconds += length
            if not arguments.fast:
                time.sleep(max(0.0, began + seconds - time.monotonic()))
            show(session.feed(piece))
        show(session.flush())
    print()


def keyed(text: str) -> Iterator[tuple[float, Any]]:
    """(seconds, samples) of a message in Morse code."""
    unknown = sorted(set(text) - set(morse.CODE) - {" "})
    if unknown:
        raise SystemExit(f"Morse code has no {' '.join(unknown)}")
    yield from sound(morse.sound(morse.Message(text, snr=20.0, speed=20.0, seed=0)), morse.RATE)


def sound(samples: Any, rate: int) -> Iterator[tuple[float, Any]]:
    """Pieces of 100 ms."""
    for piece in np.array_split(samples, max(1, round(len(samples) / rate / PIECE))):
        yield len(piece) / rate, piece


def read(file: Path, rate: float) -> Iterator[tuple[float, Any]]:
    """(seconds, data) of each piece of a file."""
    if file.suffix == ".wav":
        with wave.open(str(file)) as opened:
            if opened.getsampwidth() != 2 or opened.getnchannels() != 1:
                raise SystemExit(f"{file}: expected 16-bit samples of one channel")
            samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
            yield from sound(samples, opened.getframerate())
    elif file.suffix == ".csv":
        with open(file, newline="") as stream:
            for row in csv.reader(stream):
                try:
                    yield 1 / rate, [[float(value) for value in row]]
                except ValueError:  # the head
                    continue
    else:
        with open(file, encoding="utf-8") as stream:
            for line in stream:
                yield 1 / rate, line


def show(answer: dict[str, Any]) -> None:
    """What is new: the text of a transcript, a label for each step, or the likeliest next symbols of a text."""
    if "text" in answer:
        print(answer["text"], end="", flush=True)
    elif answer.get("labels"):
        print(*answer["labels"], flush=True)
    elif "next" in answer:
        likely = ", ".join(f"{symbol!r} {chance:.0%}" for symbol, chance in answer["next"][:3])
        print(f"next: {likely}", flush=True)


if __name__ == "__main__":
    main()
