"""resize_linear and resize_position_embedding: what is kept, and how closely."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models.vision_transformer import interpolate_embeddings

from resflow.errors import ConfigError
from resflow.models import resize_linear, resize_position_embedding
from tests.models.networks import torchvision_model

SIZES = [
    ((7, 7), (14, 14)),
    ((14, 14), (7, 7)),
    ((7, 7), (10, 12)),
    ((25, 25), (50, 50)),
    ((6, 9), (9, 5)),
    ((1, 1), (3, 2)),
]


def layer(size: tuple[int, int], outputs: int = 64, channels: int = 3) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(channels * size[0] * size[1], outputs, dtype=torch.float64)


def waves(size: tuple[int, int], half_waves: float, channels: int = 3) -> torch.Tensor:
    """float64 [phases, C h w]: a cosine of so many half waves across the map, sampled where pixels' centres lie."""
    y, x = ((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in size)
    maps = []
    for phase in (0.0, 0.7, 1.4):
        plane = torch.cos(math.pi * half_waves * y + phase)[:, None] * torch.cos(math.pi * half_waves * x + 0.3)
        maps.append(torch.stack([plane * (c + 1) for c in range(channels)]).flatten())
    return torch.stack(maps)


def change(fc: nn.Linear, resized: nn.Linear, old: tuple[int, int], new: tuple[int, int], half_waves: float) -> float:
    """Change of the response to smooth maps, root mean square over units and phases, as a share of the response."""
    with torch.no_grad():
        was = fc(waves(old, half_waves)) - fc.bias
        now = resized(waves(new, half_waves)) - resized.bias
    return float(((now - was).square().mean() / was.square().mean()).sqrt())


@pytest.mark.parametrize(("old", "new"), SIZES, ids=str)
def test_the_response_to_constant_maps_is_kept(old: tuple[int, int], new: tuple[int, int]) -> None:
    fc = layer(old)
    resized = resize_linear(fc, old, new)
    level = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        was = fc(level.repeat_interleave(old[0] * old[1]))
        now = resized(level.repeat_interleave(new[0] * new[1]))
    assert torch.allclose(was, now, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "half", "whole"),
    [
        (7, 14, 0.006, 0.03),
        (25, 50, 0.001, 0.002),
        (50, 100, 0.0004, 0.0007),
        (50, 25, 0.007, 0.012),
        (14, 7, 0.04, 0.1),
    ],
)
def test_the_response_to_smooth_maps_is_nearly_kept(old: int, new: int, half: float, whole: float) -> None:
    fc = layer((old, old))
    resized = resize_linear(fc, old, new)
    assert change(fc, resized, (old, old), (new, new), 1.0) < half
    assert change(fc, resized, (old, old), (new, new), 2.0) < whole


@pytest.mark.parametrize(("old", "new"), [((25, 25), (50, 50)), ((20, 30), (33, 45)), ((13, 13), (25, 25))], ids=str)
def test_smooth_weights_come_back(old: tuple[int, int], new: tuple[int, int]) -> None:
    fc = layer(old, outputs=9)
    with torch.no_grad():
        fc.weight.copy_(torch.cat([waves(old, half_waves) for half_waves in (0.5, 1.0, 2.0)]))
    back = resize_linear(resize_linear(fc, old, new), new, old)
    assert ((back.weight - fc.weight).norm() / fc.weight.norm()).item() < 0.015


def test_planted_faults_are_caught() -> None:
    old, new = (7, 7), (14, 14)
    fc = layer(old)
    sound = resize_linear(fc, old, new)
    assert change(fc, sound, old, new, 1.0) < 0.006
    with torch.no_grad():
        unscaled, flipped, nearest = (resize_linear(fc, old, new) for _ in range(3))
        unscaled.weight.mul_(4.0)
        flipped.weight.copy_(sound.weight.view(-1, 3, 14, 14).transpose(2, 3).flatten(1))
        cornered = torch.nn.functional.interpolate(
            fc.weight.view(-1, 3, 7, 7), size=new, mode="bicubic", align_corners=True
        )
        nearest.weight.copy_((cornered / 4).flatten(1))
    for planted in (unscaled, flipped, nearest):
        assert change(fc, planted, old, new, 1.0) > 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_bias_and_flags_stay(dtype: torch.dtype) -> None:
    fc = nn.Linear(2 * 4 * 6, 5, dtype=dtype).eval()
    fc.weight.requires_grad_(False)
    resized = resize_linear(fc, (4, 6), (8, 9))
    assert (resized.in_features, resized.out_features) == (2 * 8 * 9, 5)
    assert resized.weight.shape == (5, 2 * 8 * 9)
    assert resized.weight.dtype == dtype
    assert torch.equal(resized.bias, fc.bias)
    assert resized.bias.data_ptr() != fc.bias.data_ptr()
    assert not resized.weight.requires_grad
    assert resized.bias.requires_grad
    assert not resized.training
    exact = resize_linear(fc.double(), (4, 6), (8, 9))
    assert torch.allclose(resized.weight.double(), exact.weight, atol=float(torch.finfo(dtype).eps))


