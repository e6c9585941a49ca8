"""Many to many for video: each frame becomes a vector before the recurrent layers read it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError, one_of
from throughtime.models.embeddings import Continuous
from throughtime.models.many_to_many import ManyToMany, StreamingParts

ENCODERS = ("cnn", "linear")
_CHANNELS = (16, 32)  # of the convolutions


class FrameEncoder(nn.Module):
    """A frame, H * W * C numbers, as a vector of `features` numbers; each frame alone.

        cnn     two convolutions 3 x 3 (16 and 32 channels, each with ReLU and stride 2), then linear, then ReLU
        linear  linear, then ReLU

    The convolutions keep where something is in the image: nothing is averaged over places.
    Args: frame, (H, W, C), or None where a frame is a vector of `size` numbers that has no shape: then "linear".
    Raises: InputError for an unknown kind, and for "cnn" without a shape.
    """

    def __init__(
        self, size: int, frame: tuple[int, int, int] | None, features: int, kind: str = "cnn"
    ) -> None:
        super().__init__()
        self.frame, self.features = frame, features
        if one_of("encoder", kind, ENCODERS) == "cnn":
            if frame is None:
                raise InputError("the encoder cnn reads images, got vectors of numbers: use linear")
            height, width, channels = frame
            layers: list[nn.Module] = []
            for out in _CHANNELS:
                layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.ReLU()]
                height, width, channels = -(-height // 2), -(-width // 2), out
            size = height * width * channels
            self.convolutions: nn.Sequential | None = nn.Sequential(*layers)
        else:
            self.convolutions = None
        self.linear = nn.Linear(size, features)

    def forward(self, x: Tensor) -> Tensor:
        """[n, H * W * C] to [n, features]."""
        if self.convolutions is not None and self.frame is not None:
            height, width, channels = self.frame
            x = x.view(-1, height, width, channels).permute(0, 3, 1, 2)
            x = self.convolutions(x).flatten(1)
        encoded: Tensor = self.linear(x).relu()
        return encoded


class FrameModel(ManyToMany):
    """`ManyToMany` over encoded frames: outputs_t = W_hq h_t + b_q, h_t = layers(encoder(frame_t), state_{t-1}).

    Frames in the padding are replaced by zeros before anything reads them. Args: as `ManyToMany`.
    Cost: that of the layers, and of the encoder for T * B frames.
    """

    def __init__(
        self, encoder: FrameEncoder, layers: nn.Module, features: int, outputs: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__(Continuous(encoder.features), layers, features, outputs, dropout=dropout)
        self.encoder = encoder

    def streaming_parts(self) -> StreamingParts:
        return StreamingParts(self.encoder, self.layers, (self.head.weight, self.head.bias))

    def forward(self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """As `ManyToMany.forward`, of frames [T, B, H * W * C]."""
        steps, size = inputs.shape[:2]
        if lengths is not None:
            inside = torch.arange(steps, device=inputs.device)[:, None] < lengths.to(inputs.device)
            inputs = torch.where(inside[..., None], inputs, 0)  # so that a NaN in it reaches no gradient
        encoded = self.encoder(inputs.flatten(0, 1)).view(steps, size, -1)
        return super().forward(encoded, state, lengths)
