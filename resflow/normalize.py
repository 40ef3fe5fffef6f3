"""From bytes of colour to numbers a model takes, on the batch's device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from resflow.checks import is_number
from resflow.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Normalize:
    """Subtract the mean and divide by the standard deviation, channel by channel.

    Args:
        mean: mean of red, green and blue, as shares of full intensity.
        std: standard deviation of red, green and blue, as shares of full intensity, above 0.

    Raises:
        ConfigError: not three numbers each, or a standard deviation that is not positive.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        mean, std = (tuple(v) if isinstance(v, Sequence) else () for v in (self.mean, self.std))
        if len(mean) != 3 or len(std) != 3 or not all(map(is_number, (*mean, *std))) or min(std) <= 0:
            raise ConfigError(
                f"Normalize needs three means and three positive stds; got {self.mean!r} and {self.std!r}"
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def __call__(self, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Normalise images.

        Args:
            images: uint8, or floating in [0, 1], [B, 3, H, W], any memory format and device.
            dtype: floating dtype of the result; the arithmetic is float32.

        Returns:
            `dtype` [B, 3, H, W], same memory format and device: (images - mean) / std, where uint8's 255 counts as 1.
        """
        offset, factor = _constants(self.mean, self.std, 1 if images.is_floating_point() else 255, images.device)
        floating = images.float()
        # In place where that is a copy anyway: memory that is touched for the first time costs as much as the sums.
        out = None if floating is images else floating
        return torch.addcmul(offset, floating, factor, out=out).to(dtype)


@functools.lru_cache(64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], full: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Offset and factor [1, 3, 1, 1] on the device; made once, since making them waits for it."""
    with torch.inference_mode(False):  # what is made in that mode could not be used outside
        centre, spread = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
        return -centre / spread, 1 / (full * spread)


IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's training images, as torchvision's pretrained models expect."""

UNIT = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Intensities as shares of full intensity, in [0, 1]."""
