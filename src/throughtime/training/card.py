"""The end of a training: the model beside the baselines on the same splits, and the model card."""

from __future__ import annotations

import platform
import shlex
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from throughtime import __version__
from throughtime.training.reporting import TrainingResult

if TYPE_CHECKING:
    from throughtime.data.batch import Batch
    from throughtime.training.trainer import Trainer

MODEL = "this model"
_TIMINGS = 3  # of a padded and a ragged batch, in turn


def final_results(trainer: Trainer, result: TrainingResult) -> dict[str, dict[str, Any]]:
    """Metrics of the kept weights and of the baselines, by split and name; a baseline that could not be computed is text.

    The test split is evaluated here and nowhere else. Leaves the kept weights in the model.
    """
    task, assets, run = trainer.task, trainer.run.assets, trainer.run
    trainer.model.load_state_dict(run.load_model())
    kept = result.best if trainer.config.keep == "best" else result.evaluation
    if task.after_training(trainer.model, assets):
        run.save_model(trainer.model.state_dict())
        kept = None  # it was measured without what was set now
    found: dict[str, dict[str, Any]] = {}
    for split in ("validation", "test"):
        evaluation = kept if split == "validation" and kept is not None else trainer.evaluate(split)
        if evaluation is None:
            continue
        found[split] = {MODEL: dict(evaluation.values)}
        if not trainer.config.no_baselines:
            found[split][MODEL] |= task.final_metrics(trainer.model, assets, split)
            found[split] |= task.baseline(assets, split)
        found[split] |= {"details": details} if (details := _details(evaluation)) else {}
    return found


def results_table(results: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]], list[str]]:
    """Head, rows and notes of the final table: one row for each split and model."""
    metrics = list(dict.fromkeys(name for split in results.values() for name in split[MODEL]))
    head = ["split", "model", *metrics]
    rows, notes = [], []
    for split, entries in results.items():
        for name, values in entries.items():
            if name == "details":
                continue
            if isinstance(values, str):
                notes.append(f"{name}: {values}")
                continue
            rows.append([split, name, *(_number(values.get(metric)) for metric in metrics)])
    return head, rows, list(dict.fromkeys(notes))


def write_card(trainer: Trainer, result: TrainingResult) -> None:
    """Write README.md into the run."""
    trainer.run.write_card(card(trainer, result))


def card(trainer: Trainer, result: TrainingResult) -> str:
    """The model card, Markdown."""
    task, run, config = trainer.task, trainer.run, trainer.config
    model = trainer.model_config
    head, rows, notes = results_table(result.results)
    sections = [f"# {run.path.name}", f"{task.describe(run.assets)}.", "## Results"]
    if rows:
        sections.append("\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)]))
    conventions = [
        f"- {metric.name}: {metric.convention}" for metric in task.metrics(run.assets) if metric.convention
    ]
    sections.append("\n".join([*conventions, *(f"- {note}" for note in notes)]))
    best = result.best
    if best is not None and (words := task.conclude(best.values)):
        sections.append(words)
    sections += [each["details"] for split, each in result.results.items() if "details" in each][-1:]
    sections.append("## Data")
    files = [
        f"- `{Path(source.path).name}`, {source.bytes:,} bytes, SHA-256 `{source.sha256}`"
        for source in run.assets.sources
    ]
    sizes = ", ".join(f"{len(numbers):,} {name}" for name, numbers in run.assets.splits.items())
    splits = (
        f"Split: {sizes}; the numbers of the examples are in assets.json."
        if sizes
        else "Split: as the options below say."
    )
    sections += [
        "\n".join(files)
        or f"No file: what ships with Python {platform.python_version()}, or drawn from a seed.",
        splits,
    ]
    parameters = sum(parameter.numel() for parameter in trainer.step.parameters)
    seconds = max(result.seconds, 1e-9)
    facts = [
        ("parameters", f"{parameters:,}"),
        (
            "cell",
            f"{model.cell}, {' + '.join(map(str, model.sizes))} units{', bidirectional' if model.bidirectional else ''}"
            + (f", receptive field {model.receptive_field} steps" if model.receptive_field else ""),
        ),
        ("gradient through time", trainer.step.strategy.describe()),
        (
            "optimizer",
            f"{config.optimizer} at {config.lr:g}, {config.schedule}, clip {config.clip}, batch {config.batch}",
        ),
        (
            "training",
            f"{result.step:,} steps, {result.epoch:.2f} epochs in {seconds:.1f} s: {result.step / seconds:.1f} steps/s",
        ),
        ("time of a ragged batch", ragged_time(trainer)),
        ("seed", str(config.seed)),
        ("device", f"{trainer.device}, {torch.get_num_threads()} threads"),
        (
            "versions",
            f"throughtime {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        ),
    ]
    sections += [
        "## Model and training",
        "\n".join([_row(["", ""]), _row(["---"] * 2), *(_row(list(fact)) for fact in facts if fact[1])]),
    ]
    if command := run.config.get("command"):
        sections += ["## Command", f"```\n{command}\n```"]
    path = shlex.quote(run.path.name)
    sections.append(
        f"Load it with `throughtime.load({str(run.path.name)!r})`, or `throughtime predict {path} FILE`."
    )
    return "\n\n".join(part for part in sections if part) + "\n"


def ragged_time(trainer: Trainer) -> str:
    """The time of a training step on a ragged batch against the same batch padded; "" where rows have no lengths.

    Medians of a few steps in turn, after one of each. Changes nothing but the gradients, which it clears.
    """
    state = trainer.data.state_dict()
    batch = next(iter(trainer.data.epoch()))
    trainer.data.load_state_dict(state)
    lengths = batch.lengths
    if lengths is None:
        return ""
    batch, model = batch.to(trainer.device), trainer.model
    # The padded batch keeps lengths, of all its steps, for a loss that reads them; the model gets none.
    sides: dict[str, tuple[Batch, Callable[[Batch, Any], Any]]] = {
        "ragged": (batch, lambda window, state: window.run(model, state)),
        "padded": (
            batch._replace(lengths=torch.full_like(lengths, batch.steps)),
            lambda window, state: window._replace(lengths=None).run(model, state),
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    with torch.random.fork_rng([]):
        for _ in range(_TIMINGS + 1):
            for name, (each, run) in sides.items():
                start = time.perf_counter()
                trainer.step.strategy.backward(run, trainer.task.loss, each)
                if trainer.device.type != "cpu":
                    torch.accelerator.synchronize(trainer.device)
                times[name].append(time.perf_counter() - start)
                trainer.step.optimizer.zero_grad(set_to_none=True)
    ragged, whole = (statistics.median(each[1:]) for each in times.values())
    filled = int(lengths.sum()) / (batch.steps * batch.size)
    return (
        f"{1000 * ragged:.1f} ms with lengths, {1000 * whole:.1f} ms padded to {batch.steps} steps, {whole / ragged:.2f} times "
        f"as long; {filled:.0%} of the padded batch is data"
    )


def _details(evaluation: Any) -> str:
    """What metrics have to show beyond their numbers, such as a confusion matrix."""
    return "\n\n".join(text for metric in evaluation.metrics if (text := metric.details()))


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
