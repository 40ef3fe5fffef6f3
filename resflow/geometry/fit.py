"""How an image of one aspect ratio is placed into a shape of another: one number joins padding and cropping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resflow.checks import is_number, whole
from resflow.errors import ConfigError
from resflow.geometry.affine import Geometry, Matrices, scale_translate


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Scale an image as far towards covering the shape as loses at most the share `max_crop` of it; pad the rest.

    `Fit()` pads and never crops (letterbox); `Fit(max_crop=1)` covers the shape and crops (centre crop). Both axes are
    scaled alike but for the rounding of padded sides to whole pixels, so that image and padding meet at a pixel's edge.

    Args:
        max_crop: largest share of an image's area that may be cut off, in [0, 1].
        max_upscale: largest enlargement of a side (1.0: never enlarge), or None for no limit.
        fill: red, green and blue of the padding, 0 to 255.
        short_side: scale so that the short side is so many pixels, whatever the shape, and cut out its centre:
            torchvision's `Resize(short_side)`, `CenterCrop`. Goes with no other limit.

    Raises:
        ConfigError: a value out of its range.
    """

    max_crop: float = 0.0
    max_upscale: float | None = None
    fill: tuple[int, int, int] = (124, 116, 104)
    stretched: bool = False
    short_side: int | None = None

    def __post_init__(self) -> None:
        if not is_number(self.max_crop) or not 0 <= self.max_crop <= 1:
            raise ConfigError(f"Fit.max_crop must be in [0, 1]; got {self.max_crop!r}")
        if self.max_upscale is not None and not (is_number(self.max_upscale) and self.max_upscale > 0):
            raise ConfigError(f"Fit.max_upscale must be above 0, or None for no limit; got {self.max_upscale!r}")
        fill = tuple(self.fill) if isinstance(self.fill, Sequence) else ()
        if len(fill) != 3 or any(whole(c, 0, 255) is None for c in fill):
            raise ConfigError(f"Fit.fill must be three integers from 0 to 255 (red, green, blue); got {self.fill!r}")
        object.__setattr__(self, "fill", tuple(map(int, fill)))
        if self.stretched and (self.max_crop or self.max_upscale is not None):
            raise ConfigError("Fit.stretch() neither pads nor crops, so max_crop and max_upscale have no place in it")
        if self.short_side is None:
            return
        if (side := whole(self.short_side, 1)) is None:
            raise ConfigError(f"Fit.short_side must be a whole number of pixels above 0; got {self.short_side!r}")
        object.__setattr__(self, "short_side", side)
        if self.stretched or self.max_crop or self.max_upscale is not None:
            raise ConfigError("Fit.short_side decides the scale, so it can't be combined with the other limits")

    @classmethod
    def stretch(cls) -> Fit:
        """Fill the shape by scaling each axis on its own: no padding, no cropping, distorted images."""
        return cls(stretched=True)

    def place(self, size: npt.NDArray[np.int32], shape: tuple[int, int]) -> Matrices:
        """Matrices that place images into a shape.

        Args:
            size: int32 [B, 2], height and width of the images in pixels.
            shape: height and width of the batch in pixels.

        Returns:
            float64 [B, 3, 3], source pixels to output pixels.
        """
        room = np.asarray(shape, dtype=np.float64)  # [2]
        if self.short_side is not None:
            # as torchvision rounds: the long side is cut to whole pixels, the place of the crop goes to the even one
            placed = (size.astype(np.int64) * self.short_side // size.min(axis=1, keepdims=True)).astype(np.float64)
            spare = (room - placed) / 2
            return scale_translate(
                (placed / size)[:, ::-1], np.where(spare > 0, np.floor(spare), np.rint(spare))[:, ::-1]
            )
        if self.stretched:
            placed = np.broadcast_to(room, size.shape).copy()  # [B, 2]
        else:
            ratio = room / size  # [B, 2]
            contain, cover = ratio.min(axis=1), ratio.max(axis=1)
            enlarged = contain / (1 - self.max_crop) if self.max_crop < 1 else cover
            scale = np.minimum(cover, enlarged)
            if self.max_upscale is not None:
                scale = np.minimum(scale, self.max_upscale)
            placed = scale[:, None] * size
            padded = np.clip(np.round(placed), 1, room)
            placed = np.where(placed < room + 1e-6, padded, placed)
        offset = (room - placed) / 2
        offset = np.where(placed <= room, np.floor(offset), offset)
        return scale_translate((placed / size)[:, ::-1], offset[:, ::-1])


def coverage(geometry: Geometry) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What a batch's placement costs.

    Args:
        geometry: the batch's placement.

    Returns:
        padded: float64 [B], share of the output's pixels that show no image, in [0, 1].
        cropped: float64 [B], share of the image's area that the output does not show, in [0, 1].
    """
    visible = geometry.valid_pixels().astype(np.float64)
    height, width = geometry.output_size
    source_area = geometry.source_size.prod(axis=1) * np.abs(np.linalg.det(geometry.matrix[:, :2, :2]))
    return 1 - visible / (height * width), np.clip(1 - visible / source_area, 0, 1)
