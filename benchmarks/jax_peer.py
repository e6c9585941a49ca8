"""Training with JAX's scan under jit, compared with ours. Optional: needs jax."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plan import Plan, Unavailable
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import CELLS, LIMIT, Shape, data, training
from throughtime.bench.table import format_timing
from throughtime.bench.timing import Side, as_json, interleave
from throughtime.bench.verify import check, worst_error


def measure(plan: Plan) -> list[dict[str, Any]]:
    """LSTM and GRU at every shape.

    XLA uses every core that the process may run on: compare where that is as many as torch's threads.

    Raises: Unavailable where jax is not installed.
    """
    if not installed():
        raise Unavailable("jax is not installed")
    cases = [(cell, shape) for cell in ("LSTM", "GRU") for shape in plan.shapes]
    return [
        _compare(plan, *case)
        for case in with_progress("jax", cases, lambda case: plan.seconds + case[1].flops(4, True) / 5e9)
    ]


def installed() -> bool:
    """Whether jax can be imported; it runs on the CPU."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return importlib.util.find_spec("jax") is not None


def _gradients(cell: str) -> Any:
    """A compiled function of (parameters, x, dy): y and the gradients of the parameters and of x."""
    import jax
    import jax.numpy as jnp

    def lstm(weights: Any, state: Any, u: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(u + h @ weights[1].T + weights[3], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def gru(weights: Any, state: Any, u: Any) -> Any:
        (h,) = state
        (ir, iz, in_), (hr, hz, hn) = jnp.split(u, 3, -1), jnp.split(h @ weights[1].T + weights[3], 3, -1)
        z, n = jax.nn.sigmoid(iz + hz), jnp.tanh(in_ + jax.nn.sigmoid(ir + hr) * hn)
        h = n + z * (h - n)
        return (h,), h

    step, count = (lstm, 2) if cell == "LSTM" else (gru, 1)

    def outputs(weights: Any, x: Any) -> Any:
        start = (jnp.zeros((x.shape[1], weights[1].shape[1]), x.dtype),) * count
        projected = x @ weights[0].T + weights[2]
        return jax.lax.scan(lambda state, u: step(weights, state, u), start, projected)[1]

    def run(weights: Any, x: Any, dy: Any) -> Any:
        y, back = jax.vjp(outputs, weights, x)
        return y, back(dy)

    return jax.jit(run)


def side(cell: str, layer: nn.Module, x: Tensor, dy: Tensor) -> tuple[Side, float]:
    """The compiled training call with a layer's weights, and its error.

    Raises: ArithmeticError if it differs from torch.nn in float64.
    """
    import jax
    import numpy as np

    exact = CELLS[cell][1](x.shape[-1], dy.shape[-1], dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    wide = x.double().requires_grad_()
    y = exact(wide)[0]
    wanted = [y.detach(), *torch.autograd.grad(y, [wide, *exact.parameters()], dy.double())]
    run = _gradients(cell)
    weights = [jax.numpy.asarray(p.detach().numpy()) for p in layer.parameters()]
    arguments = (weights, jax.numpy.asarray(x.numpy()), jax.numpy.asarray(dy.numpy()))

    def call() -> Any:
        return jax.block_until_ready(run(*arguments))

    y_jax, (dweights, dx) = call()
    got = [torch.from_numpy(np.array(value)) for value in (y_jax, dx, *dweights)]
    return call, check(f"jax {cell} {list(x.shape)}", worst_error(got, wanted), LIMIT)


def _compare(plan: Plan, cell: str, shape: Shape) -> dict[str, Any]:
    import jax

    torch.manual_seed(0)
    ours = CELLS[cell][0](shape.features, shape.hidden)
    x, dy = data(shape)
    call, error = side(cell, ours, x, dy)
    timings = interleave({"ours": training(ours, x, dy), "jax": call}, seconds=plan.seconds, least=plan.least)
    return {
        "cell": cell,
        "shape": list(shape),
        "version": jax.__version__,
        "errors": {"jax": error},
        "timings": as_json(timings),
        "ratio": timings["jax"].median / timings["ours"].median,
    }


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    head = ["cell", "T,B,D,H", "ours", "JAX", "JAX / ours", "version"]
    return head, [
        [
            result["cell"],
            ",".join(map(str, result["shape"])),
            format_timing(result["timings"]["ours"]),
            format_timing(result["timings"]["jax"]),
            f"{result['ratio']:.2f}",
            result["version"],
        ]
        for result in results
    ]
