"""The forecaster: recurrent layers over a series, a head at every step, and the steps ahead drawn one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from throughtime.data.step_inputs import Ahead, StepInputs
from throughtime.errors import InputError
from throughtime.models.build import layers
from throughtime.models.config import ModelConfig
from throughtime.models.embeddings import OneHot
from throughtime.models.heads import Parametric, make_head

ANCHORS = ("none", "last", "season")


class Forecast(NamedTuple):
    """What a forecaster returns when it is also given the steps ahead."""

    steps: Tensor  # [T, B, size], the head's parameters at each step
    paths: Tensor  # [B, horizon, N], values drawn for the steps after each row's last one


class Forecaster(nn.Module):
    """A head at every step of a series, which predicts what comes after it.

        x_t = features of step t, vector of the series
        h_t, state_t = layers(x_t, state_{t-1})
        parameters_t = head(W h_t + b,  center = anchor_t + A window_t)

    The anchor is the last value, the value one season before, or 0; A, with `linear` of the last values, is an autoregression
    beside the recurrent layers (Lai et al. 2018, arXiv 1703.07015, section 3.6). It starts at 0, so an untrained model is near
    its anchor.

    Args:
        config: of the recurrent layers; its `embedding` is the size of the vector of each series.
        step_inputs: the layout of the inputs.
        head: one of `throughtime.models.heads.HEADS`.
        horizon: H, steps to forecast.
        levels: of the quantiles.
        scales: of each series, what a scaled 1 is in the data's units.
        anchor: one of ANCHORS; season: steps of a season; linear: L, of the last values, 0 for no autoregression.
        paths: N, sequences of values to draw for a forecast of a distribution.

    Cost: the layers'; for a forecast of a distribution H - 1 more steps of B * N rows.
    Raises: InputError for a bidirectional config, which would read the values that it is to predict.
    """

    scales: Tensor

    def __init__(
        self,
        config: ModelConfig,
        step_inputs: StepInputs,
        head: str,
        *,
        horizon: int,
        levels: tuple[float, ...],
        scales: Sequence[float],
        anchor: str = "last",
        season: int = 1,
        linear: int = 0,
        paths: int = 200,
    ) -> None:
        super().__init__()
        if config.bidirectional:
            raise InputError(
                "a bidirectional model would read the values that it is to predict: leave bidirectional out"
            )
        self.step_inputs, self.distribution = step_inputs, make_head(head, horizon, levels)
        self.horizon, self.anchor, self.season, self.linear, self.paths = (
            horizon,
            anchor,
            season,
            linear,
            paths,
        )
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float32), persistent=False)
        series = len(scales)
        self.embedding: nn.Module | None = None
        if series > 1:
            size = config.embedding
            self.embedding = nn.Embedding(series, size) if isinstance(size, int) else OneHot(series)
        width = 0 if self.embedding is None else int(self.embedding.embedding_dim)
        self.layers = layers(config, step_inputs.features + width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.outputs, self.distribution.size)
        self.steps = 1 if isinstance(self.distribution, Parametric) else horizon  # predicted at once
        self.autoregression = nn.Linear(linear, self.steps) if linear else None
        if self.autoregression is not None:
            nn.init.zeros_(self.autoregression.weight)
            nn.init.zeros_(self.autoregression.bias)
        self.covariates = None
        if step_inputs.horizon and step_inputs.known:
            self.covariates = nn.Linear(step_inputs.known, len(levels))

    def forward(
        self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None, context: Any = None
    ) -> tuple[Any, Any]:
        """Read steps [T, B, size], as `StepInputs` lays them out.

        Returns: the head's parameters at each step [T, B, P], and the state; with an `Ahead` as context a `Forecast`, which has
        the paths after each row's last step too, drawn from a generator of its own.
        """
        parameters, state = self._step(inputs, state, lengths)
        if not isinstance(context, Ahead):
            return parameters, state
        last = (lengths if lengths is not None else torch.full((inputs.shape[1],), len(inputs))) - 1
        at = last.clamp(min=0).to(inputs.device)
        rows = torch.arange(inputs.shape[1], device=inputs.device)
        return Forecast(parameters, self._draw(parameters[at, rows], inputs[at, rows], state, context)), state

    def _step(self, inputs: Tensor, state: Any, lengths: Tensor | None) -> tuple[Tensor, Any]:
        features, window, future, series = self.step_inputs.split(inputs)
        if self.embedding is not None:
            features = torch.cat([features, self.embedding(series).to(features.dtype)], dim=-1)
        extra = {} if lengths is None else {"lengths": lengths}
        y, state = self.layers(features, state, **extra)
        raw = self.head(self.dropout(y))
        if self.covariates is not None:
            raw = raw + self.covariates(future).flatten(-2)
        scale = self.scales.to(inputs.dtype)[series]
        return self.distribution.parameters(raw, self._center(window), scale), state

    def _center(self, window: Tensor) -> Tensor:
        """[..., steps] from the last values [..., window]."""
        last = window[..., -1:]
        found = last.new_zeros(*last.shape[:-1], self.steps)
        if self.anchor == "last":
            found = found + last
        elif self.anchor == "season":
            index = torch.arange(self.steps, device=window.device) % self.season - self.season
            found = found + window[..., index]
        if self.autoregression is not None:
            recent = window[..., window.shape[-1] - self.linear :]
            found = found + self.autoregression(recent if self.anchor == "none" else recent - last)
        return found

    @torch.no_grad()
    def _draw(self, parameters: Tensor, row: Tensor, state: Any, context: Ahead) -> Tensor:
        """Paths [B, horizon, N] from the parameters [B, P], the inputs [B, size] and the state of the last step."""
        head = self.distribution
        if not isinstance(head, Parametric):
            raise InputError(
                "only a distribution is forecast by drawing; a quantile head predicts all steps at once"
            )
        copies = self.paths

        def spread(leaf: Tensor) -> Tensor:  # states are [..., B, H]
            return leaf.repeat_interleave(copies, dim=-2)

        state = tree_map_only(Tensor, spread, state)
        split = self.step_inputs.split(row)
        window, series = (
            split.window.repeat_interleave(copies, 0),
            split.series.repeat_interleave(copies, 0),
        )
        ahead = context.inputs.repeat_interleave(copies, 0).to(row)
        scale = self.scales.to(row)[series]
        parameters = parameters.repeat_interleave(copies, 0)
        memory, found = window.shape[-1], list[Tensor]()
        lost = torch.zeros(len(series), dtype=torch.bool, device=row.device)  # paths that are not finite
        observed, past = torch.ones_like(window), row.new_zeros(len(series), 1, self.step_inputs.past)
        devices = [] if row.device.type == "cpu" else [row.device]
        with torch.random.fork_rng(devices, device_type=row.device.type if devices else "cuda"):
            torch.manual_seed(int(context.seed[0]))
            for step in range(self.horizon):
                lost = lost | ~parameters.isfinite().all(-1)
                value = head.sample(torch.where(lost[:, None], torch.ones_like(parameters), parameters))
                value = value / scale if head.counts else value
                found.append(torch.where(lost, torch.nan, value))
                if step + 1 == self.horizon:
                    break
                window = torch.cat([window[:, 1:], value[:, None]], dim=1)
                next_row = self.step_inputs.rows(
                    window, observed, ahead[:, step + 1 : step + 2], past, series, memory - 1, memory
                )
                outputs, state = self._step(next_row.transpose(0, 1), state, None)
                parameters = outputs[0]
        return torch.stack(found, dim=-1).view(len(row), copies, self.horizon).transpose(1, 2)


def forecast_quantiles(outputs: Any, horizon: int, levels: Sequence[float]) -> Tensor:
    """Scaled quantiles in ascending order: [B, H, Q] of a `Forecast`, [..., H, Q] of the parameters of a quantile head.

    Quantiles that cross are put in order (Chernozhukov, Fernandez-Val & Galichon 2010, Econometrica 78(3)).
    """
    if isinstance(outputs, Forecast):
        return outputs.paths.quantile(torch.tensor(levels).to(outputs.paths), dim=-1).movedim(0, -1)
    found: Tensor = outputs.unflatten(-1, (horizon, len(levels))).sort(dim=-1).values
    return found
