"""An image as a grid and a summary: the same whatever is beside it, of any size, from bytes or numbers."""

from __future__ import annotations

import pytest
import torch

from throughtime.errors import InputError
from throughtime.models.build import encoder_decoder, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.models.image_encoder import ImageEncoder


@pytest.fixture
def images():
    return torch.randint(
        0, 256, (5, 3, 19, 26), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture
def encoder():
    torch.manual_seed(1)
    return ImageEncoder((3, 19, 26), 7, 11, dropout=0.3)


def test_grid_and_summary(encoder, images):
    encoder.eval()
    found = encoder(images)
    assert encoder.grid == (3, 4) and found.outputs.shape == (12, 5, 7) and found.summary.shape == (5, 11)
    assert found.lengths is None and found.state is None
    alone = [encoder(image[None]) for image in images]
    assert torch.allclose(found.summary, torch.cat([each.summary for each in alone]), atol=1e-5)
    assert torch.allclose(found.outputs, torch.cat([each.outputs for each in alone], 1), atol=1e-5)
    again = encoder(images.float() / 255)
    assert torch.equal(again.summary, found.summary) and torch.equal(again.outputs, found.outputs)


def test_a_place_of_the_grid_is_a_place_of_the_image(encoder, images):
    """What changes at the upper left changes the first place, and the last only by way of the normalization."""
    encoder.eval()
    for number in (1, 4, 7):
        encoder.convolutions[number] = torch.nn.Identity()
    changed = images.clone()
    changed[:, :, 1, 1] = 255 - changed[:, :, 1, 1]
    difference = (encoder._pixels(changed) - encoder._pixels(images)).abs().amax((0, 1))
    assert difference[1, 1] > 10 * difference[5, 5]
    before = encoder(images).outputs
    with torch.no_grad():
        shifted = (encoder(changed).outputs - before).abs().amax((1, 2))
    assert shifted[0] > 10 * shifted[-1]


def test_the_place_is_seen(encoder):
    """The same spot elsewhere is another summary: an average over places alone could not say left or right."""
    encoder.eval()
    left, right = torch.zeros(2, 1, 3, 19, 26)
    left[..., 9, 5], right[..., 9, 21] = 1, 1
    assert not torch.allclose(encoder(left).summary, encoder(right).summary, atol=1e-3)


def test_other_sizes_are_refused(encoder, images):
    with pytest.raises(
        InputError, match=r"images must be 3 x 19 x 26 \(colors, rows, columns\), got \[3, 26, 19\]"
    ):
        encoder(images.transpose(2, 3))


@pytest.mark.parametrize("attention", ["none", "dot", "general", "additive"])
def test_a_decoder_reads_it(images, attention):
    config = ModelConfig(cell="gru", hidden=7, embedding=5)
    torch.manual_seed(2)
    model = encoder_decoder(
        config, ImageEncoder((3, 19, 26), 7, 7), symbol_embedding(config, 9), 9, attention=attention
    )
    model.eval()
    inputs = torch.arange(35).view(7, 5) % 9  # T = 7, B = 5
    logits, _ = model(inputs, context=images)
    state, by_step = model.begin(images), []
    for symbols in inputs:
        out, state = model.step(state, symbols)
        by_step.append(out)
    assert torch.allclose(logits, torch.stack(by_step), atol=1e-5)
    # Every step reads the summary, so another image changes the first word and the last.
    others, _ = model(inputs, context=images.flip(0))
    assert (logits - others).abs().amax(-1).min(0).values[0] > 1e-4
    if attention != "none":
        weights = model.alignment(inputs, images)
        assert weights.shape == (7, 5, 12) and torch.allclose(weights.sum(-1), torch.ones(7, 5))
