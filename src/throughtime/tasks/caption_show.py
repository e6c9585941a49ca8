"""Where in an image each word of its caption comes from: in the terminal, and as a picture."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.layers.eval_mode import evaluating

_BLOCKS, _PLAIN = " ·░▒▓█", " .:+x#"
_MOST = 40  # words that are shown


def shown(
    model: Any, image: Tensor, symbols: Sequence[int], words: Sequence[str], picture: str | None, start: int
) -> str:
    """The caption, and under each word a map of the grid that the encoder makes of the image, as text.

    The first map is the attention with which the word was written; the second, how much its log-probability changes with the
    pixels of each place. Without attention there is the second alone. With `picture` both are drawn over the image, to a file.
    Args: model, an `EncoderDecoder` with an `ImageEncoder`; image, bytes [C, H, W]; symbols, the caption; words, by symbol.
    Raises: InputError where `picture` cannot be drawn.
    """
    names = [words[symbol] for symbol in symbols][:_MOST]
    rows, columns = model.encoder.grid
    influence = pixel_influence(model, image, symbols, start)[: len(names)]
    maps = {"influence": _on_grid(influence, rows, columns)}
    if model.attention is not None:
        read = torch.tensor([start, *symbols[:-1]], device=_device(model))[:, None]
        with evaluating(model), torch.inference_mode():
            weights = model.alignment(read, image[None].to(read.device))[: len(names), 0]
        maps = {"attention": weights.view(-1, rows, columns).cpu(), **maps}
    if picture is not None:
        draw(picture, image, names, maps)
    return "\n".join([" ".join(names), *_text(names, maps)])


def pixel_influence(model: Any, image: Tensor, symbols: Sequence[int], start: int) -> Tensor:
    """|d log p(word) / d pixel| of each word of a caption, [T, H, W], the norm over colors; pixels count 0 to 1.

    Args: image, bytes [C, H, W] or numbers 0 to 1. Cost: one backward pass for each word.
    Source: Simonyan, Vedaldi & Zisserman 2014, ICLR workshop.
    """
    parameter = next(model.parameters())
    device = parameter.device
    pixels = image.to(parameter) / (1 if image.is_floating_point() else 255)
    pixels.requires_grad_()
    read = torch.tensor([start, *symbols[:-1]], device=device)[:, None]
    # cuDNN has no backward pass for a network in evaluation mode; torch's own kernels do.
    with evaluating(model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        logits, _ = model(read, context=pixels[None])
        chosen = logits[:, 0].log_softmax(-1)[torch.arange(len(symbols)), list(symbols)]
        found = [torch.autograd.grad(each, pixels, retain_graph=True)[0] for each in chosen]
    return torch.stack(found).square().sum(1).sqrt().cpu()


def draw(path: str, image: Tensor, names: Sequence[str], maps: dict[str, Tensor]) -> None:
    """Write the image, and for each word each of its maps over it, as PNG, SVG or PDF."""
    from throughtime.flow import drawing

    drawing.check(path, picture=True)
    pixels = image.permute(1, 2, 0).float().numpy(force=True) / 255
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    height, width = pixels.shape[:2]
    across = min(6, len(names) + 1)
    down = math.ceil((len(names) + 1) / across) * len(maps)
    with drawing.style():
        fig = drawing.figure(1.15 * across + 0.4, 1.3 * down)
        axes = fig.subplots(down, across, squeeze=False)
        for each in axes.flat:
            each.set_axis_off()
        for place, name in enumerate(["", *names]):
            for which, (kind, found) in enumerate(maps.items()):
                axis = axes[place // across * len(maps) + which][place % across]
                axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                if not name:
                    axis.set_title(f"image; {kind}:" if place == 0 else kind, fontsize=8)
                    continue
                one = found[place - 1]
                axis.imshow(
                    (one / one.max().clamp(min=1e-12)).numpy(), cmap="inferno", alpha=0.65, vmin=0, vmax=1,
                    extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest",
                )  # fmt: skip
                axis.set_title(drawing.drawable(name), fontsize=8, family=drawing.symbol_fonts())
    drawing.save(fig, path)


def _on_grid(values: Tensor, rows: int, columns: int) -> Tensor:
    """The norm of [T, H, W] over the pixels of each place of a grid, [T, rows, columns]."""
    squares = torch.nn.functional.adaptive_avg_pool2d(values.square(), (rows, columns))
    return squares.sqrt()


def _text(names: Sequence[str], maps: dict[str, Tensor]) -> list[str]:
    """The maps of the words side by side, as many as fit into the terminal."""
    marks = _BLOCKS if _can_print(_BLOCKS) else _PLAIN
    columns = next(iter(maps.values())).shape[2]
    cell = max(2 * columns, max(map(len, names))) + 2
    label = max(map(len, maps)) + 2
    together = max(1, (shutil.get_terminal_size().columns - label) // cell)
    lines = []
    for first in range(0, len(names), together):
        group = range(first, min(first + together, len(names)))
        lines += ["", " " * label + "".join(names[number].ljust(cell) for number in group).rstrip()]
        for kind, found in maps.items():
            for row in range(found.shape[1]):
                cells = "".join(_marks(found[number], row, marks).ljust(cell) for number in group)
                lines.append(f"{kind if row == 0 else '':<{label}}{cells}".rstrip())
            lines.append("")
        lines.pop()
    lines.append("\nEach map is relative to its largest value: " + ", ".join(
        f"{mark} {place / (len(marks) - 1):.0%}" for place, mark in enumerate(marks) if place
    ))  # fmt: skip
    return lines


def _marks(one: Tensor, row: int, marks: str) -> str:
    top = float(one.max())
    relative = (one[row] / top if top > 0 else one[row]).tolist()
    return "".join(2 * marks[round(value * (len(marks) - 1))] for value in relative)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _device(model: Any) -> torch.device:
    found: torch.device = next(model.parameters()).device
    return found
