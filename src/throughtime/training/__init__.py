"""The training loop, clipping, watching the gradient. Importing this imports no torch; `throughtime.training.loop` does."""

from throughtime.training.config import TrainingConfig

__all__ = ["TrainingConfig"]
