"""From a batch's matrices to what resamplers need: where output pixels read, and how large intermediates are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resflow.geometry.affine import Geometry, factor, is_axis_aligned, transform_points

_MARGIN = 2  # intermediate pixels kept around the part that a warp reads: its bilinear footprint, and rounding


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where each output pixel of a batch reads from its source image.

    An axis-aligned sample is one resize: pixel (j, i) inside `box` is the source, antialiased, at
    `start + (j + 0.5, i + 0.5) * step`. A turned sample is resized to an intermediate first, all of it the box, and
    then warped: output pixels map to source coordinates by `inverse`, to intermediate ones by `* scale - origin`.

    Args:
        turned: bool [B], whether the sample needs the warp.
        box: int64 [B, 4], left, top, right, bottom of the resized pixels: in the output, or in the intermediate.
        start: float64 [B, 2], source x and y of the left top corner of pixel (0, 0).
        step: float64 [B, 2], source pixels a pixel along x and y; negative mirrors.
        inverse: float64 [B, 3, 3], output to source pixels.
        scale: float64 [B, 2], intermediate pixels a source pixel along x and y (turned samples).
        origin: int64 [B, 2], left top corner of the intermediate on the grid of the whole scaled source.
    """

    turned: npt.NDArray[np.bool_]
    box: npt.NDArray[np.int64]
    start: npt.NDArray[np.float64]
    step: npt.NDArray[np.float64]
    inverse: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    origin: npt.NDArray[np.int64]


def placement(geometry: Geometry) -> Placement:
    """The placement of a batch.

    Args:
        geometry: the batch's matrices and sizes.

    Returns:
        Its placement; a box without pixels marks an image that lies outside its output.
    """
    aligned, _ = factor(geometry.matrix)
    turned = ~is_axis_aligned(geometry.matrix)
    scale = np.stack([aligned[:, 0, 0], aligned[:, 1, 1]], axis=-1)  # [B, 2]
    inverse = np.linalg.inv(geometry.matrix).astype(np.float64)
    height, width = geometry.output_size
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
    reached = transform_points(inverse, corners[None]) * scale[:, None]  # [B, 4, 2], scaled source
    # Pixels of the scaled source whose centres lie on it; at least one, so that edges can be repeated.
    extent = np.maximum(np.ceil(np.round(geometry.source_size[:, ::-1] * scale - 0.5, 6)), 1)
    first = np.clip(np.floor(reached.min(axis=1)) - _MARGIN, 0, extent)
    last = np.clip(np.ceil(reached.max(axis=1)) + _MARGIN, 0, extent)
    size = np.where((last > first).all(axis=1, keepdims=True), last - first, 0)

    box = geometry.valid.astype(np.int64)
    box[turned, :2], box[turned, 2:] = 0, size[turned]
    offset = np.where(turned[:, None], -first, aligned[:, :2, 2])
    return Placement(
        turned,
        box,
        -offset / scale,
        1 / scale,
        inverse,
        scale,
        np.where(turned[:, None], first, 0).astype(np.int64),
    )
