"""The loop, clipping, what is watched. Importing this imports no torch; training does."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from throughtime.training.config import TrainingConfig

if TYPE_CHECKING:
    from throughtime.training.clipping import clip_norm_, clip_value_
    from throughtime.training.evaluation import Evaluation, evaluate
    from throughtime.training.interrupt import Interrupted
    from throughtime.training.loop import check, train, window_of
    from throughtime.training.reporter import (
        Lines,
        Plan,
        Progress,
        Reporter,
        Several,
        Silent,
        Summary,
        reporter_for,
    )
    from throughtime.training.spikes import Diverged
    from throughtime.training.task import Task
    from throughtime.training.tensorboard import TensorBoard

_HOMES = {
    "clipping": ["clip_norm_", "clip_value_"],
    "evaluation": ["Evaluation", "evaluate"],
    "interrupt": ["Interrupted"],
    "loop": ["check", "train", "window_of"],
    "reporter": ["Lines", "Plan", "Progress", "Reporter", "Several", "Silent", "Summary", "reporter_for"],
    "spikes": ["Diverged"],
    "task": ["Task"],
    "tensorboard": ["TensorBoard"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Diverged",
    "Evaluation",
    "Interrupted",
    "Lines",
    "Plan",
    "Progress",
    "Reporter",
    "Several",
    "Silent",
    "Summary",
    "Task",
    "TensorBoard",
    "TrainingConfig",
    "check",
    "clip_norm_",
    "clip_value_",
    "evaluate",
    "reporter_for",
    "train",
    "window_of",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is first asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
