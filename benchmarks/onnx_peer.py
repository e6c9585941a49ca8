"""Generation with onnxruntime's LSTM and GRU operators, one call per symbol. Optional: needs onnx and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.generators import SYMBOLS, Weights

# Where torch's gates stand in ONNX's order: LSTM i, f, g, o -> i, o, f, c; GRU r, z, n -> z, r, h.
_ORDER = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}


def missing() -> str | None:
    """Why onnxruntime cannot be measured here, or None."""
    absent = []
    for name in ("onnx", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            absent.append(name)
    return f"not measured: {' and '.join(absent)} not installed" if absent else None


class _Graph:
    """A model of one step in the making."""

    def __init__(self, cell: str) -> None:
        self.cell = cell
        self.constants: list[Any] = []
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def constant(self, name: str, value: Tensor) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(value.detach().numpy(), name))
        return name

    def _gates(self, value: Tensor) -> Tensor:
        blocks = value.detach().chunk(len(_ORDER[self.cell]))
        return torch.cat([blocks[index] for index in _ORDER[self.cell]])

    def layers(self, layers: Any) -> str:
        """The layers after x0 [1, B, D]; the name of their output [1, B, H]."""
        from onnx import TensorProto, helper

        hidden = layers.hidden_size
        for n in range(layers.num_layers):
            biases = [self._gates(getattr(layers, f"bias_{which}_l{n}")) for which in ("ih", "hh")]
            weights = [
                self.constant(f"W{n}", self._gates(getattr(layers, f"weight_ih_l{n}"))[None]),
                self.constant(f"R{n}", self._gates(getattr(layers, f"weight_hh_l{n}"))[None]),
                self.constant(f"B{n}", torch.cat(biases)[None]),
            ]
            names = ["h", "c"] if self.cell == "LSTM" else ["h"]
            states, after = [f"{name}{n}" for name in names], [f"{name}{n}_next" for name in names]
            options = {"linear_before_reset": 1} if self.cell == "GRU" else {}
            self.nodes.append(
                helper.make_node(
                    self.cell,
                    [f"x{n}", *weights, "", *states],
                    [f"y{n}", *after],
                    hidden_size=hidden,
                    **options,
                )
            )
            axis = self.constant(f"axis{n}", torch.tensor([1]))
            self.nodes.append(helper.make_node("Squeeze", [f"y{n}", axis], [f"x{n + 1}"]))
            shape = [1, "B", hidden]
            self.inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in states]
            self.outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in after]
        return f"x{layers.num_layers}"

    def serialized(self, given: Any, found: Any) -> bytes:
        from onnx import checker, helper

        model = helper.make_model(
            helper.make_graph(
                self.nodes, "step", [given, *self.inputs], [found, *self.outputs], self.constants
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data


def graph(weights: Weights) -> bytes:
    """One step as an ONNX model: ids [1, B] and the states [1, B, H] in, probabilities [B, V] and the states out."""
    from onnx import TensorProto, helper

    made = _Graph(weights.cell)
    made.nodes.append(
        helper.make_node("Gather", [made.constant("table", weights.embedding.weight), "ids"], ["x0"])
    )
    last = made.layers(weights.layers)
    made.nodes += [
        helper.make_node(
            "MatMul", [last, made.constant("head", weights.head.weight.t().contiguous())], ["scores"]
        ),
        helper.make_node("Add", ["scores", made.constant("bias", weights.head.bias)], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["p"], axis=-1),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "B"])
    return made.serialized(ids, helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, "B", SYMBOLS]))


def layer_session(cell: str, layers: Any) -> Any:
    """An onnxruntime session of one step of layers: x0 [1, B, D] and states in, the last layer's output and the states out."""
    import onnxruntime
    from onnx import TensorProto, helper

    made = _Graph(cell)
    last = made.layers(layers)
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, "B", layers.input_size])
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, "B", layers.hidden_size])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(made.serialized(x, y), options, providers=["CPUExecutionProvider"])


class Onnx:
    """onnxruntime on the CPU with as many threads as torch; symbols are sampled with numpy."""

    def __init__(self, weights: Weights, batch: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            graph(weights), options, providers=["CPUExecutionProvider"]
        )
        self.names = [value.name for value in self.session.get_inputs()]
        self.zeros = [np.zeros((1, batch, weights.layers.hidden_size), np.float32) for _ in self.names[1:]]
        self.states: list[Any] = self.zeros
        self.ids = np.zeros((1, batch), np.int64)
        self.random = np.random.default_rng(0)

    def step(self, ids: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """Probabilities [B, V] and the states after."""
        p, *states = self.session.run(None, dict(zip(self.names, [ids, *states], strict=True)))
        return p[0], states

    def probabilities(self, ids: Tensor) -> Tensor:
        found, states = [], self.zeros
        for row in ids.unsqueeze(1):
            p, states = self.step(row.numpy(), states)
            found.append(torch.from_numpy(p))
        return torch.stack(found)

    def generate(self, count: int) -> None:
        for _ in range(count):
            p, self.states = self.step(self.ids, self.states)
            sums = p.cumsum(-1)
            sampled = (sums < self.random.random((len(p), 1)) * sums[:, -1:]).sum(-1)
            self.ids = sampled[None].astype(np.int64)
