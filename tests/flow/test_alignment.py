"""Alignments as characters: a mark for each weight, names above the columns, wide ones joined."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from throughtime.errors import InputError
from throughtime.flow.drawing.alignment import Alignment

WEIGHTS = torch.tensor([[0.9, 0.06, 0.04], [0.0, 0.5, 0.5]])


def test_a_mark_for_each_weight_and_names_above_their_columns() -> None:
    found = Alignment(WEIGHTS, ("va", "!"), ("go", "水", "<end>"), "source", "translation")
    assert found.text(encoding="utf-8").splitlines() == [
        "        <",
        "        e",
        "        n",
        "    g   d",
        "    o 水>",
        "va  ██░░··",
        " !  ··▓▓▓▓",
        "rows: translation; columns: source; weight: · below 0.05, ░ from 0.05, ▒ from 0.2, ▓ from 0.4, █ from 0.7",
    ]
    plain = found.text(encoding="ascii").splitlines()
    assert plain[5:7] == ["va  ##::..", " !  ..xxxx"]


def test_more_columns_than_fit_are_joined_by_their_largest_weight() -> None:
    weights = torch.zeros(1, 300)
    weights[0, 299] = 1.0
    first, last = Alignment(weights, ("a",), ("x",) * 300).text(width=80, encoding="utf-8").splitlines()
    assert first == "a  " + "·" * 37 + "█" and "8 steps in each" in last
    assert max(map(len, (first,))) <= 80


def test_a_picture(tmp_path: Path) -> None:
    found = Alignment(WEIGHTS, ("va", "!"), ("go", "水", "<end>"))
    figure = found.plot(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    axes = figure.axes[0]
    assert (torch.tensor(axes.images[0].get_array()) - WEIGHTS).abs().max() < 1e-6
    assert [each.get_text() for each in axes.get_yticklabels()] == ["va", "!"]
    with pytest.raises(InputError, match=r"must end in \.png, \.svg or \.pdf"):
        found.plot(tmp_path / "a.txt")
