"""What `resflow.decode.native` does to pixels, in NumPy: slower, there wherever Python is, and for all dtypes.

Arguments, and results to a rounding, are those of the functions of the same names there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[Any]
"""[H, W, C] of any real dtype; compiled code takes uint8 [H, W, 3] alone."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_NUDGE = 5e-7  # positions are decided at six decimals, so that noise does not move them to a neighbour
_BICUBIC, _NEAREST = 1, 2  # places in `placement.INTERPOLATIONS`


def axis_weights(
    start: float, step: float, first: int, count: int, size: int, code: int = 0
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Weights of source pixels along one axis.

    Args:
        start: source coordinate of output pixel 0's near edge.
        step: source pixels an output pixel; negative mirrors.
        first: the first output pixel.
        count: how many.
        size: source pixels; windows are cut to them, and weights renormalised.
        code: the filter: its place in `placement.INTERPOLATIONS`.

    Returns:
        int64 [count], the first source pixel of each; float32 [count, most taps], zeros behind the taps.
    """
    centre = start + (first + np.arange(count) + 0.5) * step
    if code == _NEAREST:
        pixel = np.clip(np.floor(centre + _NUDGE), 0, size - 1).astype(np.int64)
        return pixel, np.ones((count, 1), dtype=np.float32)
    stretch = max(abs(step), 1.0)
    reach = stretch * (2 if code == _BICUBIC else 1)
    if code == _BICUBIC:
        centre = np.clip(centre, 0, size)
    low = np.clip(np.floor(centre - reach + 0.5), 0, size - 1).astype(np.int64)
    end = np.clip(np.floor(centre + reach + 0.5), low + 1, size).astype(np.int64)
    pixels = low[:, None] + np.arange((end - low).max(initial=1))
    distance = np.abs(pixels + 0.5 - centre[:, None]) / stretch
    weights = _cubic(distance) if code == _BICUBIC else np.maximum(1 - distance, 0)
    weights[pixels >= end[:, None]] = 0
    beyond = weights.sum(axis=1) <= 0  # the centre lies half a pixel or more beyond the edge: repeat the edge
    weights[beyond] = np.arange(weights.shape[1]) == 0
    return low, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(x: Floats) -> Floats:
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def fill_outside(out: Bytes, box: Ints, fill: Bytes) -> None:
    """Fill what lies outside a box."""
    left, top, right, bottom = box.tolist()
    if right <= left or bottom <= top:
        out[:] = fill
        return
    out[:top], out[bottom:], out[top:bottom, :left], out[top:bottom, right:] = fill, fill, fill, fill


def resize(
    source: Bytes,
    out: Bytes,
    box: Ints,
    start_x: float,
    start_y: float,
    step_x: float,
    step_y: float,
    fill: Bytes,
    code: int = 0,
) -> None:
    """Resize a source into a box of `out`, exactly at fractional positions, and fill the rest."""
    fill_outside(out, box, fill)
    left, top, right, bottom = box.tolist()
    if right <= left or bottom <= top:
        return
    low_x, weights_x = axis_weights(start_x, step_x, left, right - left, source.shape[1], code)
    low_y, weights_y = axis_weights(start_y, step_y, top, bottom - top, source.shape[0], code)
    first, end = int(low_x.min()), min(int(low_x.max()) + weights_x.shape[1], source.shape[1])
    part = source[:, first:end].astype(np.float32)
    lines = _blended(part, low_y, weights_y).transpose(1, 0, 2)  # [columns, rows, 3]
    placed = _blended(lines, low_x - first, weights_x).transpose(1, 0, 2)
    out[top:bottom, left:right] = _stored(placed, out.dtype)


def _stored(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Values in an image's dtype: whole numbers are rounded, halves up, and cut to its range."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    whole: npt.NDArray[Any] = np.clip(np.floor(values + values.dtype.type(0.5)), limits.min, limits.max).astype(dtype)
    return whole


def _blended(values: npt.NDArray[np.float32], low: Ints, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 [n, ...]: blends of the first axis' neighbours, from each `low` on; [m, ...] and [n, taps]."""
    blended = np.zeros((len(low), *values.shape[1:]), dtype=np.float32)
    for tap in range(weights.shape[1]):
        chosen = values[np.minimum(low + tap, len(values) - 1)]  # weighs nothing beyond the end
        blended += weights[:, tap].reshape(-1, *[1] * (values.ndim - 1)) * chosen
    return blended


def warp(
    source: Bytes,
    out: Bytes,
    inverse: Floats,
    width: float,
    height: float,
    scale: Floats,
    origin: Ints,
    fill: Bytes,
    code: int = 0,
) -> None:
    """Sample an intermediate under a turned map, edges repeated, with a crisp outline."""
    rows, columns = source.shape[:2]
    j, i = np.meshgrid(np.arange(out.shape[1]) + 0.5, np.arange(out.shape[0]) + 0.5)
    x = inverse[0, 0] * j + inverse[0, 1] * i + inverse[0, 2]
    y = inverse[1, 0] * j + inverse[1, 1] * i + inverse[1, 2]
    inside = (x >= -_NUDGE) & (x < width - _NUDGE) & (y >= -_NUDGE) & (y < height - _NUDGE)
    out[:] = fill
    if not rows or not columns or not inside.any():
        return
    u, v = x[inside] * scale[0] - origin[0], y[inside] * scale[1] - origin[1]  # [n]

    def pixel(row: Floats, column: Floats) -> npt.NDArray[Any]:
        return source[np.clip(row, 0, rows - 1).astype(np.int64), np.clip(column, 0, columns - 1).astype(np.int64)]

    if code == _NEAREST:
        out[inside] = pixel(np.floor(v + _NUDGE), np.floor(u + _NUDGE))
        return
    if code != _BICUBIC:
        u, v = np.clip(u, 0.5, columns - 0.5), np.clip(v, 0.5, rows - 0.5)
    left, top = np.floor(u - 0.5), np.floor(v - 0.5)
    weigh, before = (_four, 1) if code == _BICUBIC else (_two, 0)
    across, down = weigh(u - 0.5 - left), weigh(v - 0.5 - top)
    total = np.zeros((len(u), source.shape[2]))
    for row, by_row in enumerate(down):
        for column, by_column in enumerate(across):
            total += (by_row * by_column)[:, None] * pixel(top + row - before, left + column - before)
    out[inside] = _stored(total, out.dtype)


def _two(part: Floats) -> list[Floats]:
    return [1 - part, part]


def _four(part: Floats) -> list[Floats]:
    """Pillow's cubic of transforms: Keys' with a = -1."""
    first, last = part * (part * (2 - part) - 1), part * part * (part - 1)
    return [first, 1 + part * part * (part - 2), part * (1 + part * (1 - part)), last]


def to_planes(source: Bytes, out: npt.NDArray[Any], table: npt.NDArray[np.float32] | None = None) -> None:
    """Put an image's pixels into planes: `out[c, y, x] = table[c, source[y, x, c]]`."""
    for channel in range(3):
        out[channel] = source[..., channel] if table is None else table[channel][source[..., channel]]
