"""What conversion and normalisation make of each of the 256 levels, by the user's own operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from resflow.decode.planes import to_planes
from resflow.fusion.lazy import Pixels
from resflow.fusion.split import Step

_CHANNELS = {"RGB": 3, "L": 1}
_LEVELS = np.arange(256, dtype=np.uint8)


class LevelTable:
    """Conversion steps that look at one value of one channel at a time, as a table.

    Args:
        values: [C, 256], what each level of each channel becomes.
        is_image: whether the steps give a `tv_tensors.Image`.
    """

    def __init__(self, values: torch.Tensor, is_image: bool) -> None:
        self.dtype, self.is_image = values.dtype, is_image
        self._values = np.ascontiguousarray(values.numpy())
        self._plain = self.dtype == torch.uint8 and bool((self._values == _LEVELS).all())

    @property
    def channels(self) -> int:
        """Of the images it is for."""
        return len(self._values)

    def write(self, pixels: Pixels, out: torch.Tensor) -> None:
        """Write an image.

        Args:
            pixels: uint8 [H, W, C] or, of one channel, [H, W].
            out: [C, H, W] of `dtype`, contiguous.
        """
        planes = out.numpy()
        if self.channels == 3 and self.dtype == torch.float32:
            to_planes(pixels, planes, self._values)
        elif self.channels == 3 and self._plain:
            to_planes(pixels, planes)
        else:
            pixels = pixels if pixels.ndim == 3 else pixels[..., None]
            for channel, values in enumerate(self._values):
                np.take(values, pixels[..., channel], out=planes[channel], mode="clip")


def level_table(steps: Sequence[Step], mode: str) -> LevelTable | None:
    """The table of conversion steps; None where they make no tensor of one.

    Args:
        steps: `Split.convert`.
        mode: of the PIL images they are given.
    """
    channels = _CHANNELS.get(mode)
    if channels is None or not steps:
        return None
    levels = _LEVELS[None] if channels == 1 else np.repeat(_LEVELS[None, :, None], channels, axis=2)
    found: Any = Image.fromarray(np.ascontiguousarray(levels))  # [1, 256] or [1, 256, 3]
    for step in steps:
        found = step(found)
    if not isinstance(found, torch.Tensor) or found.shape != (channels, 1, 256) or found.device.type != "cpu":
        return None
    if found.dtype not in (torch.uint8, torch.float32, torch.float16, torch.float64):
        return None
    return LevelTable(found.as_subclass(torch.Tensor)[:, 0], isinstance(found, tv_tensors.Image))
