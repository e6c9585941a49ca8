"""torch.nn's recurrent layers with more inside, and any cell as a layer."""

from throughtime.layers.gru import GRU
from throughtime.layers.lstm import LSTM
from throughtime.layers.recurrent import Recurrent
from throughtime.layers.rnn import RNN
from throughtime.layers.scanning import scan
from throughtime.layers.trace import Trace

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "Trace", "scan"]
