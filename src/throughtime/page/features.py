"""Simple properties of the steps of a sequence, and how each unit goes with them: how one finds the unit that counts brackets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

_LONGEST = 600  # characters between two quotation marks that belong together
_COLUMNS = 12  # columns of numbers that are compared one by one, at most
_LABELS = 12
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def text_features(names: Sequence[str]) -> dict[str, Tensor]:
    """Properties of each symbol of a text, float32 [T] each, after it was read; those that are the same everywhere are left out.

    An opening mark is inside its quotation, the closing one is not. A mark without a partner within 600 characters, or beyond a
    blank line, opens nothing. Of a symbol of several characters that of the last counts. Cost: O(characters).
    """
    text = "".join(names)
    ends, place = [], -1
    for name in names:
        place += len(name)
        ends.append(max(place, 0))
    columns: dict[str, list[float]] = {
        'inside "..."': _inside(text, '"', '"'),
        "inside '...'": _inside(text, "'", "'"),
        "inside ``...``": _inside(text, "``", "``"),
        **{
            f"inside {opening}{closing}": _depth(text, opening, closing, 1)
            for opening, closing in _PAIRS.items()
        },
        "bracket depth": [
            sum(each) for each in zip(*(_depth(text, *pair, 9) for pair in _PAIRS.items()), strict=True)
        ],
        "place in line": _since(text, lambda c: c == "\n"),
        "place in word": _since(text, lambda c: not (c.isalnum() or c == "_")),
        "indentation": _indentation(text),
        "space": [float(c == " ") for c in text],
        "new line": [float(c == "\n") for c in text],
        "capital letter": [float(c.isupper()) for c in text],
        "letter": [float(c.isalpha()) for c in text],
        "vowel": [float(c.lower() in "aeiou") for c in text],
        "digit": [float(c.isdigit()) for c in text],
        "punctuation": [float(not c.isalnum() and not c.isspace()) for c in text],
    }
    at = torch.tensor(ends, dtype=torch.int64)
    return _varied({name: torch.tensor(values)[at] for name, values in columns.items()} if text else {})


def number_features(
    inputs: Tensor, columns: Sequence[str], top: Tensor | None, labels: Sequence[str]
) -> dict[str, Tensor]:
    """The same of numbers [T, D]: their mean, their change, the columns that have names, and which label is the likeliest."""
    found = {"mean of the input": inputs.mean(1), "change of the input": _change(inputs)}
    found |= {name: inputs[:, n] for n, name in enumerate(columns[:_COLUMNS])}
    return _varied({name: value.float() for name, value in found.items()}) | label_features(top, labels)


def label_features(top: Tensor | None, labels: Sequence[str]) -> dict[str, Tensor]:
    """1 where a label is the likeliest, for each of the most frequent ones."""
    if top is None:
        return {}
    counts = torch.bincount(top[:, 0], minlength=len(labels))
    frequent = counts.argsort(descending=True, stable=True)[:_LABELS].tolist()
    return _varied({f"answer {labels[n]!r}": (top[:, 0] == n).float() for n in frequent})


def correlations(values: Tensor, features: Mapping[str, Tensor]) -> Tensor:
    """Pearson's r of each feature with each unit, [F, H], of values [T, H]; 0 for a unit that never changes."""
    if not features:
        return values.new_zeros(0, values.shape[1])
    wanted = torch.stack(list(features.values()), 1).double()
    return (_standard(wanted).T @ _standard(values.double())).clamp(-1, 1).float()


def _standard(values: Tensor) -> Tensor:
    centred = values - values.mean(0)
    length = centred.norm(dim=0)
    return torch.where(length > 1e-9, centred / length.clamp(min=1e-9), 0)


def _varied(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value for name, value in features.items() if len(value) > 1 and bool((value != value[0]).any())
    }


def _change(inputs: Tensor) -> Tensor:
    change = torch.zeros(len(inputs))
    change[1:] = (inputs[1:] - inputs[:-1]).float().norm(dim=1)
    return change


def _inside(text: str, opening: str, closing: str) -> list[float]:
    """1 from an opening mark to before the closing one."""
    found, place = [0.0] * len(text), 0
    while (start := text.find(opening, place)) >= 0:
        place = start + len(opening)
        before = text[start - 1 : start]
        if opening == "'" and before.isalnum():
            continue  # an apostrophe
        end = text.find(closing, place, place + _LONGEST)
        while (
            closing == "'"
            and 0 <= end < len(text) - 1
            and text[end - 1].isalnum()
            and text[end + 1].isalnum()
        ):
            end = text.find(closing, end + 1, place + _LONGEST)
        if end < 0 or "\n\n" in text[start:end]:
            continue
        found[start:end] = [1.0] * (end - start)
        place = end + len(closing)
    return found


def _depth(text: str, opening: str, closing: str, most: int) -> list[float]:
    found, depth = [], 0
    for character in text:
        depth = max(0, depth + (character == opening) - (character == closing))
        found.append(float(min(depth, most)))
    return found


def _since(text: str, ends: Callable[[str], bool]) -> list[float]:
    """Characters since the last one for which `ends` is true."""
    found, count = [], 0
    for character in text:
        count = 0 if ends(character) else count + 1
        found.append(float(count))
    return found


def _indentation(text: str) -> list[float]:
    """Spaces at the beginning of the current line, as far as it is read."""
    found, spaces, leading = [], 0, True
    for character in text:
        if character == "\n":
            spaces, leading = 0, True
        elif leading and character == " ":
            spaces += 1
        else:
            leading = False
        found.append(float(spaces))
    return found
