"""`throughtime evaluate` for the runs of adding, copy and echo."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.runs import Run


def evaluate_memory(
    run: Run, refused: dict[str, Any], *, batch: int | None, device: str, as_json: bool
) -> None:
    """Print the loss on the held-out sequences of a run beside the losses that mean something.

    They are those of the training's own validation, whatever the machine; another `batch` draws others.
    Args: refused, options of the command that mean nothing here, and what they were given.
    Raises: InputError for one that was given.
    """
    from throughtime.cli.memory_report import levels, verdict
    from throughtime.tasks import MemoryTask
    from throughtime.training.evaluation import evaluate
    from throughtime.training.processes import Processes

    model, task = MemoryTask.restore(run)
    for option, given in refused.items():
        if given:
            raise InputError(
                f"{option} is for runs of text, and {run.path} is one of {task.name}: leave it out"
            )
    batch = batch or int(run.config.get("training", {}).get("batch", 32))
    place = Processes(device).device
    found = evaluate(model.to(place), task.validation(task.steps, batch), task.loss, device=place)
    if as_json:
        numbers = {"loss": found.loss, "targets": found.count, "levels": task.levels()}
        print(json.dumps({"task": task.name, "length": task.config.length, **numbers}, indent=2))
        return
    print(f"held-out sequences: {found.loss:.4f} {task.measure} ({levels(task)}); {found.count:,} targets")
    print(verdict(task, found.loss))
