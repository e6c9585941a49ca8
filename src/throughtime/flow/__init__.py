"""What happened to the gradient on its way back through time."""

from throughtime.flow.reach import Reach, gradient_reach

__all__ = ["Reach", "gradient_reach"]
