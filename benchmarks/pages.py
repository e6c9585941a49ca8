"""docs/performance.md: writes the tables of benchmarks/results/ between its markers, one for each processor that has results."""

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
    """Write the tables between the markers, draw the plot, and return the names of the sections that have results.

    A suite without markers on the page gets a section at its end.
    """
    text = page.read_text(encoding="utf-8")
    done = []
    for name, suite in SUITES.items():
        if f"<!-- {name} -->" not in text:
            text = f"{text.rstrip()}\n\n## {suite.title}\n\n<!-- {name} -->\n<!-- /{name} -->\n"
        tables = [section(name, place, kept) for place, kept in read(results, name).items()]
        text = between(text, name, "\n\n".join(tables) or f"Not measured yet: `{command(name)}`.")
        done += [name] if tables else []
    if draw(results, plot):
        text = between(text, "plot", f"![torch.nn's time over ours, training]({plot.name})")
        done.append("plot")
    page.write_text(text, encoding="utf-8")
    return done


def read(results: Path, name: str) -> dict[str, dict[str, Any]]:
    """What was kept of one suite, by the folder of the processor or device, in the folders' alphabetical order."""
    files = sorted(results.glob(f"*/{name}.json"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}


def command(name: str) -> str:
    """What measures one suite."""
    return f"python -m benchmarks.run {name}"


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


def section(name: str, place: str, kept: dict[str, Any]) -> str:
    """The table of one suite on one processor, what it was measured on, and the command."""
    suite = SUITES[name]
    parts = [f"**{place}**", markdown(*suite.table(kept["results"]))]
    if suite.summary is not None:
        parts.append(suite.summary(kept["results"]))
    peak = kept["gemm_gflops"]
    parts.append(
        f"Measured on: {sentence(kept['machine'])}; GEMM peak {peak:.0f} GFLOP/s. "
        f"Command: `{kept.get('command', command(name))}`."  # older results do not hold it
    )
    if kept["quick"]:
        parts.append("**From a quick run: these figures only show that the benchmark works.**")
    return "\n\n".join(parts)


def draw(results: Path, plot: Path) -> bool:
    """Draw bars of torch.nn's time over ours in training, a panel for each processor; False without matplotlib or results."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return False
    measured = read(results, "training")
    if not measured:
        return False
    figure = Figure(figsize=(9, 4 * len(measured)), layout="constrained")
    panels = figure.subplots(len(measured), squeeze=False)[:, 0]
    for axes, (place, kept) in zip(panels, measured.items(), strict=True):
        shapes = list(dict.fromkeys(tuple(result["shape"]) for result in kept["results"]))
        cells = list(dict.fromkeys(result["cell"] for result in kept["results"]))
        for number, cell in enumerate(cells):
            ratio = {tuple(r["shape"]): r["ratio"] for r in kept["results"] if r["cell"] == cell}
            places = [index + (number - (len(cells) - 1) / 2) * 0.27 for index in range(len(shapes))]
            axes.bar(places, [ratio[shape] for shape in shapes], 0.25, label=cell)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_xticks(range(len(shapes)), [",".join(map(str, shape)) for shape in shapes], rotation=20)
        axes.set_xlabel("T,B,D,H")
        axes.set_ylabel("torch.nn's time / ours")
        axes.set_title(place)
        axes.legend()
    with rc_context({"svg.hashsalt": plot.name}):  # the same results give the same file
        figure.savefig(plot, metadata={"Date": None})
    return True
