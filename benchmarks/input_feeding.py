"""A training step with attention outside the recurrence (Luong's form), and one with input feeding.

`python -m benchmarks.input_feeding`. Both read the same batch; without input feeding all steps of the target run in one call.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.bench.timing import interleave
from throughtime.data.batch import Source
from throughtime.models.build import encoder_decoder, sequence_encoder, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.models.encoder_decoder import EncoderDecoder

SIZES = ((4000, 256, 128, 128, 14), (300, 128, 64, 64, 30))  # symbols, hidden, embedding, batch, steps


def model(symbols: int, hidden: int, embedding: int, feeding: bool) -> EncoderDecoder:
    """In training mode; both forms have the weights of one seed."""
    torch.manual_seed(0)
    config = ModelConfig(cell="gru", hidden=hidden, embedding=embedding, bidirectional=True)
    encoder = sequence_encoder(config, symbol_embedding(config, symbols))
    written = symbol_embedding(config, symbols)
    return encoder_decoder(config, encoder, written, symbols, input_feeding=feeding).train()


def step(model: EncoderDecoder, source: Source, written: Tensor) -> None:
    """Forward and backward."""
    model.zero_grad()
    logits, _ = model(written, None, None, source)
    F.cross_entropy(logits.flatten(0, 1), written.flatten()).backward()


def main() -> None:
    """Print the medians of both and their ratio for each size, on one thread."""
    torch.set_num_threads(1)
    for symbols, hidden, embedding, batch, steps in SIZES:
        source = Source(torch.randint(2, symbols, (batch, steps)), torch.full((batch,), steps))
        written = torch.randint(2, symbols, (steps, batch))
        sides = {
            name: partial(step, model(symbols, hidden, embedding, name == "feeding"), source, written)
            for name in ("outside", "feeding")
        }
        times = interleave(sides, seconds=3.0, least=7)
        one, other = (times[name].median for name in sides)
        print(
            f"{symbols:,} symbols, {hidden} units, batch {batch}, {steps} steps: outside {one * 1e3:.1f} ms, input feeding "
            f"{other * 1e3:.1f} ms, ratio {other / one:.2f}"
        )


if __name__ == "__main__":
    main()
