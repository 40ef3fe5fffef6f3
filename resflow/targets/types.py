"""What a source says of an image, in the image's own pixels; and what a batch's objects are, in the batch's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from resflow.errors import TargetError
from resflow.targets.mirror import KeypointPairs, as_pairs

Segmentation: TypeAlias = Sequence[Sequence[float]] | Mapping[str, Any] | npt.NDArray[np.uint8]
"""One object's mask as COCO writes it: polygons [[x0, y0, x1, y1, ...], ...] in pixel edges, an RLE dict ("size" [H, W]
and "counts", a list, str or bytes), or uint8 [H, W] of the source image's size, 0 or 1."""


REMOVED = ("outside", "min_visible", "min_side", "mask")
"""Why an object is left out of a batch: nothing of its box is in the frame, less than `min_visible` of it, a side of it
is shorter than `min_side`, or its mask shows no pixel (or too few for `min_side`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """The objects of one image, in its own pixels (after EXIF orientation), as a source gives them.

    Args:
        boxes: float64 [N, 4], left, top, right, bottom in continuous pixel edges.
        labels: int64 [N], class numbers; 0 is the background where a model has one.
        area: float64 [N], square pixels, as the dataset states them; else of the boxes.
        iscrowd: bool [N], whether a region of many objects that evaluation passes over.
        image_id: the dataset's number of the image.
        masks: N masks as COCO writes them (None for an object without one); None where the dataset has none.
        keypoints: float64 [N, K, 3], x and y in pixel edges and visibility (0 not labelled, 1 hidden, 2 visible); None
            where the dataset has none.
        keypoint_pairs: which keypoints swap places when an image is mirrored: pairs of places, or a permutation of all
            (YOLO's `flip_idx`); () where none do, None where it is not known.
        normalized: whether boxes (and area) are shares of the image's width and height instead of pixels; they become
            pixels when the image is placed. Masks and keypoints are pixels all the same.

    Raises:
        TargetError: a dtype or shape is wrong, a number is not finite, a box ends before it begins, or
            `keypoint_pairs` are no pairs of the keypoints.
    """

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    area: npt.NDArray[np.float64]
    iscrowd: npt.NDArray[np.bool_]
    image_id: int
    masks: tuple[Segmentation | None, ...] | None = None
    keypoints: npt.NDArray[np.float64] | None = None
    keypoint_pairs: KeypointPairs | None = None
    normalized: bool = False

    def __post_init__(self) -> None:
        count = len(self.boxes)
        _check("boxes", self.boxes, np.float64, (count, 4))
        _check("labels", self.labels, np.int64, (count,))
        _check("area", self.area, np.float64, (count,))
        _check("iscrowd", self.iscrowd, np.bool_, (count,))
        if count and not (self.boxes[:, :2] <= self.boxes[:, 2:]).all():
            bad = int(np.argmin((self.boxes[:, :2] <= self.boxes[:, 2:]).all(axis=1)))
            raise TargetError(
                f"a box must be left, top, right, bottom with right >= left and bottom >= top; got "
                f"{self.boxes[bad].tolist()} for object {bad}. For x, y, width, height pass "
                "rf.Targets(box_format='xywh')."
            )
        if self.masks is not None and len(self.masks) != count:
            raise TargetError(f"masks must be one for each box; got {len(self.masks)} masks and {count} boxes")
        if self.keypoints is not None:
            points = self.keypoints.shape[1] if self.keypoints.ndim == 3 else -1
            _check("keypoints", self.keypoints, np.float64, (count, points, 3))
        if self.keypoint_pairs is not None:
            points = None if self.keypoints is None else self.keypoints.shape[1]
            try:
                object.__setattr__(self, "keypoint_pairs", as_pairs(self.keypoint_pairs, points))
            except ValueError as error:
                raise TargetError(f"keypoint_pairs: {error}") from error

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls, image_id: int = -1) -> Annotation:
        """No objects: of an image that shows none, or of a blank place in a batch."""
        none = np.zeros(0)
        return cls(np.zeros((0, 4)), none.astype(np.int64), none, none.astype(np.bool_), image_id, masks=())


def in_pixels(annotation: Annotation, size: tuple[int, int]) -> Annotation:
    """An annotation whose boxes are pixels.

    Args:
        annotation: of an image.
        size: the image's height and width.
    """
    if not annotation.normalized:
        return annotation
    height, width = size
    sides = np.array([width, height, width, height], np.float64)
    return replace(annotation, boxes=annotation.boxes * sides, area=annotation.area * height * width, normalized=False)


def _check(name: str, array: npt.NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    expected = f"{name} must be {dtype.__name__} {['K' if n < 0 else n for n in shape]}"
    if array.dtype != dtype or array.shape != shape:
        raise TargetError(f"{expected}; got {array.dtype} {list(array.shape)}".replace("'", ""))
    if dtype is np.float64 and not np.isfinite(array).all():
        bad = int(np.argmin(np.isfinite(array).reshape(shape[0], -1).all(axis=1)))
        raise TargetError(f"{name} must be finite; got {array[bad].tolist()} for object {bad}")


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """A class for each pixel of one image, as a source gives it.

    Args:
        encoded: the bytes of a PNG file of the image's own size: palette or greyscale, whose values are the classes; or
            the classes themselves, uint8 or int32 [h, w] (see `from_array`).
        known: the numbers of the classes, None where they are not known.
    """

    encoded: bytes | memoryview | npt.NDArray[np.uint8] | npt.NDArray[np.int32]
    known: Collection[int] | None = None

    @classmethod
    def from_array(cls, classes: npt.NDArray[Any], known: Collection[int] | None = None) -> LabelMap:
        """Classes that are decoded already.

        Args:
            classes: whole numbers [h, w] or [1, h, w], of the image's own size, from -32768 to 65535.
            known: the numbers of the classes, None where they are not known.

        Raises:
            TargetError: another dtype, shape or value.
        """
        plane = classes[0] if classes.ndim == 3 and len(classes) == 1 else classes
        if plane.ndim != 2 or plane.dtype.kind not in "biu":
            raise TargetError(
                f"a label map must be whole numbers [h, w]; got {classes.dtype} {list(classes.shape)}. "
                "Turn its colours or probabilities into class numbers first."
            )
        if plane.dtype in (np.bool_, np.uint8):
            return cls(plane.astype(np.uint8, copy=False), known)
        low, high = (int(plane.min()), int(plane.max())) if plane.size else (0, 0)
        if low < -32768 or high > 65535:
            raise TargetError(f"classes of a label map must be from -32768 to 65535; got {low} to {high}")
        return cls(plane.astype(np.uint8) if low >= 0 and high <= 255 else plane.astype(np.int32), known)


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
        visible: float32 [M], the share of the dataset's box that is left after all that was cut off, in [0, 1].
        masks: uint8 [M, H, W], 0 or 1, where asked for.
        keypoints: float32 [M, K, 3], x and y in pixel edges and visibility, where asked for.
        keypoint_pairs: which keypoints swap places when an image is mirrored; None where it is not known.
        removed: int64 [B, 4], how many objects of each image were left out so far, by the reason in `REMOVED`.
    """

    counts: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    area: torch.Tensor
    iscrowd: torch.Tensor
    image_id: torch.Tensor
    visible: torch.Tensor
    masks: torch.Tensor | None = None
    keypoints: torch.Tensor | None = None
    keypoint_pairs: KeypointPairs | None = None
    removed: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def image(self) -> torch.Tensor:
        """int64 [M], place in the batch of the image that each object belongs to."""
        places = torch.arange(len(self.counts), device=self.counts.device)
        return torch.repeat_interleave(places, self.counts, output_size=len(self.boxes))
