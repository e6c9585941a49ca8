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


def graph(weights: Weights) -> bytes:
    """One step as an ONNX model: ids [1, B] and the states [1, B, H] in, probabilities [B, V] and the states out."""
    from onnx import TensorProto, checker, helper, numpy_helper

    constants, nodes, inputs, outputs = [], [], [], []

    def constant(name: str, value: Tensor) -> str:
        constants.append(numpy_helper.from_array(value.detach().numpy(), name))
        return name

    def gates(value: Tensor) -> Tensor:
        blocks = value.detach().chunk(len(_ORDER[weights.cell]))
        return torch.cat([blocks[index] for index in _ORDER[weights.cell]])

    layers = weights.layers
    hidden = layers.hidden_size
    nodes.append(helper.make_node("Gather", [constant("table", weights.embedding.weight), "ids"], ["x0"]))
    for n in range(layers.num_layers):
        weights_of_layer = [
            constant(f"W{n}", gates(getattr(layers, f"weight_ih_l{n}"))[None]),
            constant(f"R{n}", gates(getattr(layers, f"weight_hh_l{n}"))[None]),
            constant(
                f"B{n}",
                torch.cat([gates(getattr(layers, f"bias_{which}_l{n}")) for which in ("ih", "hh")])[None],
            ),
        ]
        names = ["h", "c"] if weights.cell == "LSTM" else ["h"]
        states, after = [f"{name}{n}" for name in names], [f"{name}{n}_next" for name in names]
        options = {"linear_before_reset": 1} if weights.cell == "GRU" else {}
        nodes.append(
            helper.make_node(
                weights.cell,
                [f"x{n}", *weights_of_layer, "", *states],
                [f"y{n}", *after],
                hidden_size=hidden,
                **options,
            )
        )
        nodes.append(
            helper.make_node("Squeeze", [f"y{n}", constant(f"axis{n}", torch.tensor([1]))], [f"x{n + 1}"])
        )
        shape = [1, "B", hidden]
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in states]
        outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in after]
    last = f"x{layers.num_layers}"
    nodes += [
        helper.make_node(
            "MatMul", [last, constant("head", weights.head.weight.t().contiguous())], ["scores"]
        ),
        helper.make_node("Add", ["scores", constant("bias", weights.head.bias)], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["p"], axis=-1),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "B"])
    p = helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, "B", SYMBOLS])
    model = helper.make_model(
        helper.make_graph(nodes, "step", [ids, *inputs], [p, *outputs], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


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
