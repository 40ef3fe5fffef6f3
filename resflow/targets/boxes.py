"""The forms in which four numbers are a box, and how shares of an image are told from pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resflow.errors import TargetError

PIXEL_FORMATS = ("xyxy", "xywh", "cxcywh")
BOX_FORMATS = (*PIXEL_FORMATS, *(f"{form}_norm" for form in PIXEL_FORMATS))
"""Left, top, right, bottom; left, top, width, height; centre, width, height: in pixels, or as shares of the image."""

_SHARE = 1.5  # no box of shares reaches further, but for rounding and boxes over the border


def box_edges(boxes: npt.NDArray[np.float64], form: str) -> npt.NDArray[np.float64]:
    """Boxes of any form as left, top, right, bottom, in the unit in which they are given.

    Args:
        boxes: float64 [N, 4].
        form: one of BOX_FORMATS.
    """
    first, second = boxes[:, :2], boxes[:, 2:]
    kind = form.removesuffix("_norm")
    if kind == "xyxy":
        return boxes
    if kind == "xywh":
        return np.concatenate([first, first + second], axis=1)
    return np.concatenate([first - second / 2, first + second / 2], axis=1)


def are_shares(numbers: npt.NDArray[np.float64]) -> bool:
    """Whether coordinates can hardly be pixels: none is beyond 1.5, and some are no whole numbers."""
    if not numbers.size or not np.isfinite(numbers).all():
        return False
    return bool(np.abs(numbers).max() <= _SHARE and (numbers != np.round(numbers)).any())


def check_pixels(numbers: npt.NDArray[np.float64], what: str, way_out: str) -> None:
    """Refuse coordinates that look like shares of the image: as pixels, all would vanish.

    Args:
        numbers: float64, of any shape.
        what: what they are, for the message.
        way_out: how they are told to be shares, or pixels all the same.

    Raises:
        TargetError: none is beyond 1.5, and some are no whole numbers.
    """
    if are_shares(numbers):
        shown = numbers.reshape(-1, numbers.shape[-1])[0].round(4).tolist()
        raise TargetError(f"{what} look like shares of the image (0 to 1): got {shown}; expected pixels. {way_out}")
