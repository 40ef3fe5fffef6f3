from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional

from resflow.errors import ConfigError
from resflow.normalize import IMAGENET, UNIT, Normalize


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_normalisation_is_torchvisions(dtype: torch.dtype, tolerance: float) -> None:
    images = torch.randint(0, 256, (4, 3, 17, 19), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    expected = functional.normalize(functional.to_dtype(images, torch.float32, scale=True), *_imagenet())
    result = IMAGENET(images, dtype)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.float(), expected, atol=tolerance, rtol=tolerance)


def _imagenet() -> tuple[list[float], list[float]]:
    return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def test_unit_gives_shares_of_full_intensity() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(UNIT(images, torch.float32).flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_a_zero_deviation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a positive std for each channel.*got \(0, 0, 0\) and \(1, 0, 1\)"):
        Normalize(mean=(0, 0, 0), std=(1, 0, 1))


@pytest.mark.parametrize(
    ("mean", "std"), [("abc", "def"), (0.5, 0.5), ((float("nan"), 0, 0), (1, 1, 1)), ((0, 0), (1, 1, 1))]
)
def test_what_is_not_a_mean_and_a_std_per_channel_is_refused(mean: object, std: object) -> None:
    with pytest.raises(ConfigError, match="Normalize needs a mean and a positive std for each channel"):
        Normalize(mean=mean, std=std)
