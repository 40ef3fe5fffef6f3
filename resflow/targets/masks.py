"""Masks: decoded from what COCO writes, and sampled through a matrix.

Every output pixel takes the source pixel in which its centre lies: the nearest one. torchvision calls this
"nearest-exact", and PyTorch's plain "nearest" differs from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from resflow.errors import TargetError
from resflow.geometry import Matrices
from resflow.geometry.affine import is_axis_aligned
from resflow.targets.types import Segmentation

Mask: TypeAlias = npt.NDArray[np.uint8]

_DECIMALS = (
    6  # of a pixel: absorbs rounding where a centre falls on the edge between two pixels, as Geometry.valid does
)
_FAR = 10  # sides of the image that a polygon may lie away: beyond is an error that would cost gigabytes to draw


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
    from pycocotools import mask as coco  # on first use: most pipelines have no masks

    if segmentation is None:
        raise TargetError(
            "no mask: masks were asked for. Set Targets(masks=False) or give every object a segmentation."
        )
    if isinstance(segmentation, np.ndarray):
        return _checked_pixels(segmentation, size)
    try:
        if isinstance(segmentation, Mapping):
            return np.asarray(coco.decode(_run_lengths(segmentation, size)), np.uint8)
        polygons = [_polygon(polygon, size) for polygon in segmentation]
        drawn = coco.merge(coco.frPyObjects(polygons, *size)) if polygons else None
        return np.zeros(size, np.uint8) if drawn is None else np.asarray(coco.decode(drawn), np.uint8)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise TargetError(
            f"a mask must be COCO polygons [[x0, y0, x1, y1, ...], ...] or run lengths {{'size', 'counts'}}; got "
            f"{str(segmentation)[:80]} ({error}). Correct or leave out the object."
        ) from error


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
    text = counts.encode() if isinstance(counts, str) else bytes(counts)
    if _total(text) != size[0] * size[1]:  # pycocotools would leave the rest of the mask as the memory was
        raise ValueError(f"its runs add up to {_total(text)} pixels, its image has {size[0] * size[1]}")
    return {"size": list(size), "counts": text}


def _total(counts: bytes) -> int:
    """Pixels that compressed run lengths cover.

    Source: pycocotools' rleFrString: six bits a character from "0", five of them a digit of base 32 and one saying
    that more follow; two's complement; from the fourth run on the difference to the run before the last.
    """
    characters = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = (characters & 32) == 0
    if len(characters) == 0 or not last[-1] or characters.min() < 0 or characters.max() > 63:
        return -1
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(characters)) - np.repeat(starts, np.diff(np.append(starts, len(characters))))
    if place.max() > 11:  # beyond 64 bits
        return -1
    runs = np.add.reduceat((characters & 31) << 5 * place, starts)
    runs -= np.where(characters[last] & 16, np.int64(1) << 5 * (place[last] + 1), 0)
    odd, even = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return int(runs[0] + odd.sum() + even.sum())


class Lookup:
    """Which source pixel each output pixel shows, under one matrix.

    Args:
        inverse: float64 [3, 3], output pixels to source pixels.
        source_size: height and width of the source.
        output_size: height and width of the output.
        device: of the planes that are sampled.

    Under an axis-aligned matrix whole rows and columns are looked up; only other matrices need a place for each pixel.
    """

    def __init__(
        self,
        inverse: Matrices,
        source_size: tuple[int, int],
        output_size: tuple[int, int],
        device: torch.device | None = None,
    ) -> None:
        self.source_size, self.output_size = source_size, output_size
        self.aligned = bool(is_axis_aligned(inverse))
        if self.aligned:
            # int64 [W] and [H]: source column and row; those outside of the source are not in its range
            self.columns = _pixel(inverse[0, 0] * (np.arange(output_size[1]) + 0.5) + inverse[0, 2])
            self.rows = _pixel(inverse[1, 1] * (np.arange(output_size[0]) + 0.5) + inverse[1, 2])
        else:
            # int64 [H, W]: row * w + column, or -1 where outside of the source
            x, y = (torch.arange(side, dtype=torch.float64, device=device) + 0.5 for side in output_size[::-1])
            (a, b, c), (d, e, f) = inverse[:2].tolist()
            column = (a * x + (b * y + c)[:, None]).round_(decimals=_DECIMALS).floor_()
            row = (d * x + (e * y + f)[:, None]).round_(decimals=_DECIMALS).floor_()
            height, width = source_size
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            self.places = torch.where(inside, row * width + column, -1).to(torch.int64)

    def sample(self, planes: torch.Tensor, fill: int = 0) -> torch.Tensor:
        """Planes [N, h, w] of the source as planes [N, H, W] of the output, of the same dtype.

        Args:
            planes: on the lookup's device.
            fill: value of output pixels that show no source.
        """
        if not self.aligned:
            flat = planes.flatten(1).index_select(1, self.places.clamp(min=0).flatten())
            return flat.reshape(-1, *self.output_size).masked_fill_(self.places < 0, fill)
        left, right = span(self.columns, 0, self.source_size[1])
        top, bottom = span(self.rows, 0, self.source_size[0])
        columns = torch.from_numpy(self.columns[left:right]).to(planes.device)
        rows = torch.from_numpy(self.rows[top:bottom]).to(planes.device)
        shown = planes.index_select(1, rows).index_select(2, columns)
        if shown.shape[1:] == self.output_size:
            return shown
        output = planes.new_full((len(planes), *self.output_size), fill)
        output[:, top:bottom, left:right] = shown
        return output


def span(pixels: npt.NDArray[np.int64], first: int, stop: int) -> tuple[int, int]:
    """The places [begin, end) of a lookup's rows or columns that show source pixels [first, stop); (0, 0) if none."""
    places = np.flatnonzero((pixels >= first) & (pixels < stop))
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def bounds(planes: torch.Tensor) -> torch.Tensor:
    """float64 [N, 4], left, top, right, bottom: the edges of what is not 0 in planes [N, H, W]; all 0 if nothing is."""
    if planes.shape[0] == 0:
        return planes.new_zeros((0, 4), dtype=torch.float64)
    columns, rows = planes.amax(1) != 0, planes.amax(2) != 0  # [N, W], [N, H]
    sides = []
    for filled in (columns, rows):
        length = filled.shape[1]
        place = torch.arange(length, device=planes.device)
        first = torch.where(filled, place, length).amin(1)
        stop = torch.where(filled, place + 1, 0).amax(1)
        sides.append((torch.minimum(first, stop), stop))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], 1).to(torch.float64)


def _pixel(coordinate: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.floor(np.round(coordinate, _DECIMALS)).astype(np.int64)
