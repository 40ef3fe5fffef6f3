"""Shapes and padding, chosen and checked for what reshapes batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from resflow.errors import ConfigError
from resflow.geometry import Fit


def snapped_shape(ratio: float, resolution: float, stride: int) -> tuple[int, int]:
    """The shape of about a ratio and an area, each side the multiple of a stride that is nearest.

    Args:
        ratio: width over height.
        resolution: side of the square of equal area, pixels.
        stride: pixels.

    Returns:
        Height and width, at least one stride each.
    """
    sides = resolution / math.sqrt(ratio), resolution * math.sqrt(ratio)
    height, width = (max(1, math.floor(side / stride + 0.5)) * stride for side in sides)
    return height, width


def padding_fill(
    name: str, fill: float | Sequence[float] | None, fit: Fit, dtype: torch.dtype, channels: int
) -> Sequence[float] | float:
    """The value of padding in images.

    Args:
        name: of what pads, for the error.
        fill: what the user said; None takes `fit.fill`.
        fit: has the colour, 0 to 255.
        dtype: of the images; floating ones are taken to be in [0, 1].
        channels: of the images.

    Returns:
        One value, or one for each channel, in the images' range.

    Raises:
        ConfigError: no fill was given for images that are not red, green and blue.
    """
    if fill is not None:
        return fill
    if channels != 3:
        raise ConfigError(
            f"{name} pads with Fit.fill, which is red, green and blue; got images with {channels} channels. Pass "
            "fill=, in the images' own range."
        )
    return fit.fill if dtype == torch.uint8 else [colour / 255 for colour in fit.fill]
