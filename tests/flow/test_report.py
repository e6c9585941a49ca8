"""The page stands alone, begins with what was measured and the explanation, and is written whole or not at all."""

from __future__ import annotations

import importlib.util
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from throughtime import __version__
from throughtime.errors import RunError
from throughtime.flow import Influence, drawing
from throughtime.flow.drawing.report import _interval, _options, report, write_report
from throughtime.flow.result import HalfLife

_spec = importlib.util.spec_from_file_location("flow_pictures", Path(__file__).with_name("test_plot.py"))
assert _spec is not None and _spec.loader is not None
made: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


@pytest.fixture(scope="module")
def page() -> str:
    return report(
        made.flow(made.layer("net.l0"), made.layer("net.l1")), {"run": "runs/a <b>", "data": "book.txt"}
    )


class _Tags(HTMLParser):
    """Elements that are open, and where they do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_it_needs_no_network_and_no_script(page: str) -> None:
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    assert "<script" not in page
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)


def test_it_is_well_formed_and_what_is_text_stays_text(page: str) -> None:
    tags = _Tags()
    tags.feed(page)
    assert (tags.open, tags.wrong) == ([], [])
    assert "net.&lt;bias&gt;" in page
    assert "<bias>" not in page


def test_the_explanation_comes_before_the_tables_and_every_figure_has_its_caption(page: str) -> None:
    assert (
        page.index("class=about")
        < page.index("class=explanation")
        < page.index("<table>")
        < page.index("<svg")
    )
    assert page.count("<figure>") == page.count("<figcaption>") == 2 + 2 * (1 + 1 + 1) + 1
    assert "half-life 2.31 steps" in page
    for number in ("1.3", "0.7", "25.0%"):
        assert f"<td>{number}</td>" in page


def test_ink_follows_the_page_in_light_and_dark(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page
    assert drawing._INK not in page


def test_names_within_the_pictures_do_not_meet(page: str) -> None:
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((15.4, 5.19, -15.9), "half-life over 5.19 or doubling time over 15.9"),
        ((-20.0, 40.0, -5.0), "half-life over 40 or doubling time over 5"),
        ((2.69, 2.38, 3.09), "2.38 to 3.09"),
        ((-3.0, -4.0, -2.5), "2.5 to 4"),
        ((9.0, 5.0, math.inf), "half-life over 5"),
        ((math.inf, math.inf, math.inf), ""),
        ((math.nan, math.nan, math.nan), ""),
    ],
)
def test_an_interval_reads_as_what_it_means(bounds: tuple[float, float, float], words: str) -> None:
    assert _interval(HalfLife(*bounds, 0.9, 20)) == words


def test_options_are_not_torn_and_pictures_scroll_where_it_is_narrow(page: str) -> None:
    assert _options("forget_bias=1 (--forget-bias 1) <b>") == (
        "forget_bias=1 (<code>--forget-bias</code> 1) &lt;b&gt;"
    )
    assert re.search(r"code \{[^}]*white-space: nowrap", page)
    assert re.search(r"@media \(max-width: 600px\) \{ figure svg \{[^}]*min-width", page)
    assert page.count("<figure><div class=wide><svg") == page.count("<figure>")
    assert "R^2" not in page


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flow.html"
    path.write_text("before")
    small = made.flow(made.layer("net.l0", products=None, gates={}, lag_c=None))

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", broken)
        with pytest.raises(RunError, match=r"cannot write .*No space left"):
            write_report(small, path)
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["flow.html"]
    write_report(small, path)
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_the_page_names_what_was_measured_when_and_by_which_version(page: str, tmp_path: Path) -> None:
    about = page[page.index("<table class=about>") : page.index("</table>")]
    rows = dict(re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", about))
    assert list(rows) == ["run", "data", "date", "throughtime"]
    assert (rows["run"], rows["data"], rows["throughtime"]) == ("runs/a &lt;b&gt;", "book.txt", __version__)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", rows["date"])
    path = tmp_path / "i.html"
    Influence(torch.ones(2, 2).double(), "input", 1, None).html(str(path), {"run": "runs/a"})
    assert "<th>run</th><td>runs/a</td>" in path.read_text() and __version__ in path.read_text()
