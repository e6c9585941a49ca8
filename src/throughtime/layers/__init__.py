"""torch.nn's recurrent layers with more options, any cell as a layer, and two layers without recurrence."""

from throughtime.layers.convolution import CausalCNN
from throughtime.layers.drop_in import GRU, LSTM, RNN
from throughtime.layers.feed_forward import FeedForward
from throughtime.layers.recurrent import Recurrent, scan
from throughtime.layers.trace import Trace

__all__ = ["GRU", "LSTM", "RNN", "CausalCNN", "FeedForward", "Recurrent", "Trace", "scan"]
