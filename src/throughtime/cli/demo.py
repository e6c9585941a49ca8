"""`throughtime demo`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.errors import RunError

if TYPE_CHECKING:
    from torch import nn

    from throughtime.data.assets import Assets
    from throughtime.flow import Reach
    from throughtime.tasks import Task

# Small enough to see many steps in two minutes on two cores, large enough to spell.
HIDDEN, EMBEDDING, BATCH, WINDOW, LR = 256, 64, 16, 64, 6e-3
LAGS = 64
PROMPT = "The "
SHOWN = (0, 2, 5)  # of the samples that the training asks for, those that are printed


def demo(
    minutes: Annotated[
        float, typer.Option(metavar="N", help="How long to train; the rest takes a few seconds more.")
    ] = 1.7,
    out: Annotated[
        Path,
        typer.Option(metavar="RUN", help="Folder of the run. A run that an earlier demo made is replaced."),
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(metavar="N", help="Other initial weights, another text.")] = 0,
) -> None:
    """Train an LSTM to generate text, in about two minutes on two cores.

    It reads Python's language reference character by character, generates text before, during and after
    training, and shows at the end how many steps back the gradient reaches.

    Examples:
    throughtime demo
    throughtime demo --minutes 10 --out runs/longer
    """
    from throughtime.cli.chart import reach_chart, reach_sentence
    from throughtime.cli.train import after, before
    from throughtime.models import ModelConfig
    from throughtime.runtime import load
    from throughtime.tasks import TextTask
    from throughtime.training import TrainingConfig
    from throughtime.training.loop import start_run, train
    from throughtime.training.reporting import Terminal

    training = TrainingConfig(minutes=minutes, seed=seed, batch=BATCH, lr=LR, bptt=f"truncated:{WINDOW}")
    model = ModelConfig(hidden=HIDDEN, embedding=EMBEDDING)
    remove_demo(out)
    task, run = start_run(
        TextTask(validation=0.05), model, training, out, command="throughtime demo", extra={"demo": True}
    )
    print(before(task, training, run), flush=True)
    untrained = _reach(task.build(model, run.assets), task, run.assets)
    result = train(task, training, run, report=Terminal(), sample=_Sampler(run.assets, seed))

    trained = load(run.path)
    print("\nAfter training it generates:\n")
    print(_quoted(_generate(trained.model, run.assets, 400, seed)))
    reach = _reach(trained.model, task, run.assets)
    print(f"\nThe {reach_chart(reach)}\n")
    print(reach_sentence(reach, task.unit))
    print(f"Before training it was the last {untrained.reach or f'{LAGS} or more'}.\n")
    print(after(task, run, result, training))
    print("  throughtime train text --data YOUR_TEXT --minutes 3")


def remove_demo(path: Path) -> None:
    """Remove the run that an earlier demo made at `path`; nothing else is ever deleted.

    Raises: RunError when the folder holds anything but such a run.
    """
    from throughtime.runs import Run
    from throughtime.runs.run import ASSETS, CARD, CHECKPOINT, CONFIG, HISTORY, MODEL

    # The mark stands in config.toml itself, so a run has it or has it not from its first instant.
    if not (path / CONFIG).exists():
        return
    old = Run.open(path)
    if old.config.get("demo") is not True:
        raise RunError(f"{path} holds a run that no demo made, so it is not replaced; choose another --out")
    with old.lock():
        # In this order, a demo that is killed in between leaves a folder that the next one can replace.
        own = (CARD, MODEL, CHECKPOINT, HISTORY, CONFIG, ASSETS)
        others = sorted({file.name for file in path.iterdir() if not file.name.startswith(".")} - set(own))
        if others:
            raise RunError(f"{path} holds files that no demo made ({others[0]}): choose another --out")
        for name in own:
            (path / name).unlink(missing_ok=True)


class _Sampler:
    """Generates a text at some of the moments at which the training asks."""

    def __init__(self, assets: Assets, seed: int) -> None:
        self._assets, self._seed = assets, seed
        self._asked = 0

    def __call__(self, model: nn.Module) -> str:
        number, self._asked = self._asked, self._asked + 1
        if number not in SHOWN:
            return ""
        return f"It generates:\n\n{_quoted(_generate(model, self._assets, 160, self._seed))}\n"


def _generate(model: nn.Module, assets: Assets, length: int, seed: int) -> str:
    from throughtime.runtime import Session, generate

    chunks = generate(Session(model, assets.vocabulary), PROMPT, length=length, temperature=0.7, seed=seed)
    return PROMPT + "".join(chunks)


def _quoted(text: str) -> str:
    """The text, with control characters made visible, behind a bar."""
    shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return textwrap.indent(shown, "  | ", predicate=lambda line: True)


def _reach(model: nn.Module, task: Task, assets: Assets) -> Reach:
    """Measured on the beginning of eight parts of the validation text."""
    from throughtime.flow import gradient_reach
    from throughtime.tasks.task import cross_entropy

    batch: Any = next(task.evaluation_batches(assets, "validation", steps=2 * LAGS, batch=8))  # type: ignore[arg-type]
    return gradient_reach(model.eval(), cross_entropy, batch.inputs, batch.targets, lags=LAGS)
