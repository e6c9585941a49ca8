"""`python -m benchmarks.run`: measure, print tables, write the results as JSON and into docs/performance.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks import pages
from benchmarks.plan import FULL, QUICK, Unavailable
from benchmarks.suites import SUITES
from throughtime.bench import describe, gemm_peak
from throughtime.bench.machine import folder, sentence
from throughtime.bench.table import plain
from throughtime.progress import duration


def main(argv: list[str] | None = None) -> int:
    """Run the suites; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; default: all of them"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only checks that everything works")
    parser.add_argument("--threads", type=int, help="of all sides; default 2")
    parser.add_argument(
        "--busy",
        type=int,
        nargs="+",
        metavar="N",
        help="of `calls` and `shared`: numbers of busy processes beside; default 0 2 and 0 1 2",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results, one folder for each processor in it; default benchmarks/results, none with --quick",
    )
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="measure nothing; write the saved results into docs/performance.md",
    )
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.suites if name not in SUITES]
    if unknown:
        parser.error(f"no such suite: {unknown[0]}; there are {', '.join(SUITES)}")
    if arguments.write_docs:
        print(f"{pages.PAGE.name}: {', '.join(pages.write()) or 'no results yet'}")
        return 0
    plan = QUICK if arguments.quick else FULL
    if arguments.busy:
        if min(arguments.busy) < 0:
            parser.error(f"--busy must be 0 or more processes, got {min(arguments.busy)}")
        loads = tuple(sorted(set(arguments.busy)))
        plan = plan._replace(calls_busy=loads, shared_busy=loads)
    torch.set_num_threads(arguments.threads or plan.threads)
    out = arguments.out or (None if arguments.quick else pages.RESULTS)
    machine = describe()
    peak = gemm_peak(plan.peak_size, plan.seconds)
    print(f"{sentence(machine)}; GEMM peak {peak / 1e9:.0f} GFLOP/s", flush=True)
    status = 0
    start = time.monotonic()
    names = arguments.suites or list(SUITES)
    for number, name in enumerate(names):
        suite = SUITES[name]
        spent = duration(time.monotonic() - start)
        print(f"\nsuite {name}, {number + 1} of {len(names)}, after {spent}", file=sys.stderr, flush=True)
        try:
            results = suite.measure(plan, peak)
        except ArithmeticError as error:  # a wrong result is not timed; the other suites are run
            print(f"\n{name}: {error}", flush=True)
            status = 1
            continue
        except Unavailable as reason:
            print(f"\n{name}: not run: {reason}", flush=True)
            status = status or int(bool(arguments.suites))  # asked for by name, and not done
            continue
        kept = {
            "suite": name,
            "command": _command(name, arguments),
            "quick": arguments.quick,
            "machine": machine,
            "gemm_gflops": peak / 1e9,
            "results": results,
        }
        print(f"\n{name}\n{plain(*suite.table(results))}", flush=True)
        if suite.summary is not None:
            print(suite.summary(results))
        if out is not None:
            place = out / folder(machine, suite.cuda)
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return status


def _command(name: str, arguments: argparse.Namespace) -> str:
    """The command that measures this suite alone in the same way."""
    words = ["python -m benchmarks.run", name]
    words += ["--quick"] * arguments.quick
    words += [] if arguments.threads is None else [f"--threads {arguments.threads}"]
    words += [f"--busy {' '.join(map(str, arguments.busy))}"] if arguments.busy else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
