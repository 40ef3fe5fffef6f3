"""Pixels into planes, as torch has images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.decode.place import kernels


def to_planes(
    source: npt.NDArray[np.uint8], out: npt.NDArray[Any], table: npt.NDArray[np.float32] | None = None
) -> None:
    """Put an image's pixels into planes: `out[c, y, x] = table[c, source[y, x, c]]`.

    So an image is converted and normalised once, straight into a batch's memory: the table holds what becomes of each
    of the 256 values of a channel.

    Args:
        source: uint8 [H, W, 3]; rows may lie any way apart, the pixels of one are contiguous.
        out: float32 [3, H, W], or uint8 where there is no table; contiguous, written everywhere.
        table: float32 [3, 256]; None copies bytes.

    Raises:
        TypeError: an array of another type, or not contiguous where it must be.
        ValueError: planes of another size than the image.
    """
    kernels().to_planes(source, out, table)
