"""docs/performance.md: writes the tables of benchmarks/results/ between its markers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.suites import SUITES
from throughtime.bench.machine import sentence
from throughtime.bench.table import markdown

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"


def write(page: Path = PAGE, results: Path = RESULTS, plot: Path = PLOT) -> list[str]:
    """Write the tables between the markers, draw the plot, and return the names of the updated sections.

    A suite without markers on the page gets a section at its end.
    """
    text = page.read_text(encoding="utf-8")
    done = []
    for name, suite in SUITES.items():
        file = results / f"{name}.json"
        if file.exists():
            if f"<!-- {name} -->" not in text:
                text = f"{text.rstrip()}\n\n## {suite.title}\n\n<!-- {name} -->\n<!-- /{name} -->\n"
            text = between(text, name, section(name, json.loads(file.read_text(encoding="utf-8"))))
            done.append(name)
    if draw(results, plot):
        text = between(text, "plot", f"![torch.nn's time over ours, training]({plot.name})")
        done.append("plot")
    page.write_text(text, encoding="utf-8")
    return done


def between(text: str, name: str, content: str) -> str:
    """The text with `content` between the markers `name`.

    Raises: ValueError if the page does not have them once.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    text, found = pattern.subn(lambda match: f"{match[1]}{content}\n{match[2]}", text)
    if found != 1:
        raise ValueError(
            f"expected the markers <!-- {name} --> and <!-- /{name} --> once, found them {found} times"
        )
    return text


def section(name: str, kept: dict[str, Any]) -> str:
    """The table of one suite, and the machine it was measured on."""
    suite = SUITES[name]
    parts = [markdown(*suite.table(kept["results"]))]
    if suite.summary is not None:
        parts.append(suite.summary(kept["results"]))
    peak = kept["gemm_gflops"]
    parts.append(f"Measured on: {sentence(kept['machine'])}; GEMM peak {peak:.0f} GFLOP/s.")
    if kept["quick"]:
        parts.append("**From a quick run: these figures only show that the benchmark works.**")
    return "\n\n".join(parts)


def draw(results: Path, plot: Path) -> bool:
    """Draw bars of torch.nn's time over ours in training; False without matplotlib or results."""
    file = results / "training.json"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return False
    if not file.exists():
        return False
    kept = json.loads(file.read_text(encoding="utf-8"))["results"]
    shapes = list(dict.fromkeys(tuple(result["shape"]) for result in kept))
    cells = list(dict.fromkeys(result["cell"] for result in kept))
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for number, cell in enumerate(cells):
        ratio = {tuple(result["shape"]): result["ratio"] for result in kept if result["cell"] == cell}
        places = [index + (number - (len(cells) - 1) / 2) * 0.27 for index in range(len(shapes))]
        axes.bar(places, [ratio[shape] for shape in shapes], 0.25, label=cell)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(shapes)), [",".join(map(str, shape)) for shape in shapes], rotation=20)
    axes.set_xlabel("T,B,D,H")
    axes.set_ylabel("torch.nn's time / ours")
    axes.legend()
    figure.savefig(plot, metadata={"Date": None})
    return True
