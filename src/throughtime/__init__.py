"""throughtime: recurrent networks for PyTorch, with first-class state and gradients through time.

import throughtime as tt

tt.LSTM, tt.GRU, tt.RNN      torch.nn's layers with lengths=, trace(), layer norm, zoneout, recurrent dropout, ...
tt.scan, tt.Recurrent        any cell over time, also your own
tt.CausalCNN, tt.FeedForward dilated convolutions over time, and no time at all: what a recurrent layer is compared with
tt.bptt                      full, truncated, randomized and checkpointed backpropagation through time
tt.flow                      how the gradient decays or grows through time: measured, explained, drawn
tt.load("runs/book")         a trained run: predict, evaluate, generate, its model and assets
tt.stream, tt.SessionPool    a model that reads a stream chunk by chunk; many of them at a time
tt.serve.Client              a client of `throughtime serve`, the server of trained runs
tt.start_run, tt.train       train a task from Python; `throughtime train` from the command line
tt.backends()                which backend runs recurrences on this machine; tt.release_memory() frees what it keeps

Everything is imported on first use: `import throughtime` costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "cells": ["Cell", "GRUCell", "HiddenState", "IndRNNCell", "LSTMCell", "LSTMState", "LayerNormLSTMCell"],
    "cells.mingru": ["MinGRUCell"],
    "cells.rnn": ["RNNCell"],
    "layers": ["GRU", "LSTM", "RNN", "CausalCNN", "FeedForward", "Recurrent", "Trace", "scan"],
    "kernels.dispatch": ["Call", "backends", "release_memory", "use_backend"],
    "data.batch": ["Batch"],
    "metrics.metric": ["Metric"],
    "models.config": ["ModelConfig"],
    "models.many_to_many": ["ManyToMany"],
    "models.many_to_one": ["ManyToOne"],
    "tasks.task": ["Task"],
    "training.clipping": ["clip_norm_", "clip_value_"],
    "training.config": ["TrainingConfig"],
    "training.evaluation": ["Evaluation", "evaluate"],
    "training.loop": ["start_run", "train"],
    "runtime.trained": ["Trained", "load"],
    "sessions.pool": ["SessionPool"],
    "sessions.stream": ["Stream", "stream"],
    "errors": ["BackendError", "InputError", "RunError", "SessionError", "ThroughtimeError"],
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = (
    "bench",
    "bptt",
    "cells",
    "cli",
    "data",
    "errors",
    "flow",
    "kernels",
    "layers",
    "metrics",
    "models",
    "runs",
    "runtime",
    "serve",
    "sessions",
    "tasks",
    "training",
)

__all__ = [*_HOME_OF, *_MODULES]

if TYPE_CHECKING:
    from throughtime import (
        bptt,
        cells,
        data,
        flow,
        kernels,
        layers,
        metrics,
        models,
        runs,
        runtime,
        serve,
        sessions,
        tasks,
        training,
    )
    from throughtime.cells import (
        Cell,
        GRUCell,
        HiddenState,
        IndRNNCell,
        LayerNormLSTMCell,
        LSTMCell,
        LSTMState,
        MinGRUCell,
        RNNCell,
    )
    from throughtime.data.batch import Batch
    from throughtime.errors import BackendError, InputError, RunError, SessionError, ThroughtimeError
    from throughtime.kernels.dispatch import Call, backends, release_memory, use_backend
    from throughtime.layers import GRU, LSTM, RNN, CausalCNN, FeedForward, Recurrent, Trace, scan
    from throughtime.metrics.metric import Metric
    from throughtime.models.config import ModelConfig
    from throughtime.models.many_to_many import ManyToMany
    from throughtime.models.many_to_one import ManyToOne
    from throughtime.runtime.trained import Trained, load
    from throughtime.sessions.pool import SessionPool
    from throughtime.sessions.stream import Stream, stream
    from throughtime.tasks.task import Task
    from throughtime.training.clipping import clip_norm_, clip_value_
    from throughtime.training.config import TrainingConfig
    from throughtime.training.evaluation import Evaluation, evaluate
    from throughtime.training.loop import start_run, train


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"throughtime.{_HOME_OF[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"throughtime.{name}")
    else:
        raise AttributeError(f"module 'throughtime' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
