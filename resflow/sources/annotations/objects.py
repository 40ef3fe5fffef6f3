"""The objects of a whole dataset, kept in flat arrays that cost workers little."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resflow.targets.mirror import KeypointPairs
from resflow.targets.types import Annotation


class Found(NamedTuple):
    """One object as a dataset's file has it.

    Args:
        image: place of its image.
        line: number of its line or record, for messages.
        label: its class number.
        box: left, top, right, bottom in continuous pixel edges.
        area: square pixels, None where the dataset states none.
        iscrowd: whether evaluation passes over it.
        mask: polygons or run lengths as COCO's JSON has them, None where there is none.
        keypoints: x, y and visibility of each, None where there are none.
    """

    image: int
    line: int
    label: int
    box: Sequence[float]
    area: float | None = None
    iscrowd: bool = False
    mask: Any = None
    keypoints: Sequence[float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of N images, M in all, image by image; called with an image's number it gives its `Annotation`.

    Args:
        start: int64 [N + 1], where each image's objects begin.
        boxes: float64 [M, 4], left, top, right, bottom in continuous pixel edges.
        labels: int64 [M].
        area: float64 [M].
        iscrowd: bool [M].
        line: int64 [M], number of each object's line or record: COCO's annotation or segment id.
        image_id: int64 [N].
        keypoints: float64 [M, K, 3], or None.
        keypoint_pairs: which of the K swap places in a mirror, None where it is not known.
        masks: JSON of each image's list of masks, one after the other, or None: lists of lists of numbers would be many
            times as large, and be copied into each worker that looks at them.
        mask_start: int64 [N + 1], where in `masks` each image's begin.
    """

    start: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    area: npt.NDArray[np.float64]
    iscrowd: npt.NDArray[np.bool_]
    line: npt.NDArray[np.int64]
    image_id: npt.NDArray[np.int64]
    keypoints: npt.NDArray[np.float64] | None
    keypoint_pairs: KeypointPairs | None
    masks: bytes | None
    mask_start: npt.NDArray[np.int64]

    def __call__(self, number: int) -> Annotation:
        """The objects of one image; `number` in [0, N)."""
        own = slice(int(self.start[number]), int(self.start[number + 1]))
        masks = None
        if self.masks is not None:
            masks = tuple(json.loads(self.masks[int(self.mask_start[number]) : int(self.mask_start[number + 1])]))
        return Annotation(
            boxes=self.boxes[own],
            labels=self.labels[own],
            area=self.area[own],
            iscrowd=self.iscrowd[own],
            image_id=int(self.image_id[number]),
            masks=masks,
            keypoints=None if self.keypoints is None else self.keypoints[own],
            keypoint_pairs=self.keypoint_pairs,
        )

    def described(self) -> list[bytes]:
        """All that they are, as bytes to be hashed."""
        columns = (self.start, self.boxes, self.labels, self.area, self.iscrowd, self.image_id, self.keypoints)
        rest = [repr(self.keypoint_pairs).encode(), self.masks or b""]
        return [b"" if column is None else column.tobytes() for column in columns] + rest


def kept_objects(
    found: Sequence[Found],
    image_ids: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int32],
    keypoints: int,
    pairs: KeypointPairs | None,
) -> Objects:
    """Sound objects as arrays; boxes are clipped to their images.

    Args:
        found: M objects that `checked_objects` found sound, in any order; their images are numbered by `image_ids`.
        image_ids: int64 [N].
        sizes: int32 [N, 2], height and width.
        keypoints: how many keypoints an object has, 0 where they have none; objects without get zeros.
        pairs: which of them swap places in a mirror.

    Returns:
        The objects, image by image, in their order.
    """
    found = sorted(found, key=lambda item: item.image)  # stable: objects of an image keep their order
    image = np.array([item.image for item in found], np.int64)
    start = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=len(sizes)))]).astype(np.int64)
    extent = np.tile(sizes[image][:, ::-1].astype(np.float64), (1, 2))  # [M, 2] -> [M, 4]: W, H, W, H
    boxes = _as_sides(np.clip(np.array([item.box for item in found], np.float64).reshape(-1, 4), 0, extent))
    sides = boxes[:, 2:] - boxes[:, :2]
    area = np.array([np.nan if item.area is None else item.area for item in found], np.float64)
    points = None
    if keypoints:
        none = [0.0] * (3 * keypoints)
        flat = [none if item.keypoints is None else item.keypoints for item in found]
        points = np.array(flat, np.float64).reshape(-1, keypoints, 3)
    masks, mask_start = None, np.zeros(len(sizes) + 1, np.int64)
    if any(item.mask for item in found):
        pieces = [
            json.dumps([item.mask for item in found[first:last]], separators=(",", ":")).encode()
            for first, last in zip(start[:-1].tolist(), start[1:].tolist(), strict=True)
        ]
        masks, mask_start[1:] = b"".join(pieces), np.cumsum([len(piece) for piece in pieces])
    return Objects(
        start=start,
        boxes=boxes,
        labels=np.array([item.label for item in found], np.int64),
        area=np.where(np.isnan(area), sides[:, 0] * sides[:, 1], area),
        iscrowd=np.array([item.iscrowd for item in found], np.bool_),
        line=np.array([item.line for item in found], np.int64),
        image_id=image_ids,
        keypoints=points,
        keypoint_pairs=pairs,
        masks=masks,
        mask_start=mask_start,
    )


def _as_sides(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The boxes, float64 [M, 4], with right and bottom such that some width and height added to left and top give them.

    Shards keep boxes as COCO does (x, y, width, height), and of two random float64 one pair in forty has no float64
    between them that adds up; these are moved by the last bit.
    """
    start, end = boxes[:, :2], boxes[:, 2:]
    sides = end - start
    exact = [start + near == end for near in (sides, np.nextafter(sides, np.inf), np.nextafter(sides, 0))]
    boxes[:, 2:] = np.where(np.logical_or.reduce(exact), end, start + sides)
    return boxes
