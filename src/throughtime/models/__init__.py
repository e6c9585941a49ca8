"""Models by their shape, and the settings they are built from. Importing this imports no torch; using a model does."""

from throughtime.models.config import CELLS, POOLINGS, ModelConfig

__all__ = ["CELLS", "POOLINGS", "ModelConfig"]
