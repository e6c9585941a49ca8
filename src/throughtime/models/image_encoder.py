"""An image as a grid of vectors to attend to, and as one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.models.encoders import Encoded

CHANNELS = (16, 32, 64)  # of the convolutions; each halves rows and columns
_GROUP = 16  # channels that are normalized together


class ImageEncoder(nn.Module):
    """A small convolutional network over images of one size.

        x_0 = 4 (image - its mean), pixels 0 to 1; with the row and the column as two more channels, -1 to 1
        x_i = relu(group_norm(convolution 3 x 3, stride 2, of x_{i-1}))      i = 1, 2, 3
        m_s = relu(W_m [x_3s, row, column] + b_m)                           s: each place of the grid, row by row
        summary = relu(W_v [max over s of m_s, mean over s of m_s, relu(W_r m_s + b_r) of all s] + b_v)

    The row and the column are read, and all places, reduced to 16 numbers each, are part of the summary, because captions say
    where things are ("left of"), which the maximum and the mean over places alone would lose. Group normalization, unlike that
    over a batch, gives an image the same numbers whatever is beside it, in training and afterwards.

    Args: image, (C, H, W); memory, M; summary, E.
    Call: `encoder(images [B, C, H, W])`, bytes 0 to 255 or numbers 0 to 1, gives `Encoded` with outputs [S, B, M],
    S = ceil(H / 8) * ceil(W / 8), and summary [B, E].
    Raises: InputError for images of another size.
    Cost: for 3 x 48 x 48 pixels about 2 million multiplications an image.
    Source: Xu et al. 2015, ICML (attention over a grid); Liu et al. 2018, NeurIPS (coordinates); Wu & He 2018, ECCV.
    """

    read_at_every_step = True  # by the decoder, beside what it attends to: what an image shows does not change from word to word

    def __init__(
        self, image: tuple[int, int, int], memory: int, summary: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.image, self.memory_features, self.summary_features = image, memory, summary
        channels, height, width = image[0] + 2, image[1], image[2]
        blocks: list[nn.Module] = []
        for out in CHANNELS:
            blocks += [
                nn.Conv2d(channels, out, 3, stride=2, padding=1),
                nn.GroupNorm(out // _GROUP, out),
                nn.ReLU(),
            ]
            channels, height, width = out, -(-height // 2), -(-width // 2)
        self.grid = height, width
        self.convolutions = nn.Sequential(*blocks)
        self.outputs = nn.Linear(channels + 2, memory)
        self.dropout = nn.Dropout(dropout)
        self.reduce = nn.Linear(memory, _GROUP)
        self.summary = nn.Linear(2 * memory + _GROUP * height * width, summary)

    def forward(self, images: Tensor) -> Encoded:
        """Encode images."""
        if tuple(images.shape[1:]) != self.image:
            raise InputError(
                f"images must be {' x '.join(map(str, self.image))} (colors, rows, columns), got {list(images.shape[1:])}"
            )
        x = self.convolutions(_with_places(self._pixels(images)))
        outputs = self.outputs(_with_places(x).flatten(2).permute(2, 0, 1)).relu()
        each = self.reduce(outputs).relu().transpose(0, 1).flatten(1)
        pooled = torch.cat([outputs.amax(0), outputs.mean(0), each], dim=-1)
        return Encoded(self.dropout(outputs), None, self.summary(self.dropout(pooled)).relu(), None)

    def _pixels(self, images: Tensor) -> Tensor:
        x = images if images.is_floating_point() else images.to(self.summary.weight.dtype) / 255
        return 4 * (x - x.mean((1, 2, 3), keepdim=True))


def _with_places(x: Tensor) -> Tensor:
    """[B, C, H, W] and two channels more, the row and the column of each place, -1 to 1."""
    rows, columns = (torch.linspace(-1, 1, size, dtype=x.dtype, device=x.device) for size in x.shape[2:])
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return torch.cat([x, places.expand(len(x), -1, -1, -1)], dim=1)
