"""What is about to be trained, and what came of it, in a few lines."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from throughtime.tasks import TextTask
    from throughtime.training import Summary, TrainingConfig

_FEW = 100  # updates: fewer are no training, whatever the model


def before(task: TextTask, training: TrainingConfig, path: Path) -> str:
    """Data, model, the gradient's way, machine and folder, a line each."""
    from throughtime import bptt
    from throughtime.training import window_of
    from throughtime.training.budget import Budget
    from throughtime.training.processes import Processes

    processes = Processes(training.device)
    model = task.build()
    config = task.model
    source = ", ".join(Path(name).name for name in task.config.data) or "the Python language reference"
    sizes = " + ".join(str(size) for size in config.sizes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    share = (
        f"{task.config.validation:.0%} of them for validation"
        if task.config.validation
        else "all to train on"
    )
    rows = [
        (
            "data",
            f"{source}: {len(task.ids):,} {task.unit}s, {share}; vocabulary of {len(task.vocabulary):,}",
        ),
        ("model", f"{config.cell} of {sizes} units, embedding {config.embedding}: {parameters:,} parameters"),
        ("BPTT", bptt.parse(training.bptt).describe()),
        (
            "training",
            f"{Budget.of(training)}, batch {training.batch * processes.world} x {window_of(training)} steps, "
            f"{training.optimizer} at {training.lr:g}, {training.schedule}, clip {training.clip}",
        ),
        ("runs on", f"{processes.device}, {_backend(model, processes.device)}"),
        ("run", str(path)),
    ]
    return "\n".join(f"{name:<9} {text}" for name, text in rows)


def after(task: TextTask, summary: Summary) -> str:
    """The final figures, where the run is, and what one can do with it."""
    from throughtime.training import Evaluation
    from throughtime.training.reporter import duration

    found = summary.best or Evaluation(summary.loss, 1)
    part = "validation" if summary.best else "training"
    path = shlex.quote(str(summary.path))
    lines = [
        f"{part}: loss {found.loss:.4f} nats, {found.bits:.4f} bits, perplexity {found.perplexity:.4g} "
        f"per {task.unit}; {summary.step:,} steps in {duration(summary.seconds)}",
        f"The run is in {summary.path}. Next:",
    ]
    if task.model.bidirectional:
        return "\n".join([*lines, f"  throughtime evaluate {path} --data FILE"])
    return "\n".join(
        [
            *lines,
            f"  throughtime generate {path}{_prompt(task)}",
            f"  throughtime evaluate {path} --data FILE",
        ]
    )


def too_few(training: TrainingConfig, summary: Summary) -> str:
    """A line to print where the minutes were too few for the model, else "": how many updates, and what to change."""
    if training.minutes is None or summary.step >= _FEW:
        return ""
    updates = "1 update" if summary.step == 1 else f"{summary.step} updates"
    return (
        f"{training.minutes:g} minutes were enough for {updates} only, too few to learn much: "
        "make them cheaper with a smaller --hidden, or give more --minutes.\n"
    )


def prompt_for(task: TextTask) -> str:
    """A prompt that the vocabulary can spell: an English word, else two words of the text's beginning, else none."""
    vocabulary = task.vocabulary
    for prompt in ("The ", "the "):
        if not vocabulary.unknown_symbols(prompt):
            return prompt
    text = vocabulary.decode(task.ids[:200])
    line = max(text.splitlines(), key=len, default="").strip()
    start = " ".join(line.split()[:2])[:16]
    return start if start.isprintable() and not vocabulary.unknown_symbols(start) else ""


def _prompt(task: TextTask) -> str:
    """The option, or nothing."""
    text = prompt_for(task)
    return f" --prompt {_quoted(text)}" if text else ""


def _quoted(text: str) -> str:
    """For the shell; in double quotes where those are enough."""
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def _backend(model: nn.Module, device: Any) -> str:
    """Who runs the recurrent layers."""
    import torch

    from throughtime.kernels.dispatch import backends

    layers: Any = getattr(model, "layers", None)
    call = getattr(layers, "call", None)
    if call is None:
        return "backend reference"
    report = backends(call(torch.empty(1, 1, 1, device=device)))
    return "backend " + next(name for name, runs, _ in report.rows if runs)
