"""The suites by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import (
    bf16,
    calls,
    decoding,
    denormals,
    generation,
    gpu,
    jax_peer,
    options,
    parts,
    ragged,
    randomized,
    recurrences,
    sessions,
    shared,
)
from benchmarks.plan import Plan

Results = list[dict[str, Any]]


class Suite(NamedTuple):
    """What is measured together, and how it is printed. `measure` raises Unavailable where it cannot run."""

    title: str  # heading of its section
    measure: Callable[[Plan, float], Results]
    table: Callable[[Results], tuple[list[str], list[list[str]]]]
    summary: Callable[[Results], str] | None = None
    cuda: bool = False  # its results belong to the CUDA device, not to the processor


SUITES = {
    "training": Suite(
        "Training",
        lambda plan, peak: recurrences.measure(plan, peak, train=True),
        recurrences.table,
        recurrences.summary,
    ),
    "inference": Suite(
        "Inference",
        lambda plan, peak: recurrences.measure(plan, peak, train=False),
        recurrences.table,
        recurrences.summary,
    ),
    "parts": Suite("Parts of the training time", parts.measure, parts.table),
    "calls": Suite("Cost of a call", calls.measure, calls.table, calls.summary),
    "shared": Suite("Shared cores", lambda plan, peak: shared.measure(plan), shared.table, shared.summary),
    "ragged": Suite(
        "Rows of different lengths", lambda plan, peak: ragged.measure(plan), ragged.table, ragged.summary
    ),
    "options": Suite(
        "Cost of options", lambda plan, peak: options.measure(plan), options.table, options.summary
    ),
    "randomized": Suite(
        "Randomized truncation",
        lambda plan, peak: randomized.measure(plan),
        randomized.table,
        randomized.summary,
    ),
    "bf16": Suite("bfloat16", lambda plan, peak: bf16.measure(plan), bf16.table, bf16.summary),
    "denormals": Suite(
        "Vanishing gradients", lambda plan, peak: denormals.measure(plan), denormals.table, denormals.summary
    ),
    "generation": Suite("Generation", lambda plan, peak: generation.measure(plan), generation.table),
    "sessions": Suite(
        "Streams and sessions",
        lambda plan, peak: sessions.measure(plan, peak),
        sessions.table,
        sessions.summary,
    ),
    "decoding": Suite(
        "Decoding", lambda plan, peak: decoding.measure(plan), decoding.table, decoding.summary
    ),
    "jax": Suite("Comparison with JAX", lambda plan, peak: jax_peer.measure(plan), jax_peer.table),
    "gpu": Suite("CUDA", lambda plan, peak: gpu.measure(plan), gpu.table, gpu.summary, cuda=True),
}
