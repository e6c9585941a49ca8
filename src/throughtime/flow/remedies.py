"""What to try, by what was measured: each with the argument, and the option of `throughtime train text`, that does it."""

from __future__ import annotations

from throughtime.flow.result import LayerFlow
from throughtime.flow.verdict import Verdict, saturated

_ORTHOGONAL = 'init="orthogonal" (--init orthogonal), which starts W_hh with all singular values 1'
_RELU = 'nonlinearity="relu" with init="identity" (--nonlinearity relu --init identity)'
_GATED = "a GRU or an LSTM (--cell gru, --cell lstm), whose memory passes the weights by"
_FORGET = "forget_bias=1 (--forget-bias 1), so that it remembers at first"
_CLIP = "throughtime.clip_norm_(model.parameters(), 1.0) before each step (--clip 1)"
_NORM = "layer_norm=True (--layer-norm), which bounds what the units see"
_OPEN = 0.85  # a gate that keeps less than this loses 98 % in 25 steps


def remedies(layer: LayerFlow, verdict: Verdict) -> list[str]:
    """Things to try, the likeliest first; empty where there is nothing to mend."""
    if verdict is Verdict.BROKEN:
        return [_CLIP, "a smaller step size"]
    if verdict in (Verdict.SILENT, Verdict.SHORT):
        return []
    if verdict is Verdict.EXPLODES:
        return [_CLIP, *([_ORTHOGONAL] if layer.cell == "rnn" else [])]
    if verdict is Verdict.HUMP:
        # Weights whose eigenvalues and singular values agree cannot do this.
        return [_ORTHOGONAL, _CLIP]
    if verdict is Verdict.KEEPS:
        steps = len(layer.lag_h.mean) - 1
        return [
            f"windows of more than {steps} steps (--bptt truncated:{2 * steps}): what it can learn is limited by them"
        ]
    return _against_vanishing(layer)


def _against_vanishing(layer: LayerFlow) -> list[str]:
    if layer.cell == "rnn":
        return _of_a_plain_network(layer)
    if layer.cell == "lstm":
        return _of_an_lstm(layer)
    if layer.cell == "gru":
        keeps = layer.gates["z"].mean
        if keeps < _OPEN:
            return [
                f"an LSTM with {_FORGET}: z keeps {keeps:.2f} in a step here",
                "a GRU whose z starts higher, gru.bias_ih_l0.data[H : 2 * H] += 1",
            ]
        return [_NORM] if saturated(layer) else []
    return [] if layer.memory_path is not None or layer.lag_c is not None else [_GATED]


def _of_a_plain_network(layer: LayerFlow) -> list[str]:
    radius = max((s.radius for s in layer.weights.values()), default=1.0)
    tries = []
    if saturated(layer):
        tries.append(_NORM)
    if not saturated(layer) or radius < 0.9:
        tries.append(_ORTHOGONAL)
    return [*tries, _RELU, _GATED]


def _of_an_lstm(layer: LayerFlow) -> list[str]:
    tries = []
    forgets = layer.gates["f"].mean if "f" in layer.gates else 1.0
    if forgets < _OPEN:
        tries.append(f"{_FORGET}: f keeps {forgets:.2f} in a step here")
    if saturated(layer):
        tries.append(_NORM)
    return tries
