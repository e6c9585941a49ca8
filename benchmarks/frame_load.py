"""How many sessions one core serves where each sends a frame every 10 ms: `python -m benchmarks.frame_load`.

Each side gets the frames of all sessions at the same moment, on the clock, and has until the next ones come. So many sessions
are served if, in one of three tries, the 99th percentile of the time from a frame's arrival to the last answer is below 10 ms,
and at most one frame in a hundred begins late. The numbers grow until that fails. Ours is a `SessionPool`; beside it the same
loop written around torch.nn and onnxruntime: gather the states, run, scatter. One thread; the outputs of all are compared before.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch

import throughtime as tt
from benchmarks import onnx_peer
from benchmarks.sessions import ByHand, OnnxByHand
from throughtime.bench.recurrences import LIMIT
from throughtime.bench.table import markdown
from throughtime.bench.verify import check, worst_error

FRAME = 0.01  # seconds
TRIES = 3  # a machine that others use too stops for longer than a frame now and then
NUMBERS = (64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536)


def pool_of(layers: torch.nn.Module, sessions: int, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A step of a pool with so many sessions; their outputs [N, H]."""
    pool = tt.SessionPool(layers, native=True, max_batch=sessions)
    names, steps, count = [pool.open() for _ in range(sessions)], [row[None] for row in x], [0]

    def step() -> torch.Tensor:
        count[0] += 1
        found = pool.feed_many([(name, count[0], row) for name, row in zip(names, steps, strict=True)])
        return torch.cat(found) if count[0] == 1 else found[0]

    return step


def frames(step: Callable[[], object], number: int) -> tuple[list[float], int]:
    """Seconds from each frame's arrival to its last answer, and how many frames were begun late."""
    for _ in range(20):
        step()
    taken, late = [], 0
    start = time.perf_counter() + FRAME
    for frame in range(number):
        due = start + frame * FRAME
        while (now := time.perf_counter()) < due:
            if due - now > 1e-3:
                time.sleep(due - now - 1e-3)
        late += now - due > 1e-3
        step()
        taken.append(time.perf_counter() - due)
    return taken, late


def main() -> None:
    """Print a table: of each side, how many sessions, p50, p99 and how busy the core is with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=500, help="of each number of sessions")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs = torch.nn.GRU(arguments.hidden, arguments.hidden, arguments.layers).eval()
    ours = tt.GRU(arguments.hidden, arguments.hidden, arguments.layers).eval()
    ours.load_state_dict(theirs.state_dict())
    gc.collect()
    gc.freeze()  # or Python looks through all that was imported now and then, for longer than a frame
    rows: list[list[str]] = []
    with torch.inference_mode():
        names = ["ours", "torch.nn"] + ["onnxruntime"] * (not onnx_peer.missing())
        for name in names:
            best: list[str] | None = None
            for number in NUMBERS:
                x = torch.randn(number, arguments.hidden)
                if name == "ours":
                    step = pool_of(ours, number, x)
                    check(name, worst_error([step()], [theirs(x[None])[0][0]]), LIMIT)
                elif name == "torch.nn":
                    step = ByHand(theirs, number, x).step
                    check(name, worst_error([step()[0]], [theirs(x[None])[0][0]]), LIMIT)
                else:
                    by_hand = OnnxByHand("GRU", theirs, number, x)
                    by_hand.step()
                    check(
                        name,
                        worst_error([torch.from_numpy(by_hand.onnx.y[0])], [theirs(x[None])[0][0]]),
                        LIMIT,
                    )
                    step = by_hand.step
                for _ in range(TRIES):
                    taken, late = frames(step, arguments.frames)
                    p99 = statistics.quantiles(taken, n=100)[98]
                    print(
                        f"{name}: {number} sessions, p99 {p99 * 1e3:.2f} ms, {late} frames late", flush=True
                    )
                    failed = p99 >= FRAME or late > arguments.frames // 100
                    if not failed:
                        break
                if failed:
                    break
                median, busy = statistics.median(taken), statistics.fmean(taken) / FRAME
                best = [name, str(number), f"{median * 1e3:.2f}", f"{p99 * 1e3:.2f}", f"{busy:.0%}"]
            rows.append(best or [name, f"fewer than {NUMBERS[0]}", "", "", ""])
    print(markdown(["", "sessions", "p50, ms", "p99, ms", "core busy"], rows))


if __name__ == "__main__":
    main()
