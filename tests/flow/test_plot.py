"""Pictures: what they show, and what they do with numbers that have no place on an axis."""

from __future__ import annotations

import builtins
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from throughtime.errors import InputError, RunError
from throughtime.flow import Influence, drawing
from throughtime.flow.drawing import figures
from throughtime.flow.drawing.figures import plot
from throughtime.flow.result import (
    Flow,
    GateStatistics,
    HalfLife,
    LagCurve,
    LayerFlow,
    Products,
    Spectrum,
)

STEPS, UNITS, LAGS = 23, 13, 17


def curve(rate: float) -> LagCurve:
    lags = torch.arange(LAGS)
    mean = torch.exp(-rate * lags.double())
    steps = math.log(2) / rate if rate else math.inf
    return LagCurve(lags, mean, mean / 2, mean * 2, HalfLife(steps, steps, steps, 1.0, LAGS), 9, 0.01)


def layer(name: str, **changes: Any) -> LayerFlow:
    torch.manual_seed(0)
    gate = GateStatistics(0.5, 0.1, 0.2, 0.05, 0.25, torch.rand(STEPS, UNITS))
    values = torch.rand(LAGS, 3, dtype=torch.float64).sort(dim=1, descending=True).values
    products = Products(
        torch.arange(1, LAGS + 1), values, torch.tensor([0.1, -0.2, -math.inf]), torch.ones(3)
    )
    made = LayerFlow(
        name=name,
        cell="lstm",
        units=UNITS,
        reverse=name.endswith("_reverse"),
        gradient_h=torch.rand(STEPS),
        gradient_c=torch.rand(STEPS),
        lag_h=curve(0.3),
        lag_c=curve(-0.1),
        products=products,
        weights={"W_hi": Spectrum(0.7, torch.tensor([1.3, 0.2]))},
        gates={"i": gate, "f": gate},
        cell_path=None,
        denormal_fraction=0.0,
    )
    return replace(made, **changes)


def flow(*layers: LayerFlow, symbols: str = "a $x$ <b>\n\\alpha & _^{}...") -> Flow:
    return Flow(
        layers={each.name: each for each in layers or (layer("net.l0"),)},
        loss=1.5,
        steps=STEPS,
        examples=3,
        ends=(20, 22),
        seconds=0.5,
        symbols=tuple(symbols.ljust(STEPS)[:STEPS]),
        parameters={"net.weight_hh_l0": (2.0, 0.1), "net.<bias>": (1.0, 0.0)},
    )


def titles(drawn: Any) -> list[str]:
    return [axes.get_title(loc="left") for axes in drawn.get_axes()]


def lines(drawn: Any, title: str) -> dict[str, Any]:
    axes = next(each for each in drawn.get_axes() if each.get_title(loc="left").startswith(title))
    return {line.get_label(): line for line in axes.get_lines()}


def test_everything_measured_has_its_picture(tmp_path: Path) -> None:
    small = {"i": layer("net.l0").gates["i"]}
    drawn = plot(flow(layer("net.l0"), layer("net.l0_reverse", gates=small)), tmp_path / "all.png")
    assert (tmp_path / "all.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path.name for path in tmp_path.iterdir()] == ["all.png"]
    shown = titles(drawn)
    assert shown[:2] == ["Gradient of the whole loss, by step", "Gradient of one step's loss, by lag"]
    for name in ("net.l0", "net.l0_reverse"):
        assert f"{name}: product of k Jacobians" in shown
        assert f"{name}: Lyapunov spectrum" in shown
        assert f"{name}: i, mean 0.50, 25% saturated" in shown
    assert shown.count("Parameters") == 1


def test_lines_are_the_numbers_and_differ_without_colour() -> None:
    found = flow(layer("net.l0"), layer("net.l1"))
    drawn = lines(plot(found), "Gradient of one step")
    by_label = {label: line for label, line in drawn.items() if label.startswith("net")}
    assert [label for label in by_label if "h:" in label] == [
        "net.l0  h: half-life 2.31 steps",
        "net.l1  h: half-life 2.31 steps",
    ]
    assert "net.l0  c: doubling time 6.93 steps" in by_label
    line = by_label["net.l0  h: half-life 2.31 steps"]
    assert line.get_ydata().tolist() == found.layers["net.l0"].lag_h.mean.tolist()
    styles = {(line.get_linestyle(), line.get_marker()) for line in by_label.values()}
    assert len(styles) == len(by_label) == 4


def test_the_fitted_line_lies_on_an_exact_exponential() -> None:
    drawn = lines(plot(flow(layer("net.l0", lag_c=None))), "Gradient of one step")
    (fit,) = [line for label, line in drawn.items() if label.startswith("_")]
    assert list(fit.get_xdata()) == [1.0, 16.0]  # lag 0 is not in the fit
    assert list(fit.get_ydata()) == pytest.approx([math.exp(-0.3), math.exp(-0.3 * 16)])


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1e-300, 1e300])
def test_numbers_that_have_no_place_on_the_axis_are_left_out(value: float, tmp_path: Path) -> None:
    def filled(like: Tensor) -> Tensor:
        return torch.full_like(like, value, dtype=torch.float64)

    odd = curve(0.3)
    odd = replace(
        odd,
        mean=filled(odd.mean),
        low=filled(odd.mean),
        high=filled(odd.mean),
        half_life=HalfLife(math.nan, math.nan, math.nan, math.nan, 0),
    )
    one = layer("net.l0")
    assert one.products is not None
    products = replace(
        one.products,
        singular_values=filled(one.products.singular_values),
        lyapunov=filled(one.products.lyapunov),
        lyapunov_error=torch.full((3,), math.nan),
    )
    made = replace(one, gradient_h=filled(one.gradient_h), lag_h=odd, lag_c=None, products=products, gates={})
    drawn = plot(flow(made), tmp_path / "odd.svg")
    assert "no half-life can be fitted" in str(list(lines(drawn, "Gradient of one step")))


