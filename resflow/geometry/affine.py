"""Affine transforms of the plane, as float64 3x3 matrices on column vectors (x, y, 1).

Coordinates are continuous pixel edges: the pixel in column j and row i covers [j, j+1] x [i, i+1], its centre is
(j+0.5, i+0.5), and an image of height H and width W covers [0, W] x [0, H]. torchvision's boxes use the same. Kornia
and most C libraries count pixel centres instead; `centres` converts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError

Matrices: TypeAlias = npt.NDArray[np.float64]
"""float64 [..., 3, 3]."""

_AXIS_TOLERANCE = 1e-9  # relative size below which an off-diagonal entry is rounding, not rotation


def identity(batch: int) -> Matrices:
    """float64 [batch, 3, 3] of identity matrices."""
    return np.tile(np.eye(3), (batch, 1, 1))


def scale_translate(scale: npt.NDArray[np.float64], translate: npt.NDArray[np.float64]) -> Matrices:
    """Matrices that scale, then translate.

    Args:
        scale: float64 [B, 2], factors along x and y; negative mirrors.
        translate: float64 [B, 2], pixels along x and y.

    Returns:
        float64 [B, 3, 3].
    """
    matrix = identity(len(scale))
    matrix[:, 0, 0], matrix[:, 1, 1] = scale[:, 0], scale[:, 1]
    matrix[:, :2, 2] = translate
    return matrix


def linear_about(linear: npt.NDArray[np.float64], centre: tuple[float, float]) -> Matrices:
    """Matrices that apply a 2x2 map with `centre` held in place.

    Args:
        linear: float64 [B, 2, 2].
        centre: x, y of the fixed point in pixels.

    Returns:
        float64 [B, 3, 3].
    """
    matrix = identity(len(linear))
    matrix[:, :2, :2] = linear
    fixed = np.asarray(centre, dtype=np.float64)
    matrix[:, :2, 2] = fixed - linear @ fixed
    return matrix


def transform_points(matrix: Matrices, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points [..., P, 2] (x, y) under matrices [..., 3, 3]."""
    # [..., P, 2] @ [..., 2, 2]^T + [..., 1, 2]
    return points @ np.swapaxes(matrix[..., :2, :2], -1, -2) + matrix[..., None, :2, 2]


def is_axis_aligned(matrix: Matrices) -> npt.NDArray[np.bool_]:
    """bool [...]: whether each matrix only scales, mirrors and moves (rows stay rows, columns stay columns)."""
    linear = np.abs(matrix[..., :2, :2])
    off = np.maximum(linear[..., 0, 1], linear[..., 1, 0])
    return np.asarray(off <= _AXIS_TOLERANCE * np.maximum(linear[..., 0, 0], linear[..., 1, 1]))


def factor(matrix: Matrices) -> tuple[Matrices, Matrices]:
    """Split each matrix into an axis-aligned part, done first, and a warp of unit columns, done second.

    For axis-aligned matrices the warp is the identity. For others the axis-aligned part scales x and y by the lengths
    of the matrix's columns (so that all shrinking happens in the antialiased resize), and the warp rotates and shears.

    Args:
        matrix: float64 [B, 3, 3], source pixels to output pixels.

    Returns:
        (aligned, warp), float64 [B, 3, 3] each, with warp @ aligned == matrix.
    """
    aligned = np.array(matrix, dtype=np.float64)
    warp = identity(len(matrix))
    turned = ~is_axis_aligned(matrix)
    aligned[~turned, 0, 1] = aligned[~turned, 1, 0] = 0.0
    columns = np.linalg.norm(matrix[turned][:, :2, :2], axis=1)  # [T, 2]: lengths of the x and y columns
    aligned[turned] = scale_translate(columns, np.zeros_like(columns))
    warp[turned] = matrix[turned]
    warp[turned, :2, :2] = matrix[turned][:, :2, :2] / columns[:, None, :]
    return aligned, warp


