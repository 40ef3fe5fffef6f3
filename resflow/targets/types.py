"""What a source says of an image, in the image's own pixels; and what a batch's objects are, in the batch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Segmentation: TypeAlias = Sequence[Sequence[float]] | Mapping[str, Any] | npt.NDArray[np.uint8]
"""One object's mask as COCO writes it: polygons [[x0, y0, x1, y1, ...], ...] in pixel edges, an RLE dict ("size" [H, W]
and "counts", a list, str or bytes), or uint8 [H, W] of the source image's size, 0 or 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """The objects of one image, in its own pixels (after EXIF orientation), as a source gives them.

    Args:
        boxes: float64 [N, 4], left, top, right, bottom in continuous pixel edges.
        labels: int64 [N], class numbers; 0 is the background where a model has one.
        area: float64 [N], square pixels, as the dataset states them; else of the boxes.
        iscrowd: bool [N], whether a region of many objects that evaluation passes over.
        image_id: the dataset's number of the image.
        masks: N masks as COCO writes them; None where the dataset has none.
        keypoints: float64 [N, K, 3], x and y in pixel edges and visibility (0 not labelled, 1 hidden, 2 visible); None
            where the dataset has none.
    """

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    area: npt.NDArray[np.float64]
    iscrowd: npt.NDArray[np.bool_]
    image_id: int
    masks: tuple[Segmentation, ...] | None = None
    keypoints: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """A class for each pixel of one image, as a source gives it.

    Args:
        encoded: the bytes of a PNG file of the image's own size: palette or greyscale, whose values are the classes.
    """

    encoded: bytes | memoryview


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The objects of a batch, one after the other in one set of tensors: what travels between processes.

    Args:
        counts: int64 [B], how many objects each image has; M is their sum.
        boxes: float32 [M, 4], left, top, right, bottom in continuous pixel edges of the batch's shape.
        labels: int64 [M].
        area: float32 [M], square pixels.
        iscrowd: int64 [M], 0 or 1.
        image_id: int64 [B].
        masks: uint8 [M, H, W], 0 or 1, where asked for.
        keypoints: float32 [M, K, 3], x and y in pixel edges and visibility, where asked for.
    """

    counts: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    area: torch.Tensor
    iscrowd: torch.Tensor
    image_id: torch.Tensor
    masks: torch.Tensor | None = None
    keypoints: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def image(self) -> torch.Tensor:
        """int64 [M], place in the batch of the image that each object belongs to."""
        places = torch.arange(len(self.counts), device=self.counts.device)
        return torch.repeat_interleave(places, self.counts)
