"""Generation with every side in a process of its own.

Threads of one library that wait by spinning take time from another that shares its process; processes take turns, with a pause
before each turn. There is one process for each side, for all sizes.
"""

from __future__ import annotations

import contextlib
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.generators import SYMBOLS, Generates, Loop, Weights, make
from benchmarks.plan import Plan
from throughtime.bench.recurrences import LIMIT
from throughtime.bench.timing import RAN, Timing, as_json
from throughtime.bench.verify import check, worst_error

STEPS = 7  # over which the probabilities are compared
SAMPLE = 0.03  # seconds that one call should take: a slow side generates fewer symbols in it
FEWEST = 8
ROUNDS = 3  # times the plan's `least`: samples of each process
PAUSE = 0.1  # seconds before each turn, in which the threads of the process before stop spinning


def compare_apart(
    plan: Plan, sides: dict[str, OwnProcess], cell: str, layers: int, hidden: int, batch: int
) -> dict[str, Any]:
    """One size, one sample of each process in turn."""
    made = {name: side.ask([cell, layers, hidden, batch, plan.tokens]) for name, side in sides.items()}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(ROUNDS * plan.least):
        for name in order:
            time.sleep(PAUSE)
            samples[name].append(sides[name].ask(made[name]["tokens"]))
        order.reverse()
    timings = {name: _timing(each, plan.least) for name, each in samples.items()}
    symbol = {name: timing.median / made[name]["tokens"] for name, timing in timings.items()}
    return {
        "tokens": {name: each["tokens"] for name, each in made.items()},
        "errors": {name: each["error"] for name, each in made.items()},
        "timings": as_json(timings),
        "ratios": {name: seconds / symbol["ours"] for name, seconds in symbol.items() if name != "ours"},
    }


def _timing(samples: list[tuple[float, float]], least: int) -> Timing:
    """As those of `interleave`: without the samples that waited for a core, where enough are left."""
    kept = [seconds for seconds, ran in samples if ran >= RAN]
    disturbed = len(kept) < least
    used = [seconds for seconds, _ in samples] if disturbed else kept
    low, median, high = statistics.quantiles(used, n=4, method="inclusive") if len(used) > 1 else used * 3
    return Timing(median, low, high, min(used), len(kept), len(samples) - len(kept), disturbed)


class OwnProcess:
    """A side in a process of its own, in which nothing but the side itself uses more than one thread."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from benchmarks.apart import serve; serve()", name, str(threads)],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: Any) -> Any:
        """Send one request of `serve`, and return the answer.

        Raises: ArithmeticError if the side is wrong; RuntimeError if the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # no answer follows
            print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self.name} ended with status {self._process.wait()}")
        found = json.loads(answer)
        if isinstance(found, str):
            raise ArithmeticError(found)
        return found

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()


def serve() -> None:
    """The process of one side: answers each line on stdin with one on stdout, until stdin ends.

    [cell, layers, hidden, batch, tokens]: make the side and verify it; the answer is {"error", "tokens"}, the symbols that a
        sample should have, `tokens` at most; or a message if the side is wrong.
    a number: generate as many symbols; the answer is [seconds, the fraction of them in which the calling thread ran].
    """
    name, threads = sys.argv[1], int(sys.argv[2])
    side: Generates
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any
        if isinstance(request, list):
            *sizes, batch, most = request
            torch.set_num_threads(1)  # or making and verifying would start threads of torch's
            weights = Weights(*sizes).eval()
            ids = torch.randint(SYMBOLS, (STEPS, batch))
            wanted = Loop(copy.deepcopy(weights).double(), batch).probabilities(ids)
            if name == "onnxruntime":  # it has as many threads as torch has when it is made
                torch.set_num_threads(threads)
            side = make(name, weights, batch)
            torch.set_num_threads(threads)
            try:
                error = check(f"{name}: {request}", worst_error([side.probabilities(ids)], [wanted]), LIMIT)
                answer = {"error": error, "tokens": tokens_of_a_sample(side.generate, most)}
            except ArithmeticError as wrong:
                answer = str(wrong)
        else:
            side.generate(request)  # caches and clock have cooled down in the pause
            start, ran = time.perf_counter(), time.thread_time()
            side.generate(request)
            ran, seconds = time.thread_time() - ran, time.perf_counter() - start
            answer = [seconds, ran / seconds]
        print(json.dumps(answer), flush=True)


def tokens_of_a_sample(generate: Callable[[int], None], most: int) -> int:
    """Symbols that a call should generate: `most`, so that the cost of a call hardly counts, or fewer if that takes long."""
    few, seconds = min(most, FEWEST), []
    generate(few)  # allocates its workspaces
    for _ in range(3):
        start = time.perf_counter()
        generate(few)
        seconds.append(time.perf_counter() - start)
    return max(few, min(most, int(SAMPLE * few / min(seconds))))
