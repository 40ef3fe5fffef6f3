"""Made-up annotations, placements, and float64 references, for the tests of targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resflow.geometry import Fit, Geometry
from resflow.targets import Annotation

PAIRS = ((1, 2), (3, 4))

Array = np.ndarray[Any, np.dtype[Any]]


def annotation(
    boxes: Any, *, masks: Any = None, keypoints: Any = None, labels: Any = None, image_id: int = 7, pairs: Any = ()
) -> Annotation:
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    return Annotation(
        boxes=corners,
        labels=np.arange(len(corners)) if labels is None else np.array(labels, np.int64),
        area=(corners[:, 2:] - corners[:, :2]).prod(axis=1) / 2,
        iscrowd=np.zeros(len(corners), np.bool_),
        image_id=image_id,
        masks=None if masks is None else tuple(masks),
        keypoints=None if keypoints is None else np.array(keypoints, np.float64),
        keypoint_pairs=pairs,
    )


def random_boxes(count: int, size: tuple[int, int], seed: int) -> Array:
    corners = np.random.default_rng(seed).uniform(0, (size[1], size[0]), (count, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def random_keypoints(count: int, points: int, size: tuple[int, int], seed: int) -> Array:
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, (size[1], size[0]), (count, points, 2))
    seen = rng.integers(0, 3, (count, points, 1))
    return np.concatenate([place * (seen > 0), seen], axis=2)


def placed(sizes: Sequence[tuple[int, int]], shape: tuple[int, int], fit: Fit = Fit(), flip: str = "") -> Geometry:  # noqa: B008
    source = np.array(sizes, np.int32).reshape(-1, 2)
    matrix = fit.place(source, shape)
    if "x" in flip:
        matrix = mirror(0, shape[1]) @ matrix
    if "y" in flip:
        matrix = mirror(1, shape[0]) @ matrix
    return Geometry(matrix, source, shape)


def mirror(axis: int, length: float) -> Array:
    matrix = np.eye(3)
    matrix[axis, axis], matrix[axis, 2] = -1, length
    return matrix


def turned(degrees: float, scale: float, size: tuple[int, int], shape: tuple[int, int], shift: Any = (0, 0)) -> Array:
    """Turn and scale about the image's centre, which goes to the shape's centre and `shift` beyond."""
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    matrix = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    matrix[:2, 2] = np.array(shape[::-1]) / 2 + shift - matrix[:2, :2] @ (np.array(size[::-1]) / 2)
    return matrix


def single(matrix: Array, size: tuple[int, int], shape: tuple[int, int]) -> Geometry:
    return Geometry(np.array(matrix, np.float64)[None], np.array([size], np.int32), shape)


def nearest(pixels: Array, matrix: Array, shape: tuple[int, int], fill: int = 0) -> Array:
    """The reference: every output pixel's centre, one by one, in float64."""
    inverse = np.linalg.inv(matrix)
    output = np.full(shape, fill, pixels.dtype)
    for i in range(shape[0]):
        for j in range(shape[1]):
            x, y = np.floor(np.round((inverse @ (j + 0.5, i + 0.5, 1))[:2], 6)).astype(int)
            if 0 <= x < pixels.shape[1] and 0 <= y < pixels.shape[0]:
                output[i, j] = pixels[y, x]
    return output


def nearest_fast(pixels: Array, matrix: Array, shape: tuple[int, int], fill: int = 0) -> Array:
    """`nearest` for large pictures; a test holds the two together."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    source = np.einsum("ij,jhw->ihw", np.linalg.inv(matrix), np.stack([x, y, np.ones_like(x)]))
    column, row = np.floor(np.round(source[:2], 6)).astype(int)
    inside = (column >= 0) & (column < pixels.shape[1]) & (row >= 0) & (row < pixels.shape[0])
    return np.where(inside, pixels[row * inside, column * inside], fill).astype(pixels.dtype)
