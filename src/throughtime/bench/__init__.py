"""Speed on this machine, compared with torch.nn: verified first, then measured in one process, in turn."""

from throughtime.bench.machine import describe, gemm_peak
from throughtime.bench.recurrences import CELLS, SHAPES, Shape, compare
from throughtime.bench.timing import Timing, interleave

__all__ = ["CELLS", "SHAPES", "Shape", "Timing", "compare", "describe", "gemm_peak", "interleave"]
