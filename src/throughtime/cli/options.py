"""The options that every training has, by the heading that they stand under in its help."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from throughtime.models.config import CELLS, INITS, NONLINEARITIES
from throughtime.training.config import OPTIMIZERS, SCHEDULES

model = partial(typer.Option, rich_help_panel="Model")
time = partial(typer.Option, rich_help_panel="Learning through time")
watching = partial(typer.Option, rich_help_panel="Watching")
running = partial(typer.Option, rich_help_panel="Run")

Cell = Annotated[str, model(metavar="CELL", help=f"{', '.join(CELLS)}.")]
Layers = Annotated[int, model(metavar="N", help="Layers on top of each other.")]
LayerNorm = Annotated[bool, model("--layer-norm", help="Normalise inside the cell.")]
Init = Annotated[str, model(metavar="HOW", help=f"{', '.join(INITS)}.")]
ForgetBias = Annotated[float, model(metavar="X", help="LSTM: added to the forget gate at the start.")]
Nonlinearity = Annotated[str, model(metavar="PHI", help=f"RNN: {', '.join(NONLINEARITIES)}.")]
Clip = Annotated[str, time(metavar="HOW", help="The gradient: norm:1, value:0.1 or none.")]
Optimizer = Annotated[str, time(metavar="NAME", help=f"{', '.join(OPTIMIZERS)}.")]
Rate = Annotated[float, time(metavar="X", help="Learning rate.")]
Schedule = Annotated[str, time(metavar="NAME", help=f"Of the learning rate: {', '.join(SCHEDULES)}.")]
Batch = Annotated[int, time(metavar="N", help="Sequences side by side.")]
Steps = Annotated[int | None, time(metavar="N", help="End after N updates.")]
OnSpike = Annotated[
    str, watching(metavar="HOW", help="When the loss jumps: warn, stop, or rollback to the weights before.")
]
Seed = Annotated[int, running(metavar="N", help="The same seed trains the same model.")]
Device = Annotated[str, running(metavar="NAME", help="auto, cpu, cuda, cuda:1.")]
Save = Annotated[float, running(metavar="S", help="Save all that --resume needs this often.")]
Out = Annotated[Path | None, running(metavar="RUN", help="Folder of the run. Default: a new one in runs/.")]
Resume = Annotated[bool, running("--resume", help="Go on with the run in --out, as it was started.")]
