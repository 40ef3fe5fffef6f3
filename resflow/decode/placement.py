"""From a batch's matrices to what resamplers need: where output pixels read, and how large intermediates are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.geometry.affine import Geometry, factor, is_axis_aligned, transform_points

Interpolation: TypeAlias = Literal["bilinear", "bicubic", "nearest"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "bicubic", "nearest")
"""Filters, each as Pillow has it. Compiled code knows them by their places in here."""

_MARGIN = 2  # intermediate pixels kept around the part that a warp reads: its footprint, and rounding


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
        filter: int64 [B], place in `INTERPOLATIONS` of the resize's filter.
        warp: int64 [B], place in `INTERPOLATIONS` of the warp's filter (turned samples).
    """

    turned: npt.NDArray[np.bool_]
    box: npt.NDArray[np.int64]
    start: npt.NDArray[np.float64]
    step: npt.NDArray[np.float64]
    inverse: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    origin: npt.NDArray[np.int64]
    filter: npt.NDArray[np.int64]
    warp: npt.NDArray[np.int64]


def placement(
    geometry: Geometry,
    interpolation: Interpolation | Sequence[Interpolation] = "bilinear",
    warp: Interpolation | Sequence[Interpolation] = "bilinear",
) -> Placement:
    """The placement of a batch.

    Args:
        geometry: the batch's matrices and sizes.
        interpolation: the resize's filter: "bilinear" and "bicubic" are antialiased; one for all samples, or B of them.
        warp: the filter by which turned samples are read from their intermediate; one, or B of them.

    Returns:
        Its placement; a box without pixels marks an image that lies outside its output.

    Raises:
        ConfigError: a filter that is none, or not as many as samples.
    """
    filters, warps = (_codes(name, len(geometry)) for name in (interpolation, warp))
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
        filters,
        warps,
    )


def _codes(names: Interpolation | Sequence[Interpolation], batch: int) -> npt.NDArray[np.int64]:
    """int64 [B]: places of filters in `INTERPOLATIONS`."""
    if isinstance(names, str):
        names = [names] * batch
    if len(names) != batch:
        raise ConfigError(f"decode got {len(names)} interpolations for {batch} images; give one for all, or one each")
    if wrong := [name for name in names if name not in INTERPOLATIONS]:
        raise ConfigError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}; got {wrong[0]!r}")
    return np.array([INTERPOLATIONS.index(name) for name in names], dtype=np.int64)