def test_what_was_not_measured_is_left_out() -> None:
    bare = layer("net.l0", products=None, gates={}, gradient_c=None, lag_c=None)
    assert titles(plot(replace(flow(bare), parameters={}, symbols=()))) == [
        "Gradient of the whole loss, by step",
        "Gradient of one step's loss, by lag",
    ]


def test_symbols_stand_under_the_steps_as_they_are() -> None:
    drawn = plot(flow())
    axes = next(each for each in drawn.get_axes() if ": i," in each.get_title(loc="left"))
    assert [label.get_text() for label in axes.get_xticklabels()][:10] == list("a␣$x$␣<b>↵")
    assert not any(
        "mathdefault" in label.get_text() for each in drawn.get_axes() for label in each.get_yticklabels()
    )


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in .png, .svg or .pdf"):
        heat().plot(str(tmp_path / "flow.jpeg2"))
    bare = replace(flow(layer("net.l0", products=None, gates={}, lag_c=None)), parameters={})
    with pytest.raises(RunError, match="cannot write"):
        plot(bare, tmp_path / "no" / "flow.png")
    with pytest.raises(InputError, match="there is no folder"):
        drawing.check(tmp_path / "no" / "flow.png")


def test_without_matplotlib_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r'pip install "throughtime\[plot\]"'):
        plot(flow())


def heat() -> Influence:
    return Influence(torch.tensor([[1.0, 0.0], [2e-3, 0.3]]).double(), "embedding", 1, None, ("a", "\n"))


def test_influence_as_text() -> None:
    assert heat().text(encoding="utf-8").splitlines()[:3] == ["   a↵", "a  █", "↵  ·▓"]
    assert heat().text(encoding="ascii").splitlines()[:3] == ["   a?", "a  #", "?  .x"]
    long = Influence(torch.ones(90, 90).tril(), "input", 1, None)
    shown = long.text(width=40, encoding="ascii").splitlines()
    assert shown[0] == "the last 35 of 90 steps"
    assert max(map(len, shown[:-1])) <= 40


def test_the_signs_of_influence_spread_over_what_was_measured() -> None:
    """All entries within one power of ten: five signs all the same, and the legend says what each stands for."""
    narrow = Influence(torch.logspace(-0.9, 0, 25).reshape(5, 5).double(), "input", 1, None)
    *rows, legend = narrow.text(encoding="ascii").splitlines()
    assert set("".join(row[3:] for row in rows)) == set(".:+x#")
    assert legend.endswith(
        ": . below 0.21, : 0.21 to 0.31, + 0.31 to 0.46, x 0.46 to 0.67, # 0.67 to 1, blank: none"
    )
    wide = Influence(torch.logspace(-12, 0, 25).reshape(5, 5).double(), "input", 1, None)
    assert ": . below 0.0001, : 0.0001 to 0.001, + 0.001 to 0.01, x 0.01 to 0.1, # 0.1 to 1," in wide.text(
        encoding="ascii"
    )


def test_gates_are_the_first_examples_own_and_all_of_one_width() -> None:
    own = torch.rand(60, UNITS)
    gate = GateStatistics(0.5, 0.1, 0.2, 0.05, 0.25, torch.full((99, UNITS), 0.5), own)
    signed = GateStatistics(0.0, 0.1, 0.2, 0.05, 0.25, torch.full((99, UNITS), 0.5), 2 * own - 1)
    made = layer("net.l0", gates={"i": gate, "g": signed})
    drawn = drawing.figure(9, 5)
    with drawing.style():
        figures.gates(drawn, flow(made), made)
        drawn.draw_without_rendering()
    maps = [axes for axes in drawn.get_axes() if axes.get_images()]
    assert all("(first example, steps 1 to 60 of 99)" in axes.get_xlabel() for axes in maps)
    shown = torch.from_numpy(maps[0].get_images()[0].get_array().data).T
    torch.testing.assert_close(shown.sort(dim=1).values, own.sort(dim=1).values)
    widths = {(round(axes.get_position().x0, 6), round(axes.get_position().x1, 6)) for axes in maps}
    assert len(widths) == 1