def centres(matrix: Matrices) -> Matrices:
    """The same transforms for coordinates that count pixel centres: T(-1/2) M T(1/2)."""
    shift = identity(1)
    shift[0, :2, 2] = 0.5
    return np.asarray(np.linalg.inv(shift) @ matrix @ shift)


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """How the B images of one batch are placed into their common shape.

    Args:
        matrix: float64 [B, 3, 3], source pixels (upright, after EXIF orientation) to output pixels, continuous edges.
        source_size: int32 [B, 2], height and width of each upright source image.
        output_size: height and width of the batch.

    Raises:
        ConfigError: a wrong dtype or shape, a matrix that is not finite, invertible and affine.
    """

    matrix: Matrices
    source_size: npt.NDArray[np.int32]
    output_size: tuple[int, int]

    def __post_init__(self) -> None:
        batch = len(self.matrix)
        if self.matrix.dtype != np.float64 or self.matrix.shape != (batch, 3, 3):
            raise ConfigError(
                f"Geometry.matrix must be float64 [B,3,3]; got {self.matrix.dtype} {list(self.matrix.shape)}"
            )
        if self.source_size.dtype != np.int32 or self.source_size.shape != (batch, 2):
            raise ConfigError(
                f"Geometry.source_size must be int32 [{batch},2]; "
                f"got {self.source_size.dtype} {list(self.source_size.shape)}"
            )
        if min(self.output_size) < 1:
            raise ConfigError(f"Geometry.output_size must be at least 1x1; got {self.output_size}")
        finite = np.asarray(np.isfinite(self.matrix).all(axis=(1, 2)))
        determinant = np.linalg.det(np.where(finite[:, None, None], self.matrix, 0.0)[:, :2, :2])
        sound = finite & (self.matrix[:, 2] == (0.0, 0.0, 1.0)).all(axis=1) & (np.abs(determinant) > 1e-12)
        if not sound.all():
            bad = int(np.argmin(sound))
            raise ConfigError(
                f"Geometry.matrix[{bad}] must be finite, invertible and end in the row 0 0 1; "
                f"got {self.matrix[bad].tolist()}"
            )

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def valid(self) -> npt.NDArray[np.int32]:
        """int32 [B, 4], left, top, right, bottom: the output pixels whose centres lie in the image's bounding box.

        Exact where the matrix is axis-aligned; the bounding box of a turned image otherwise (see `valid_mask`).
        """
        height, width = self.source_size[:, 0], self.source_size[:, 1]
        zero = np.zeros_like(height)
        corners = np.stack(  # [B, 4, 2]
            [np.stack([x, y], -1) for x, y in ((zero, zero), (width, zero), (zero, height), (width, height))],
            axis=1,
        ).astype(np.float64)
        placed = transform_points(self.matrix, corners)
        # The centre j + 0.5 lies in [lo, hi) for j from ceil(lo - 0.5) to ceil(hi - 0.5) - 1; rounding absorbs noise.
        bounds = np.concatenate([placed.min(axis=1), placed.max(axis=1)], axis=1)  # [B, 4] left top right bottom
        pixels = np.ceil(np.round(bounds - 0.5, 6))
        limit = np.array([self.output_size[1], self.output_size[0]] * 2)
        return np.clip(pixels, 0, limit).astype(np.int32)

    def valid_pixels(self) -> npt.NDArray[np.int64]:
        """int64 [B]: how many output pixels have their centre on the image."""
        left, top, right, bottom = self.valid.T.astype(np.int64)
        pixels = (right - left) * (bottom - top)
        turned = ~is_axis_aligned(self.matrix)
        if turned.any():
            pixels[turned] = self._turned_mask(turned).sum(axis=(1, 2))
        return np.asarray(pixels)

    def valid_mask(self) -> npt.NDArray[np.bool_]:
        """bool [B, H, W]: output pixels whose centres lie on the image, exact for turned images, too."""
        height, width = self.output_size
        left, top, right, bottom = self.valid.T[:, :, None, None]  # [B, 1, 1] each
        row, column = np.arange(height)[:, None], np.arange(width)
        mask = np.asarray((left <= column) & (column < right) & (top <= row) & (row < bottom))
        turned = ~is_axis_aligned(self.matrix)
        if turned.any():
            mask[turned] = self._turned_mask(turned)
        return mask

    def _turned_mask(self, turned: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool [T, H, W]: where the centres of output pixels lie on each turned image."""
        height, width = self.output_size
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        grid = np.stack([x.ravel(), y.ravel()], axis=-1)[None]  # [1, H*W, 2]
        inverse = np.linalg.inv(self.matrix[turned]).astype(np.float64)
        source = np.round(transform_points(inverse, grid), 6)  # [T, H*W, 2]
        inside = np.logical_and(source >= 0, source < self.source_size[turned][:, None, ::-1])
        return np.asarray(np.all(inside, axis=-1).reshape(-1, height, width), dtype=np.bool_)
