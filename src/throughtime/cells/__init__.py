"""The equations. One recurrence per file; open `lstm.py` first."""

from throughtime.cells.contract import Cell, HiddenState, State
from throughtime.cells.gru import GRUCell
from throughtime.cells.indrnn import IndRNNCell
from throughtime.cells.layer_norm_lstm import LayerNormLSTMCell
from throughtime.cells.lstm import LSTMCell, LSTMState
from throughtime.cells.mingru import MinGRUCell
from throughtime.cells.rnn import RNNCell

__all__ = [
    "Cell",
    "GRUCell",
    "HiddenState",
    "IndRNNCell",
    "LSTMCell",
    "LSTMState",
    "LayerNormLSTMCell",
    "MinGRUCell",
    "RNNCell",
    "State",
]
