"""Morse code that is keyed, not recorded: messages as audio tones with drift, fading, noise and the rhythm of a hand."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RATE = 8000  # samples in a second
SPEEDS = (16.0, 24.0)  # words per minute, of the word PARIS: a dot takes 1.2 / speed seconds
PITCHES = (500.0, 700.0)  # Hz
SNR = (0.0, 25.0)  # dB: power of the unfaded tone over that of the noise between 0 and RATE / 2
CODE = {
    "a": ".-", "b": "-...", "c": "-.-.", "d": "-..", "e": ".", "f": "..-.", "g": "--.", "h": "....", "i": "..", "j": ".---",
    "k": "-.-", "l": ".-..", "m": "--", "n": "-.", "o": "---", "p": ".--.", "q": "--.-", "r": ".-.", "s": "...", "t": "-",
    "u": "..-", "v": "...-", "w": ".--", "x": "-..-", "y": "-.--", "z": "--..", "0": "-----", "1": ".----", "2": "..---",
    "3": "...--", "4": "....-", "5": ".....", "6": "-....", "7": "--...", "8": "---..", "9": "----.", "/": "-..-.", "?": "..--..",
}  # fmt: skip
_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"
_SHORT = (  # what operators send most, besides words
    "cq", "de", "k", "bk", "ar", "sk", "tu", "gm", "ga", "ge", "gn", "om", "yl", "hi", "es", "fb", "hr", "ur", "rst",
    "599", "579", "559", "339", "73", "88", "qth", "qrz?", "qsl", "qso", "qsb", "qrm", "qrn", "qrp", "qro", "qsy",
    "agn", "pse", "cpy", "hw?", "name", "rig", "ant", "wx", "temp", "age", "test", "cul", "dr", "dx", "fer", "gl",
    "gud", "nil", "nr", "nw", "op", "pwr", "rpt", "sri", "tks", "tnx", "vy", "wkd",
)  # fmt: skip
_WORD_GAP, _LETTER_GAP = 7, 3  # dots of silence
_EDGE = 0.005  # seconds in which a tone rises and falls
PARTS = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}  # tenths of all words


class Message(NamedTuple):
    """A text and how it is sent; `sound` makes the samples of it."""

    text: str
    snr: float  # dB
    speed: float  # words per minute, the mean of the message
    seed: int  # of all else


def part_of(word: str) -> str:
    """The part a word belongs to: no word of one part is ever in another. By its CRC-32, so that it is the same everywhere."""
    tenth = zlib.crc32(word.encode()) % 10
    return next(part for part, tenths in PARTS.items() if tenth in tenths)


def messages(part: str, count: int, seed: int = 0, seconds: float = 6.0) -> list[Message]:
    """So many different messages of words, call signs, numbers, groups of letters, and what operators abbreviate.

    Many are short, down to one character, as learners of the code practise it: a model, too, learns from these first. All
    words are of one part (`part_of`). A message has the words that its speed allows in so many seconds or less, at least one.
    The same for the same arguments.
    """
    draws = np.random.default_rng([seed, zlib.crc32(part.encode())])
    found: dict[str, Message] = {}
    while len(found) < count:
        speed, snr = draws.uniform(*SPEEDS), draws.uniform(*SNR)
        units, words = seconds * draws.uniform() ** 2 * speed / 1.2, list[str]()
        for word in _words(draws, part):
            if words and _units(" ".join([*words, word])) > units:
                break
            words.append(word)
        text = " ".join(words)
        found.setdefault(text, Message(text, float(snr), float(speed), int(draws.integers(2**63))))
    return list(found.values())


def keying(
    message: Message, *, jitter: float | None = None, drift: float | None = None
) -> Iterator[tuple[bool, float]]:
    """(key down, seconds) of each element and gap, from the first element on; jitter and drift 0: exact timing."""
    draws = np.random.default_rng([message.seed, 1])
    spread = draws.uniform(0.0, 0.12) if jitter is None else jitter  # of the logarithm of each duration
    change = (
        draws.uniform(-0.15, 0.15) if drift is None else drift
    )  # of the speed, from the middle to either end
    total, done = _units(message.text), 0.0
    pattern = [
        (word, letter, CODE[character])
        for word, text in enumerate(message.text.split())
        for letter, character in enumerate(text)
    ]
    for place, (word, letter, code) in enumerate(pattern):
        if place:
            units = _WORD_GAP if letter == 0 and word else _LETTER_GAP
            yield False, _seconds(message, units, done / total, change, spread, draws)
            done += units
        for number, element in enumerate(code):
            if number:
                yield False, _seconds(message, 1, done / total, change, spread, draws)
                done += 1
            units = 3 if element == "-" else 1
            yield True, _seconds(message, units, done / total, change, spread, draws)
            done += units


def sound(
    message: Message, *, noise: bool = True, jitter: float | None = None, drift: float | None = None
) -> NDArray[np.float32]:
    """The samples [n] at RATE: a tone whose pitch drifts and which fades (QSB), in white noise of the message's SNR.

    Each has its own pitch, level, depth and period of fading, jitter and drift of the speed. The same for the same arguments.
    """
    draws = np.random.default_rng([message.seed, 2])
    elements = list(keying(message, jitter=jitter, drift=drift))
    before, behind = draws.uniform(0.1, 0.5, 2)
    n = int((before + behind + sum(seconds for _, seconds in elements)) * RATE) + 1
    envelope, at = np.zeros(n), before
    for down, seconds in elements:
        if down:
            envelope[round(at * RATE) : round((at + seconds) * RATE)] = 1.0
        at += seconds
    edge = np.hanning(round(_EDGE * RATE) + 2)[1:-1]
    envelope = np.convolve(envelope, edge / edge.sum(), "same")
    time = np.arange(n) / RATE
    pitch, swing, period = draws.uniform(*PITCHES), draws.uniform(0, 15), draws.uniform(4, 12)
    hertz = pitch + swing * np.sin(2 * np.pi * (time / period + draws.uniform()))
    depth, fade = draws.uniform(0, 0.7), draws.uniform(2, 8)
    fading = 1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * (time / fade + draws.uniform())))
    tone = envelope * fading * np.sin(2 * np.pi * (np.cumsum(hertz) / RATE + draws.uniform()))
    if noise:
        tone += draws.standard_normal(n) * np.sqrt(0.5 / 10 ** (message.snr / 10))
    level: float = draws.uniform(0.3, 0.9) / np.abs(tone).max()
    return (tone * level).astype(np.float32)


def _seconds(
    message: Message, units: int, place: float, change: float, spread: float, draws: np.random.Generator
) -> float:
    """So many dots at a place of the message, 0 to 1."""
    speed = message.speed * (1 + change * (2 * place - 1))
    return float(units * 1.2 / speed * np.exp(spread * draws.standard_normal()))


def _units(text: str) -> int:
    """The dots that a text takes."""
    words = text.split()
    inside = sum(
        sum(3 if element == "-" else 1 for element in CODE[character]) + len(CODE[character]) - 1
        for word in words
        for character in word
    )
    gaps = sum(len(word) - 1 for word in words) * _LETTER_GAP + (len(words) - 1) * _WORD_GAP
    return inside + gaps


def _words(draws: np.random.Generator, part: str) -> Iterator[str]:
    """Words of a part without end."""
    kinds = (_short, _word, _word, _call, _number, _group, _group)
    while True:
        word = kinds[draws.integers(len(kinds))](draws)
        if part_of(word) == part:
            yield word


def _short(draws: np.random.Generator) -> str:
    return _SHORT[draws.integers(len(_SHORT))]


def _word(draws: np.random.Generator) -> str:
    """Two to four syllables that can be spoken."""
    syllables = []
    for _ in range(draws.integers(1, 4)):
        last = _one(draws, _CONSONANTS) if draws.random() < 0.4 else ""
        syllables.append(_one(draws, _CONSONANTS) + _one(draws, _VOWELS) + last)
    return "".join(syllables)


def _call(draws: np.random.Generator) -> str:
    """A call sign, at times with a stroke and where it is sent from."""
    letters = _CONSONANTS + _VOWELS
    prefix = "".join(_one(draws, letters) for _ in range(draws.integers(1, 3)))
    suffix = "".join(_one(draws, letters) for _ in range(draws.integers(1, 4)))
    stroke = f"/{_one(draws, letters)}" if draws.random() < 0.2 else ""
    return f"{prefix}{draws.integers(10)}{suffix}{stroke}"


def _number(draws: np.random.Generator) -> str:
    return str(draws.integers(10 ** draws.integers(1, 5)))


def _group(draws: np.random.Generator) -> str:
    """One to five characters."""
    return "".join(_one(draws, "".join(CODE)) for _ in range(draws.integers(1, 6)))


def _one(draws: np.random.Generator, letters: str) -> str:
    return letters[draws.integers(len(letters))]
