"""Models of frames: each frame is encoded alone, the padding is never read, a cut changes nothing."""

from __future__ import annotations

import pytest
import torch

from throughtime.bptt import Full, Truncated
from throughtime.data import Batch
from throughtime.errors import InputError
from throughtime.models.build import layers
from throughtime.models.config import ModelConfig
from throughtime.models.frames import FrameEncoder, FrameModel
from throughtime.tasks.task import cross_entropy

FRAME = (5, 7, 2)  # odd sizes, two channels


def model_of(kind="cnn", **settings):
    torch.manual_seed(3)
    config = ModelConfig(**{"cell": "lstm", "hidden": 6, **settings})
    encoder = FrameEncoder(70, FRAME if kind == "cnn" else None, 9, kind)
    return FrameModel(encoder, layers(config, 9), config.outputs, 4).double()


def test_a_convolution_sees_the_image_as_it_is():
    encoder = FrameEncoder(70, FRAME, 9).double()
    frames = torch.randn(3, *FRAME, dtype=torch.float64)
    image = frames.permute(0, 3, 1, 2)  # channels first
    first, _, second, _ = encoder.convolutions
    hidden = torch.nn.functional.conv2d(image, first.weight, first.bias, stride=2, padding=1).relu()
    hidden = torch.nn.functional.conv2d(hidden, second.weight, second.bias, stride=2, padding=1).relu()
    expected = (hidden.reshape(3, -1) @ encoder.linear.weight.T + encoder.linear.bias).relu()
    torch.testing.assert_close(encoder(frames.flatten(1)), expected)


@pytest.mark.parametrize("kind", ["cnn", "linear"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_padding_is_never_read(kind, bidirectional):
    """NaN in it reaches no output and no gradient; each row is what it is alone. T == B."""
    model = model_of(kind, bidirectional=bidirectional)
    lengths, inputs = torch.tensor([4, 1, 3, 2]), torch.randn(4, 4, 70, dtype=torch.float64)
    targets = torch.randint(4, (4, 4))
    clean = Batch.of(inputs, targets, lengths)
    dirty = inputs.clone()
    for b, length in enumerate(lengths.tolist()):
        dirty[length:, b] = torch.nan
    batch = Batch.of(dirty, targets, lengths)
    gradients = []
    for each in (clean, batch):
        model.zero_grad()
        loss = cross_entropy(each.run(model)[0], each.targets)
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        assert bool(loss.isfinite())
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs) and bool(ours.abs().max() > 0)
    outputs, _ = batch.run(model)
    for b, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(outputs[:length, b], model(inputs[:length, b : b + 1])[0][:, 0])


def test_the_state_over_a_cut_equals_no_cut():
    model = model_of()
    inputs = torch.randn(7, 3, 70, dtype=torch.float64)
    whole, _ = model(inputs)
    first, state = model(inputs[:3])
    second, _ = model(inputs[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    batch = Batch.of(inputs, torch.randint(4, (7, 3)), [7, 2, 5])
    run = lambda window, state: window.run(model, state)  # noqa: E731
    loss = lambda outputs, window: cross_entropy(outputs, window.targets)  # noqa: E731
    found = []
    for strategy in (Full(), Truncated(7), Truncated(2)):
        model.zero_grad()
        strategy.backward(run, loss, batch)
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_what_cannot_be_built():
    with pytest.raises(InputError, match="the encoder cnn reads images, got vectors of numbers: use linear"):
        FrameEncoder(4, None, 3)
    with pytest.raises(InputError, match=r"encoder must be one of cnn, linear, got 'cn'. Did you mean 'cnn'"):
        FrameEncoder(4, (2, 2, 1), 3, "cn")
