"""A module that takes images of many sizes and makes one batch of them, of a shape that suits them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from resflow.augment.place import place_pixels
from resflow.augment.shape import padding_fill, snapped_shape
from resflow.checks import check_whole
from resflow.errors import ConfigError
from resflow.geometry import Fit, Geometry
from resflow.geometry.affine import scale_translate


class DynamicInput(nn.Module):
    """Pad small images, crop all to one ratio, and scale them to one shape: a batch of any ragged list.

    1. Sides shorter than `min_side` are padded to it, the image in the middle.
    2. All are cropped about their middle to one ratio: half-way between the least and the greatest of the batch, on the
       scale of log ratio, so that portrait and landscape are treated alike (their geometric mean: of 1:2 and 2:1, 1:1).
    3. All are scaled, antialiased and undistorted, to the shape of that ratio and of the area of `base` x `base`, both
       sides multiples of `stride`; the crop is to the ratio of that shape.

    All of it is one matrix an image, so pixels are resampled once; the padding is outside the source, not blended with
    it. Nothing is learned and there is no state.

    Args:
        base: side of the square of equal area, pixels.
        min_side: least side of an image before it is scaled, source pixels; None takes `stride`.
        stride: of the model, pixels; heights and widths are its multiples.
        fit: how images are placed into the shape: by default all is cropped and nothing padded; a smaller `max_crop`
            pads what it forbids to cut off.
        fill: value of padding, in the images' own range, one or one for each channel; None takes `fit.fill`, over 255
            for floating images, for three channels.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        base: int = 224,
        *,
        min_side: int | None = None,
        stride: int = 32,
        fit: Fit = Fit(max_crop=1.0),  # noqa: B008  (frozen)
        fill: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.base = check_whole("DynamicInput.base", base)
        self.stride = check_whole("DynamicInput.stride", stride)
        self.min_side = self.stride if min_side is None else check_whole("DynamicInput.min_side", min_side)
        self.fit, self.fill = fit, fill

    def forward(self, images: Sequence[torch.Tensor] | torch.Tensor) -> tuple[torch.Tensor, Geometry]:
        """Make one batch.

        Args:
            images: B tensors [C, Hi, Wi], or one tensor [B, C, H, W]; uint8 or floating, all of one dtype and device.

        Returns:
            images: [B, C, H, W] in channels_last, of the same dtype, on the same device; differentiable where floating.
            geometry: how they were placed. Its matrices take points in continuous pixel edges of the images to those
                of the batch; their inverses take predictions back.

        Raises:
            ConfigError: no image, or images that do not fit together.
        """
        if not len(images):
            raise ConfigError("DynamicInput needs at least one image; got none")
        geometry = self.place(np.array([image.shape[-2:] for image in images], dtype=np.int32))
        fill = padding_fill("DynamicInput", self.fill, self.fit, images[0].dtype, int(images[0].shape[0]))
        return place_pixels(images, geometry, fill=fill), geometry

    def place(self, size: npt.NDArray[np.int32]) -> Geometry:
        """How images of these sizes are placed when they are one batch.

        Args:
            size: int32 [B, 2], height and width in pixels, at least 1.

        Returns:
            Their geometry; `output_size` is the batch's shape.
        """
        padded = np.maximum(size, self.min_side)  # [B, 2]
        ratio = np.log(padded[:, 1] / padded[:, 0])
        shape = snapped_shape(float(np.exp((ratio.min() + ratio.max()) / 2)), self.base, self.stride)
        offset = ((padded - size) // 2)[:, ::-1].astype(np.float64)  # [B, 2], x and y
        inside = scale_translate(np.ones_like(offset), offset)
        return Geometry(self.fit.place(padded, shape) @ inside, size, shape)

    def extra_repr(self) -> str:
        """The arguments, as torch prints modules."""
        return f"base={self.base}, min_side={self.min_side}, stride={self.stride}, fit={self.fit}"
