"""Dynamic padding and cropping as a Kornia augmentation, for batches of any loader."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from resflow.augment.reshaping import ShapeOperation
from resflow.augment.shape import snapped_shape
from resflow.checks import check_whole
from resflow.errors import ConfigError
from resflow.geometry import Fit
from resflow.plan import Buckets


class DynamicPadCrop(ShapeOperation):
    """Pad, crop and scale a batch into a shape, by one number for padding and cropping (`Fit`).

    The shape is the one given; or else it follows the batch: of the `buckets`, the one that the batch's ratio belongs
    to; or, without buckets, the shape of the batch's ratio and of the area of `resolution`, both sides multiples of
    `stride`; or, without a resolution either, the same of the batch's own area, so that its sides become multiples of
    `stride` and little else changes.

    It is used as Kornia's own: alone on floating [B, C, H, W] or in an `AugmentationSequential` with `data_keys`.

    Args:
        shape: height and width in pixels; None lets them follow the batch.
        resolution: side of the square of equal area, pixels; with buckets one of theirs, by default their largest.
        stride: pixels; of no meaning with a shape or buckets.
        buckets: shapes to choose from.
        fit: how images are placed into the shape.
        fill: value of padding in images, in their own range, one or one for each channel; None takes `fit.fill` / 255,
            which suits images in [0, 1] (not normalised ones) of three channels.
        mask_fill: value of padding in masks; `extra_args={DataKey.MASK: {"resample": "nearest", "mask_fill": 255}}`
            of a container says otherwise.
        keepdim: give images without a batch axis back without one.

    Raises:
        ConfigError: an argument is out of range, or a shape is given together with what would choose one.
    """

    def __init__(
        self,
        shape: tuple[int, int] | None = None,
        *,
        resolution: int | None = None,
        stride: int = 32,
        buckets: Buckets | None = None,
        fit: Fit = Fit(),  # noqa: B008  (frozen)
        fill: float | Sequence[float] | None = None,
        mask_fill: float = 0.0,
        keepdim: bool = False,
    ) -> None:
        super().__init__(fit, fill, mask_fill, keepdim)
        if shape is not None:
            if resolution is not None or buckets is not None:
                raise ConfigError("DynamicPadCrop takes a shape, or a resolution and buckets to choose one; got both")
            if not isinstance(shape, Sequence) or len(shape) != 2:
                raise ConfigError(f"DynamicPadCrop.shape must be a height and a width in pixels; got {shape!r}")
            shape = (check_whole("DynamicPadCrop.shape", shape[0]), check_whole("DynamicPadCrop.shape", shape[1]))
        if resolution is not None:
            resolution = check_whole("DynamicPadCrop.resolution", resolution)
        if buckets is not None:
            resolution = int(buckets.resolutions[-1]) if resolution is None else resolution
            buckets.shape(0, resolution)  # refuses a resolution that the buckets do not have
        self.shape, self.resolution, self.buckets = shape, resolution, buckets
        self.stride = check_whole("DynamicPadCrop.stride", stride)

    def choose(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the batch that comes out.

        Args:
            size: height and width of the batch that goes in.
        """
        if self.shape is not None:
            return self.shape
        if self.buckets is not None:
            bucket = int(self.buckets.assign(np.array([size], dtype=np.int32))[0])
            return self.buckets.shape(bucket, int(self.resolution or 0))
        resolution = math.sqrt(size[0] * size[1]) if self.resolution is None else self.resolution
        return snapped_shape(size[1] / size[0], resolution, self.stride)
