"""A transform in words: how large, which way round and where an image lies in its batch's shape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resflow.geometry.affine import transform_points

_ALIKE = 0.01  # relative difference up to which both axes are said to be scaled alike
_TURNED = 0.5  # degrees from which a rotation or shear is told


def transform_text(matrix: npt.NDArray[np.float64], source_size: tuple[int, int]) -> tuple[str, ...]:
    """Scale, mirror, rotation and place, in a few characters each.

    Args:
        matrix: float64 [3, 3], source pixels to output pixels.
        source_size: height and width of the source image.

    Returns:
        The scale, or one along x and one along y; an arrow for a mirror; degrees clockwise; degrees of shear; and x, y
        in output pixels of the placed image's left and upper end.
    """
    linear = matrix[:2, :2]
    along_x, along_y = np.linalg.norm(linear, axis=0)  # lengths of the columns
    mirrored = np.linalg.det(linear) < 0
    upside_down = mirrored and abs(linear[0, 0]) >= abs(linear[1, 0]) and linear[0, 0] > 0
    first = linear[:, 0] * (-1 if mirrored and not upside_down else 1)
    second = linear[:, 1] * (-1 if upside_down else 1)
    angle = float(np.degrees(np.arctan2(first[1], first[0])))
    shear = float(np.degrees(np.arctan2(first @ second, first[0] * second[1] - first[1] * second[0])))
    alike = abs(along_x - along_y) <= _ALIKE * max(along_x, along_y)
    parts = [f"\u00d7{along_x:.3g}" if alike else f"\u00d7{along_x:.3g},{along_y:.3g}"]
    if mirrored:
        parts.append("\u2195" if upside_down else "\u2194")
    if abs(angle) >= _TURNED:
        parts.append(("\u21bb" if angle > 0 else "\u21ba") + f"{abs(angle):.0f}\u00b0")
    if abs(shear) >= _TURNED:
        parts.append(f"shear {shear:.0f}\u00b0")
    height, width = source_size
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
    left, top = np.round(transform_points(matrix, corners).min(axis=0)).astype(int).tolist()
    return (*parts, f"at {left},{top}")