def test_every_singular_value_in_the_legend_is_seen_and_no_line_is_cut() -> None:
    drawn = plot(flow())
    stretch = next(a for a in drawn.get_axes() if "product of k" in a.get_title(loc="left"))
    named = [line for line in stretch.get_lines() if not line.get_label().startswith("_")]
    assert all(line.get_alpha() >= 0.5 and line.get_linewidth() >= 1.5 for line in named)
    by_lag = next(a for a in drawn.get_axes() if "one step's loss" in a.get_title(loc="left"))
    floor = by_lag.get_ylim()[0]
    assert all(min(map(float, line.get_ydata())) > floor for line in by_lag.get_lines())
    assert float(curve(0.3).low.min()) > floor
    fitted = [line.get_xdata() for line in by_lag.get_lines() if line.get_linewidth() == 0.8]
    assert fitted and all(min(x) == 1 for x in fitted)  # lag 0 is not in the fit


def test_influence_as_a_picture_and_a_page(tmp_path: Path) -> None:
    heat().plot(str(tmp_path / "i.png"))
    heat().html(str(tmp_path / "i.html"))
    page = (tmp_path / "i.html").read_text()
    assert "<svg" in page and "<script" not in page and "mathdefault" not in page
    Influence(torch.zeros(2, 2), "input", 1, None).plot(str(tmp_path / "zero.svg"))


def test_characters_without_a_font_and_control_characters_have_escapes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(drawing, "CJK_FONTS", ())
    drawing._cjk_font.cache_clear()
    drawing._known_characters.cache_clear()
    assert drawing.drawable("é") == "é"
    assert drawing.drawable("中") == "U+4E2D"
    assert drawing.drawable("\x1b") == drawing.visible("\x1b") == "\\x1b"
    assert drawing.visible(" \n\t\r中\u200b") == "␣↵⇥␍中U+200B"
    # Warnings are errors: matplotlib has none about missing glyphs.
    one = layer("net.l0", products=None, gradient_c=None, lag_c=None)
    one = replace(one, gates={"i": one.gates["i"]})
    found = replace(flow(one), symbols=("中", "\x07", "😀", *"文abc"), parameters={})
    drawn = plot(found, tmp_path / "cjk.png")
    axes = next(each for each in drawn.get_axes() if ": i," in each.get_title(loc="left"))
    assert [t.get_text() for t in axes.get_xticklabels()][:4] == [
        "U+4E2D",
        "\\x07",
        drawing.drawable("😀"),
        "U+6587",
    ]
    both = Influence(torch.ones(2, 2).double(), "embedding", 1, None, ("中", "\x1b"))
    both.plot(str(tmp_path / "cjk.svg"))
    both.html(str(tmp_path / "cjk.html"))
    assert "<pre>中\\x1b</pre>" in (tmp_path / "cjk.html").read_text(encoding="utf-8")


def test_a_font_that_has_the_characters_is_used_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A font that comes with matplotlib stands for one with Chinese characters."""
    odd = "\ue0d5"  # in STIXNonUnicode alone
    monkeypatch.setattr(drawing, "CJK_FONTS", ("No Such Font", "STIXNonUnicode"))
    drawing._cjk_font.cache_clear()
    drawing._known_characters.cache_clear()
    assert drawing.symbol_fonts() == ["DejaVu Sans Mono", "STIXNonUnicode"]
    known = drawing._known_characters()
    with drawing.style() as _:
        import matplotlib

        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "STIXNonUnicode"]
    monkeypatch.setattr(drawing, "CJK_FONTS", ())
    drawing._cjk_font.cache_clear()
    drawing._known_characters.cache_clear()
    assert ord(odd) in known - drawing._known_characters()
    drawing._cjk_font.cache_clear()
    drawing._known_characters.cache_clear()


def test_columns_of_wide_characters_stay_aligned_in_a_terminal() -> None:
    matrix = torch.ones(3, 3).tril().double()
    wide = Influence(matrix, "embedding", 1, None, ("中", "a", "\n")).text(encoding="utf-8").splitlines()
    assert wide[:4] == ["    中a ↵", "中  ██", " a  ████", " ↵  ██████"]
    # Combining characters take no column of their own.
    marked = (
        Influence(matrix, "embedding", 1, None, ("e\u0301", "a", "b")).text(encoding="utf-8").splitlines()
    )
    assert marked[:2] == ["   e\u0301ab", "e\u0301  █"]
    escaped = Influence(matrix, "embedding", 1, None, ("\x1b", "a", "b")).text(encoding="utf-8").splitlines()
    assert escaped[:3] == [
        "\\x1b  █",
        "   a  ██",
        "   b  ███",
    ]  # no symbols above columns that they do not fit
    long = Influence(torch.ones(90, 90).tril(), "input", 1, None, ("中",) * 90)
    lines_of_it = long.text(width=40, encoding="utf-8").splitlines()
    assert lines_of_it[0] == "the last 17 of 90 steps"
    assert max(map(drawing.columns, lines_of_it[:-1])) <= 40
