"""torch.nn's recurrent layers with more options, and any cell as a layer."""

from throughtime.layers.drop_in import GRU, LSTM, RNN
from throughtime.layers.recurrent import Recurrent, scan
from throughtime.layers.trace import Trace

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "Trace", "scan"]