def test_the_same_size_gives_the_same_bits() -> None:
    fc = nn.Linear(3 * 25, 4, bias=False)
    same = resize_linear(fc, 5, (5, 5))
    assert torch.equal(same.weight, fc.weight)
    assert same.bias is None
    assert same.weight.data_ptr() != fc.weight.data_ptr()


def test_wrong_sizes() -> None:
    with pytest.raises(
        ConfigError, match=r"in_features 48 is no multiple of old 5x5 = 25\. `old` is the size of the map"
    ):
        resize_linear(nn.Linear(48, 2), 5, 10)
    with pytest.raises(ConfigError, match=r"new must be a whole number above 0, or two of them .*; got \(4, 0\)"):
        resize_linear(nn.Linear(48, 2), 4, (4, 0))
    with pytest.raises(ConfigError, match=r"resize_linear takes a torch\.nn\.Linear; got Conv2d"):
        resize_linear(nn.Conv2d(1, 1, 1), 4, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(("old", "new"), [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((7, 10), (12, 6))], ids=str)
def test_embeddings_are_resized_as_pillow_resizes(old: tuple[int, int], new: tuple[int, int]) -> None:
    """Pillow resizes one plane of float32 at a time: bicubic, antialiased, by pixel edges."""
    tokens = torch.randn(1, 2 + old[0] * old[1], 5, generator=torch.Generator().manual_seed(1))
    got = resize_position_embedding(tokens, old, new, prefix=2)
    assert torch.equal(got[:, :2], tokens[:, :2]), "what stands before"
    for channel in range(5):
        plane = Image.fromarray(tokens[0, 2:, channel].reshape(old).numpy())
        expected = np.asarray(plane.resize((new[1], new[0]), Image.Resampling.BICUBIC))
        assert np.abs(got[0, 2:, channel].reshape(new).numpy() - expected).max() < 1e-5


def test_embeddings_beside_torchvisions() -> None:
    """torchvision pins corners, so only what does not depend on that agrees: layout, class token, constants, ends."""
    grid = torch.arange(5.0).repeat(49, 1)  # constant over space, one value a channel
    tokens = torch.cat([torch.full((1, 5), 9.0), grid])[None]
    state = {"encoder.pos_embedding": tokens}
    theirs = interpolate_embeddings(160, 16, dict(state))["encoder.pos_embedding"]
    ours = resize_position_embedding(tokens, 7, 10)
    assert torch.allclose(ours, theirs, atol=1e-5)
    tokens = torch.randn(1, 50, 5)
    assert torch.equal(
        resize_position_embedding(tokens, 7, 7),
        interpolate_embeddings(112, 16, {"encoder.pos_embedding": tokens})["encoder.pos_embedding"],
    )
    rows = torch.linspace(0, 1, 7)[:, None, None].expand(7, 7, 5).reshape(1, 49, 5)  # a ramp down the image
    tokens = torch.cat([torch.zeros(1, 1, 5), rows], dim=1)
    theirs = interpolate_embeddings(224, 16, {"encoder.pos_embedding": tokens})["encoder.pos_embedding"]
    ours = resize_position_embedding(tokens, 7, 14)
    difference = (ours - theirs)[0, 1:].reshape(14, 14, 5)
    assert difference.abs().amax(dim=(1, 2))[6:8].max() < 0.01, "in the middle both conventions agree"
    assert difference.abs().max() > 0.01, "off the middle they do not"


def small_transformer(size: int = 32) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.VisionTransformer(size, 8, 1, 2, 16, 32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model.eval()


def test_a_transformer_takes_the_new_size() -> None:
    model = small_transformer()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model(image)
        assert torch.equal(resize_position_embedding(model, 32, 32)(image), before)
        assert resize_position_embedding(model, None, 48) is model
        assert model(torch.rand(2, 3, 48, 48)).shape == (2, 3)
    assert (model.image_size, model.seq_length) == (48, 37)
    assert isinstance(model.encoder.pos_embedding, nn.Parameter)
    fresh = torchvision.models.VisionTransformer(48, 8, 1, 2, 16, 32, num_classes=3)
    fresh.load_state_dict(model.state_dict())


def test_a_transformer_says_what_it_cannot_take() -> None:
    with pytest.raises(ConfigError, match="old is 64, but the model takes images of 32x32"):
        resize_position_embedding(small_transformer(), 64, 96)
    with pytest.raises(ConfigError, match=r"multiple of its patch of 8 pixels; got 36x36\. adapt_classifier makes"):
        resize_position_embedding(small_transformer(), 32, 36)
    with pytest.raises(ConfigError, match=r"takes a tensor .* or torchvision's VisionTransformer; got ResNet"):
        resize_position_embedding(torchvision_model("resnet18"), 224, 256)
    with pytest.raises(
        ConfigError, match=r"a grid of 4x4 patches after 1 others needs a tensor \[1, 17, D\]; got \[1, 16, 8\]"
    ):
        resize_position_embedding(torch.zeros(1, 16, 8), 4, 8)
