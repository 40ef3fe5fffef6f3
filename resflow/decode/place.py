"""Place one decoded image into its slot of a batch."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from resflow.decode import native, resample
from resflow.decode.placement import Placement


class Grid(NamedTuple):
    """How a decode's own pixels lie on the upright source: decoded = source * factor + shift, along each axis.

    Args:
        factor: decoded pixels a source pixel; below 1 for a decode at a reduced size.
        shift_x: decoded pixels before the source's left edge.
        shift_y: decoded pixels before the source's top edge.
    """

    factor: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0


FULL_SIZE = Grid()


def kernels() -> ModuleType:
    """What resamples: compiled code, or where that is not there, NumPy."""
    return resample if native.missing() else native


def canvas(out: npt.NDArray[np.uint8], where: Placement, position: int) -> npt.NDArray[np.uint8]:
    """What an image's resized pixels are written to: its output, or an intermediate of the size that its warp needs.

    Args:
        out: uint8 [H, W, 3], the image's output.
        where: the batch's placement.
        position: the image's place in the batch.

    Returns:
        uint8 [h, w, 3]; `out` itself where the image is not turned.
    """
    box = where.box[position]
    return np.empty((int(box[3]), int(box[2]), 3), dtype=np.uint8) if where.turned[position] else out


def finish(
    resized: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
    where: Placement,
    position: int,
    size: tuple[int, int],
    fill: npt.NDArray[np.uint8],
) -> None:
    """Warp a turned image out of its canvas; nothing where it is not turned.

    Args:
        resized: the `canvas`, written.
        out: uint8 [H, W, 3], contiguous, written everywhere.
        where: the batch's placement.
        position: the image's place in the batch.
        size: width and height of the upright source, in source pixels.
        fill: uint8 [3], colour of padding pixels.
    """
    if where.turned[position]:
        inverse, scale, origin = where.inverse[position], where.scale[position], where.origin[position]
        kernels().warp(resized, out, inverse, *size, scale, origin, fill, int(where.warp[position]))


def place(
    pixels: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
    where: Placement,
    position: int,
    size: tuple[int, int],
    fill: npt.NDArray[np.uint8],
    grid: Grid = FULL_SIZE,
) -> None:
    """Resize, and warp where it is turned, one decoded upright image into its output.

    Args:
        pixels: uint8 [h, w, 3], contiguous: the decode.
        out: uint8 [H, W, 3], contiguous, written everywhere.
        where: the batch's placement.
        position: the image's place in the batch.
        size: width and height of the upright source, in source pixels.
        fill: uint8 [3], colour of padding pixels.
        grid: how `pixels` lie on the source.
    """
    step_x, step_y = (where.step[position] * grid.factor).tolist()
    start_x, start_y = (where.start[position] * grid.factor).tolist()
    target = canvas(out, where, position)
    start_x, start_y, code = start_x + grid.shift_x, start_y + grid.shift_y, int(where.filter[position])
    kernels().resize(pixels, target, where.box[position], start_x, start_y, step_x, step_y, fill, code)
    finish(target, out, where, position, size, fill)
