"""Masks as COCO writes them: decoded to pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resflow.errors import TargetError
from resflow.extras import needed_for
from resflow.targets.types import Segmentation

Mask: TypeAlias = npt.NDArray[np.uint8]

_FAR = 10  # sides of the image that a polygon may lie away: beyond is an error that would cost gigabytes to draw


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The part of a mask that holds all that is not 0.

    Args:
        pixels: uint8 [h', w'], 0 or 1.
        left: the mask's column of its first column.
        top: the mask's row of its first row.
    """

    pixels: Mask
    left: int
    top: int

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in the mask."""
        height, width = self.pixels.shape
        return self.left, self.top, self.left + width, self.top + height


def decode_mask(segmentation: Segmentation | None, size: tuple[int, int]) -> Mask:
    """Draw one object's mask in the pixels of its image, as pycocotools does.

    Args:
        segmentation: polygons, run lengths or pixels.
        size: height and width of the image.

    Returns:
        uint8 [h, w], 0 or 1.

    Raises:
        TargetError: there is no mask, it is for an image of another size, or it is broken.
    """
    block = decode_block(segmentation, size)
    left, top, right, bottom = block.edges
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = block.pixels
    return mask


def decode_block(segmentation: Segmentation | None, size: tuple[int, int]) -> Block:
    """What `decode_mask` draws, cut to what is not 0: most objects are much smaller than their image."""
    with needed_for("masks of polygons or run lengths need"):
        from pycocotools import mask as coco  # on first use: most pipelines have no masks

    if segmentation is None:
        raise TargetError(
            "no mask: masks were asked for. Set Targets(masks=False), give every object a mask, or take its box: "
            "Targets(masks=True, box_as_mask=True)."
        )
    if isinstance(segmentation, np.ndarray):
        return cut(_checked_pixels(segmentation, size))
    try:
        if isinstance(segmentation, Mapping):
            return _decoded_runs(_run_lengths(segmentation, size))
        polygons = (
            coco.frPyObjects([_polygon(polygon, size) for polygon in segmentation], *size) if segmentation else []
        )
        return _decoded_runs(coco.merge(polygons)) if polygons else cut(np.zeros(size, np.uint8))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise TargetError(
            f"a mask must be COCO polygons [[x0, y0, x1, y1, ...], ...] or run lengths {{'size', 'counts'}}; got "
            f"{str(segmentation)[:80]} ({error}). Correct or leave out the object."
        ) from error


def cut(mask: Mask) -> Block:
    """A mask cut to what is not 0; of no pixels if nothing is."""
    (left, right), (top, bottom) = filled_span(mask.max(axis=0)), filled_span(mask.max(axis=1))
    return Block(mask[top:bottom, left:right], left, top)


def filled_span(values: npt.NDArray[Any]) -> tuple[int, int]:
    """The first place that is not 0 and the one after the last; (0, 0) if all are."""
    places = np.flatnonzero(values)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _decoded_runs(rle: Mapping[str, Any]) -> Block:
    """A block of compressed run lengths: pycocotools' decode would draw all of the image.

    Raises:
        ValueError: the runs do not add up to the image.
    """
    from pycocotools import mask as coco

    height, width = rle["size"]
    runs = _runs(rle["counts"])
    if runs.sum() != height * width or runs.min() < 0:
        raise ValueError(f"its runs add up to {runs.sum()} pixels, its image has {height * width}")
    left, top, across, down = (int(number) for number in coco.toBbox(rle))
    ends = np.clip(np.cumsum(runs), left * height, (left + across) * height)  # column after column
    lengths = np.diff(ends, prepend=left * height)
    pixels = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), lengths).reshape(across, height)
    return Block(pixels[:, top : top + down].T, left, top)


def _checked_pixels(pixels: npt.NDArray[Any], size: tuple[int, int]) -> Mask:
    if pixels.shape != size or pixels.dtype not in (np.uint8, np.bool_):
        raise TargetError(
            f"a mask must be uint8 {list(size)}, of its image's size; got {pixels.dtype} {list(pixels.shape)}"
        )
    return np.asarray(pixels != 0, np.uint8)


def _polygon(polygon: Sequence[float], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    points = np.asarray(polygon, dtype=np.float64)
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:  # pycocotools takes four numbers for a box
        raise ValueError(f"a polygon has at least 3 points x, y; this one has {points.size} numbers")
    if not np.abs(points).max() <= _FAR * max(size):  # false for NaN
        raise ValueError(f"a polygon has finite coordinates in or near its image of {size[1]}x{size[0]} pixels")
    return points


def _run_lengths(rle: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    from pycocotools import mask as coco

    if tuple(rle["size"]) != size:
        raise ValueError(f"its size is {list(rle['size'])}, its image's is {list(size)}")
    counts = rle["counts"]
    if not isinstance(counts, str | bytes):
        if sum(counts) != size[0] * size[1] or min(counts) < 0:
            raise ValueError(f"its runs add up to {sum(counts)} pixels, its image has {size[0] * size[1]}")
        return dict(coco.frPyObjects({"size": list(size), "counts": list(counts)}, *size))
    return {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else bytes(counts)}


def _runs(counts: bytes) -> npt.NDArray[np.int64]:
    """Compressed run lengths as numbers.

    Source: pycocotools' rleFrString: six bits a character from "0", five of them a digit of base 32 and one saying
    that more follow; two's complement; from the fourth run on the difference to the run before the last.

    Raises:
        ValueError: no such text.
    """
    characters = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = (characters & 32) == 0
    if len(characters) == 0 or not last[-1] or characters.min() < 0 or characters.max() > 63:
        raise ValueError("its counts are cut short or no run lengths")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > 10:
        raise ValueError("its counts are no run lengths")
    place = np.arange(len(characters)) - np.repeat(starts, digits)
    runs = np.add.reduceat((characters & 31) << 5 * place, starts)
    runs -= (characters[ends] & 16) >> 4 << 5 * digits
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return np.asarray(runs)
