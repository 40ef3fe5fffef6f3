"""From bytes of colour to numbers a model takes, on the batch's device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from resflow.checks import is_number
from resflow.errors import ConfigError

_FULL = {torch.uint8: 255, torch.uint16: 65_535}


@dataclass(frozen=True, slots=True)
class Normalize:
    """Subtract the mean and divide by the standard deviation, channel by channel.

    Args:
        mean: mean of red, green and blue, or of each of another number of channels, as shares of full intensity.
        std: standard deviation of the same, above 0.

    Raises:
        ConfigError: not as many means as standard deviations, or a standard deviation that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        mean, std = (tuple(v) if isinstance(v, Sequence) else () for v in (self.mean, self.std))
        if not mean or len(mean) != len(std) or not all(map(is_number, (*mean, *std))) or min(std) <= 0:
            raise ConfigError(
                "Normalize needs a mean and a positive std for each channel, as many of one as of the other; got "
                f"{self.mean!r} and {self.std!r}"
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def __call__(self, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Normalise images.

        Args:
            images: uint8, uint16, int16 or floating, [B, C, H, W], any memory format and device.
            dtype: floating dtype of the result; the arithmetic is float32.

        Returns:
            `dtype` [B, C, H, W], same memory format and device: (images - mean) / std, where uint8's 255 and uint16's
            65,535 count as 1.

        Raises:
            ConfigError: images of another number of channels.
        """
        if images.shape[1] != len(self.mean):
            raise ConfigError(f"Normalize has {len(self.mean)} means, and the images {images.shape[1]} channels")
        offset, factor = _constants(self.mean, self.std, _FULL.get(images.dtype, 1), images.device)
        floating = images.float()
        # In place where that is a copy anyway: memory that is touched for the first time costs as much as the sums.
        out = None if floating is images else floating
        return torch.addcmul(offset, floating, factor, out=out).to(dtype)


@functools.lru_cache(64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], full: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Offset and factor [1, C, 1, 1] on the device; made once, since making them waits for it."""
    with torch.inference_mode(False):  # what is made in that mode could not be used outside
        centre, spread = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))
        return -centre / spread, 1 / (full * spread)


IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's training images, as torchvision's pretrained models expect."""

UNIT = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Intensities as shares of full intensity, in [0, 1]."""
