"""`throughtime demo`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from throughtime.errors import RunError

if TYPE_CHECKING:
    from torch import nn

    from throughtime.flow import Reach
    from throughtime.runs import Run
    from throughtime.tasks import TextTask

# Small enough to see many steps in two minutes on two cores, large enough to spell.
HIDDEN, EMBEDDING, BATCH, WINDOW, LR = 256, 64, 16, 64, 6e-3
LAGS = 64
PROMPT = "The "
SHOWN = (0, 2, 5)  # the looks at the model, of which there are eleven, at which it writes


def demo(
    minutes: Annotated[
        float, typer.Option(metavar="N", help="How long to train; the rest takes a few seconds more.")
    ] = 1.7,
    out: Annotated[
        Path,
        typer.Option(metavar="RUN", help="Folder of the run. A run that an earlier demo made is replaced."),
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(metavar="N", help="Start from other weights, write another text.")] = 0,
) -> None:
    """Watch an LSTM learn to write, in about two minutes on two cores.

    It reads Python's language reference character by character, writes before, during and after
    training, and shows at the end how many steps the gradient reaches back.

    Examples:
    throughtime demo
    throughtime demo --minutes 10 --out runs/longer
    """
    from throughtime.cli.chart import reach_chart, reach_sentence
    from throughtime.cli.summary import after, before
    from throughtime.models import ModelConfig, settings_to_dict
    from throughtime.tasks import TextConfig, TextTask
    from throughtime.training import TrainingConfig, check, reporter_for, train

    training = TrainingConfig(minutes=minutes, seed=seed, batch=BATCH, lr=LR, bptt=f"truncated:{WINDOW}")
    check(training)
    task = TextTask.create(TextConfig(validation=0.05), ModelConfig(hidden=HIDDEN, embedding=EMBEDDING))
    run = replace_demo(out, settings_to_dict(task.config, task.model, training), task)
    print(before(task, training, run.path), flush=True)
    untrained = _reach(task.build(), task)
    summary = train(task, training, run, report=reporter_for(), sample=_Sampler(task, seed))

    model, task = TextTask.restore(run)
    print("\nAfter training it writes:\n")
    print(_quoted(_write(model, task, 400, seed)))
    reach = _reach(model, task)
    print(f"\nThe {reach_chart(reach)}\n")
    print(reach_sentence(reach, task.unit))
    print(f"Before training it was the last {untrained.reach or f'{LAGS} or more'}.\n")
    print(after(task, summary))
    print("  throughtime train text --data YOUR_TEXT --minutes 3")


def replace_demo(path: Path, settings: dict[str, Any], task: TextTask) -> Run:
    """A new run at `path`, in the place of one that a demo made; nothing else is ever deleted.

    Raises: RunError when the folder holds anything but such a run.
    """
    from throughtime.runs import Run
    from throughtime.runs.run import CHECKPOINT, CONFIG, HISTORY, MODEL, VOCABULARY

    # The mark stands in config.toml itself, so a run has it or has it not from its first instant.
    settings = {"demo": True, **settings}
    if (path / CONFIG).exists():
        old = Run.open(path)
        if old.config.get("demo") is not True:
            raise RunError(
                f"{path} holds a run that no demo made, so it is not replaced; choose another --out"
            )
        with old.lock():
            # In this order, a demo that is killed in between leaves a folder that the next one can replace.
            own = (MODEL, CHECKPOINT, HISTORY, CONFIG, VOCABULARY)
            others = sorted(
                {file.name for file in path.iterdir() if not file.name.startswith(".")} - set(own)
            )
            if others:
                raise RunError(f"{path} holds files that no demo made ({others[0]}): choose another --out")
            for name in own:
                (path / name).unlink(missing_ok=True)
    return Run.create(path, settings, task.vocabulary)


class _Sampler:
    """Lets the model write at some of the moments at which the training asks."""

    def __init__(self, task: TextTask, seed: int) -> None:
        self._task, self._seed = task, seed
        self._asked = 0

    def __call__(self, model: nn.Module) -> str:
        looks, self._asked = self._asked, self._asked + 1
        if looks not in SHOWN:
            return ""
        return f"It writes:\n\n{_quoted(_write(model, self._task, 160, self._seed))}\n"


def _write(model: nn.Module, task: TextTask, length: int, seed: int) -> str:
    from throughtime.runtime import Session, generate

    pieces = generate(Session(model, task.vocabulary), PROMPT, length=length, temperature=0.7, seed=seed)
    return PROMPT + "".join(pieces)


def _quoted(text: str) -> str:
    """The text, with what a terminal would act upon made visible, behind a bar."""
    shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return textwrap.indent(shown, "  | ", predicate=lambda line: True)


def _reach(model: nn.Module, task: TextTask) -> Reach:
    """Measured on the beginning of eight pieces of the validation text."""
    from throughtime.data import evaluation_windows
    from throughtime.flow import gradient_reach

    window = next(evaluation_windows(task.validation_ids, 2 * LAGS, batch=8))
    return gradient_reach(model.eval(), task.loss, window.inputs, window.targets, lags=LAGS)
