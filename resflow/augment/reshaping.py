"""What augmentations that give a batch another shape have in common, as Kornia's classes ask for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from kornia.augmentation import GeometricAugmentationBase2D
from kornia.constants import Resample

from resflow.augment.place import place_pixels
from resflow.augment.shape import padding_fill
from resflow.errors import ConfigError
from resflow.geometry import Fit, Geometry, Matrices
from resflow.geometry.affine import centres


class ShapeOperation(GeometricAugmentationBase2D, ABC):  # type: ignore[misc]
    """Place a batch into a shape that `choose` gives, by a `Fit`; always occurs, nothing in it is random.

    `transform_matrix` is Kornia's, for coordinates that count pixel centres; boxes and keypoints in continuous pixel
    edges go in less 0.5 and come out plus 0.5. Masks take the source pixel that each output pixel's centre lies on.
    `inverse` scales back to the incoming shape; what was cut off is filled.

    Args:
        fit: how images are placed.
        fill: value of padding in images, one or one for each channel; None takes `fit.fill` / 255 for three channels.
        mask_fill: value of padding in masks.
        keepdim: give images without a batch axis back without one.
    """

    def __init__(self, fit: Fit, fill: float | Sequence[float] | None, mask_fill: float, keepdim: bool) -> None:
        super().__init__(p=1.0, same_on_batch=True, p_batch=1.0, keepdim=keepdim)
        self.fit = fit
        self.flags = {"resample": Resample.BILINEAR, "align_corners": False, "fill": fill, "mask_fill": mask_fill}

    @abstractmethod
    def choose(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what comes out, of the height and width of what goes in."""

    def edge_matrix(self, size: tuple[int, int], shape: tuple[int, int]) -> Matrices:
        """float64 [1, 3, 3]: incoming to outgoing pixels, continuous edges."""
        return self.fit.place(np.array([size], dtype=np.int32), shape)

    def generate_parameters(self, batch_shape: Sequence[int]) -> dict[str, torch.Tensor]:
        """The shape, so that a replay gives the same one."""
        height, width = self.choose((int(batch_shape[-2]), int(batch_shape[-1])))
        return {"output_height": torch.tensor(height), "output_width": torch.tensor(width)}

    def compute_transformation(
        self, images: torch.Tensor, params: Mapping[str, torch.Tensor], flags: Mapping[str, Any]
    ) -> torch.Tensor:
        """Matrices [B, 3, 3], incoming to outgoing pixel centres; float32, or float64 for float64 images."""
        matrix = centres(self.edge_matrix(_size(images), _output(params)))
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        return torch.as_tensor(matrix, dtype=dtype, device=images.device).expand(len(images), 3, 3)

    def apply_transform(
        self,
        images: torch.Tensor,
        params: Mapping[str, torch.Tensor],
        flags: Mapping[str, Any],
        transform: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Images [B, C, H, W] placed into the shape."""
        shape = _output(params)
        return self._placed(images, self.edge_matrix(_size(images), shape), shape, flags)

    def apply_transform_mask(
        self,
        masks: torch.Tensor,
        params: Mapping[str, torch.Tensor],
        flags: Mapping[str, Any],
        transform: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Masks [B, C, H, W] placed into the shape."""
        return self.apply_transform(masks, params, {**flags, "fill": flags["mask_fill"]})

    def inverse_transform(
        self,
        images: torch.Tensor,
        flags: Mapping[str, Any],
        transform: torch.Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """What was placed, scaled back to the incoming shape."""
        if size is None:
            raise ConfigError("inverse needs the shape that went in: call it after a forward pass, or pass its params")
        shape = _size(images)
        matrix = self.edge_matrix(size, shape)
        # Padding is left out, so that no border blends with it.
        left, top, right, bottom = Geometry(matrix, np.array([size], dtype=np.int32), shape).valid[0].tolist()
        back = np.linalg.inv(matrix).astype(np.float64)
        back[:, :2, 2] += back[:, :2, :2] @ (left, top)
        return self._placed(images[:, :, top:bottom, left:right], back, size, flags)

    def inverse_masks(
        self,
        masks: torch.Tensor,
        params: Mapping[str, torch.Tensor],
        flags: Mapping[str, Any],
        transform: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Masks scaled back to the incoming shape."""
        kwargs["fill"] = kwargs.get("mask_fill", flags["mask_fill"])
        return super().inverse_masks(masks, params, flags, transform, **kwargs)  # type: ignore[no-any-return]

    def _placed(
        self, images: torch.Tensor, matrix: Matrices, shape: tuple[int, int], flags: Mapping[str, Any]
    ) -> torch.Tensor:
        batch = len(images)
        if not batch:
            return images.new_empty((0, images.shape[1], *shape))
        fill = padding_fill(type(self).__name__, flags["fill"], self.fit, images.dtype, images.shape[1])
        geometry = Geometry(np.repeat(matrix, batch, axis=0), np.full((batch, 2), _size(images), dtype=np.int32), shape)
        nearest = flags["resample"] == Resample.NEAREST
        return place_pixels(images, geometry, fill=fill, resample="nearest" if nearest else "linear")


def _size(images: torch.Tensor) -> tuple[int, int]:
    return int(images.shape[-2]), int(images.shape[-1])


def _output(params: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    return int(params["output_height"]), int(params["output_width"])
