"""Small float64 problems with awkward sizes, large weights and a state that is not zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

T, B, D, H, Q = 7, 2, 3, 13, 4


class Tanh:
    """h_t = tanh(W_hx x_t + W_hh h_{t-1} + b_h), whose output *is* its state."""

    def __init__(self, hidden: int = H, steps: int = T) -> None:
        r = torch.Generator().manual_seed(5)

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=r, dtype=torch.float64)

        self.W_hx = randn(hidden, D).requires_grad_()
        self.W_hh = (1.6 * randn(hidden, hidden) / hidden**0.5).requires_grad_()
        self.b_h = randn(hidden).requires_grad_()
        self.W_qh = randn(Q, hidden).requires_grad_()
        self.state = randn(B, hidden)
        self.x = randn(steps, B, D)
        self.target = randn(steps, B, Q)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.W_hx, self.W_hh, self.b_h, self.W_qh]

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x @ self.W_hx.T + h @ self.W_hh.T + self.b_h)

    def run(self, x: Tensor, h: Tensor) -> tuple[list[Tensor], Tensor]:
        if h is None:
            h = torch.zeros_like(self.state)
        outputs = []
        for x_t in x:
            h = self.step(x_t, h)
            outputs.append(h)
        return outputs, h

    def loss(self, y: list[Tensor], target: Tensor) -> Tensor:
        return sum(((h @ self.W_qh.T - o) ** 2).sum() for h, o in zip(y, target, strict=True))


class Nested(Tanh):
    """The same recurrence, its state inside a pytree that also counts steps and carries a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.state = {
            "memory": (self.state[:, :6], [self.state[:, 6:]]),
            "seen": torch.tensor(3),
            "name": "n",
        }

    def run(self, x: Tensor, state: dict | None) -> tuple[list[Tensor], dict]:
        state = state or {"memory": (torch.zeros(B, 6).double(), [torch.zeros(B, 7).double()]),
                          "seen": torch.tensor(0), "name": "n"}  # fmt: skip
        left, (right,) = state["memory"]
        outputs, h = super().run(x, torch.cat([left, right], dim=1))
        return outputs, {"memory": (h[:, :6], [h[:, 6:]]), "seen": state["seen"] + len(x), "name": "n"}


class TorchLSTM:
    """torch.nn's LSTM, two layers, with a head."""

    def __init__(self) -> None:
        r = torch.Generator().manual_seed(9)
        self.lstm = nn.LSTM(D, H, num_layers=2).double()
        self.head = nn.Linear(H, Q).double()
        self.x = torch.randn(T, B, D, generator=r, dtype=torch.float64)
        self.target = torch.randn(T, B, Q, generator=r, dtype=torch.float64)
        self.state = tuple(torch.randn(2, 2, B, H, generator=r, dtype=torch.float64).unbind())
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.copy_(0.7 * torch.randn(parameter.shape, generator=r, dtype=torch.float64))

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.lstm.parameters(), *self.head.parameters()]

    def run(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, state = self.lstm(x, state)
        return self.head(y), state

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return ((y - target) ** 2).sum()


@pytest.fixture
def tanh() -> Tanh:
    return Tanh()


@pytest.fixture
def small() -> Tanh:
    """Six steps and three units: small enough to try every pattern of cuts."""
    return Tanh(hidden=3, steps=6)


@pytest.fixture(params=[Tanh, Nested, TorchLSTM])
def problem(request: pytest.FixtureRequest) -> Tanh | TorchLSTM:
    return request.param()


@pytest.fixture
def gradient_of() -> Callable:
    """Return `gradient_of(problem, strategy, ...) -> (gradient of all parameters as one vector, Backward)`."""

    def gradient_of(problem, strategy, *, inputs=None, targets=None, state="of the problem", **options):
        for parameter in problem.parameters:
            parameter.grad = None
        if inputs is None:
            inputs, targets = problem.x, problem.target
        state = problem.state if isinstance(state, str) else state
        result = strategy.backward(problem.run, problem.loss, inputs, targets, state, **options)
        return flat([p.grad for p in problem.parameters]), result

    return gradient_of


@pytest.fixture
def autograd() -> Callable:
    """Return `autograd(problem) -> the same vector from one graph of the whole sequence, without a strategy`."""

    def autograd(problem):
        y, _ = problem.run(problem.x, problem.state)
        return flat(torch.autograd.grad(problem.loss(y, problem.target), problem.parameters))

    return autograd


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


class LiveGraphs:
    """Counts the steps whose graph is alive, and remembers the most there were."""

    def __init__(self) -> None:
        self.alive = self.peak = 0

    def step(self, x: Tensor) -> Tensor:
        return _CountedStep.apply(x, self)


class _Token:
    def __init__(self, graphs: LiveGraphs) -> None:
        self.graphs = graphs
        graphs.alive += 1
        graphs.peak = max(graphs.peak, graphs.alive)

    def __del__(self) -> None:
        self.graphs.alive -= 1


class _CountedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, graphs: LiveGraphs) -> Tensor:
        ctx.token = _Token(graphs) if torch.is_tensor(x) and ctx.needs_input_grad[0] else None
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


@pytest.fixture
def live_graphs(tanh: Tanh) -> tuple[Tanh, LiveGraphs]:
    """The tanh problem, with a count of the steps whose graph is alive."""
    graphs, step = LiveGraphs(), tanh.step
    tanh.step = lambda x, h: graphs.step(step(x, h))
    return tanh, graphs
