"""Tiers: images stored again at smaller sizes; how large they are, and which of them suffices for a crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ORIGINAL = -1
"""Stands where a tier's number would, for the image as it was."""

_ROUNDING = 1e-9  # relative error of a scale that was computed another way


def tier_size(size: npt.NDArray[np.int32], side: int) -> npt.NDArray[np.int32]:
    """Sizes of images in a tier: the short side is the tier's, the long one is rounded up.

    Rounded up, so that a tier has as many pixels for a source pixel along either axis as along the short one at least.

    Args:
        size: int32 [N, 2], height and width of the originals in pixels, after EXIF orientation.
        side: the tier's short side in pixels.

    Returns:
        int32 [N, 2]; meaningful where the short side is longer than the tier's.
    """
    short = size.min(axis=1, keepdims=True).astype(np.int64)  # [N, 1]
    return np.asarray(-(-size.astype(np.int64) * side // short), np.int32)


def choose_tiers(
    matrix: npt.NDArray[np.float64],
    size: npt.NDArray[np.int32],
    sides: Sequence[int],
    present: npt.NDArray[np.bool_],
    quality: float,
) -> npt.NDArray[np.int64]:
    """The smallest tier for each sample that still holds enough pixels of what is drawn of it.

    Args:
        matrix: float64 [B, 3, 3], pixels of the original to output pixels, as they were drawn.
        size: int32 [B, 2], height and width of the originals in pixels.
        sides: short sides of the K tiers in pixels, ascending.
        present: bool [K, B], whether a tier has an entry for a sample.
        quality: least number of a tier's pixels for an output pixel, along each axis.

    Returns:
        int64 [B], a tier's number in `sides`, or ORIGINAL.
    """
    drawn = np.linalg.norm(matrix[:, :2, :2], axis=1)  # [B, 2]: output pixels a source pixel along x and y
    chosen = np.full(len(size), ORIGINAL, np.int64)
    for tier in range(len(sides) - 1, -1, -1):
        kept = (tier_size(size, sides[tier]) / size)[:, ::-1]  # [B, 2]: tier pixels a source pixel along x and y
        enough = (kept >= quality * drawn * (1 - _ROUNDING)).all(axis=1)
        chosen[enough & present[tier]] = tier
    return chosen


def on_tier(
    matrix: npt.NDArray[np.float64], size: npt.NDArray[np.int32], stored: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Matrices for images that are stored at another size: stored pixels to output pixels.

    Args:
        matrix: float64 [B, 3, 3], pixels of the original to output pixels.
        size: int32 [B, 2], height and width of the originals.
        stored: int32 [B, 2], height and width of the images as they are stored; equal to `size` for originals.

    Returns:
        float64 [B, 3, 3]; bit by bit `matrix` where the sizes are equal.
    """
    composed = matrix.copy()
    # M @ diag(W / w, H / h, 1): columns are scaled. [B, 1, 2], x first
    composed[:, :2, :2] *= (size / stored)[:, None, ::-1]
    return composed
