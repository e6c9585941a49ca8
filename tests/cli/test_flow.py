"""`throughtime flow` and `throughtime influence` on a small run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from throughtime.flow import Flow

Fails = Callable[..., str]


def test_flow_prints_table_chart_and_verdict_and_writes_what_is_asked(
    command, trained: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("f.html", "f.png", "f.json")]
    ended = command("flow", trained, "--lags", 20, "--html", outs[0], "--png", outs[1], "--json", outs[2])
    assert (ended.status, ended.err) == (0, "")
    assert "half-life" in ended.out
    assert "size of the gradient k steps back" in ended.out
    assert "The gradient" in ended.out
    found = Flow.from_json(outs[2].read_text())
    (layer,) = found.layers.values()
    assert int(layer.lag_h.lags[-1]) in (19, 20)
    assert ended.out.split("\n\n")[-2 if "Written" in ended.out else -1] in found.explain()
    assert outs[0].read_text().startswith("<!DOCTYPE html>")
    assert outs[1].read_bytes().startswith(b"\x89PNG")


def test_flow_measures_another_text(command, trained: Path, text: Path) -> None:
    ended = command("flow", trained, "--data", text, "--steps", 40, "--batch", 2, "--no-products")
    assert ended.status == 0
    assert "2 x 40 steps" in ended.out


def test_flow_refuses_in_one_line(fails: Fails, trained: Path, tmp_path: Path) -> None:
    assert "no such run" in fails("flow", tmp_path / "none")
    assert "there is no folder" in fails("flow", trained, "--html", tmp_path / "no" / "f.html")
    assert "--lags must be less than" in fails("flow", trained, "--lags", 5000)
    short = tmp_path / "short.txt"
    short.write_text("the")
    assert "at least 8 symbols" in fails("flow", trained, "--data", short)


def test_influence_is_a_triangle_over_the_prompt(command, trained: Path, tmp_path: Path) -> None:
    ended = command(
        "influence",
        trained,
        "--prompt",
        "the fox",
        "--png",
        tmp_path / "i.png",
        "--html",
        tmp_path / "i.html",
    )
    assert (ended.status, ended.err) == (0, "")
    head, *rows = ended.out.splitlines()[:8]
    assert head.split() == ["the␣fox"] or head.split() == ["the_fox"]
    assert [len(row) - 3 for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.html", "i.png"]
    rough = command("influence", trained, "--prompt", "the fox", "--directions", 5)
    assert "estimated from 5 random directions" in rough.out


def test_influence_refuses_in_one_line(fails: Fails, trained: Path) -> None:
    assert "must be 1 to 400 characters, got 0" in fails("influence", trained, "--prompt", "")
    assert "--prompt is needed" in fails("influence", trained)


def test_a_picture_of_an_unknown_kind_is_refused_before_the_work(fails: Fails, tmp_path: Path) -> None:
    # The run is not there either: the suffix is looked at first.
    assert "must end in .png" in fails("flow", tmp_path / "none", "--png", tmp_path / "f.txt")
    assert "must end in .png" in fails(
        "influence", tmp_path / "none", "--prompt", "a", "--png", tmp_path / "f.gif"
    )
