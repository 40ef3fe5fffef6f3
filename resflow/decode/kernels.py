"""Compiled resampling of one uint8 image into a batch: an antialiased resize and a bilinear warp.

`resflow.decode.native` is what calls them: it keeps them compiled.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Unsigned indices spare a sign test at every access: the horizontal pass took 0.39 ms an image with signed ones and
# 0.2 ms with unsigned ones (224 pixels).
_U = np.uintp
_F = np.float32


@njit(nogil=True)
def triangle_weights(start, step, first, size, weights, low, taps):
    """Antialiased linear weights of source pixels, one row an output pixel.

    Args:
        start: source coordinate of output pixel 0's left edge.
        step: source pixels an output pixel; negative mirrors.
        first: number of the output pixel in row 0.
        size: source pixels; windows are clipped to them and weights renormalised.
        weights: float32 [n, most taps], filled.
        low: int64 [n], filled with the first source pixel of each window.
        taps: int64 [n], filled with the pixels of each window.
    """
    support = max(abs(step), 1.0)
    for j in range(low.shape[0]):
        centre = start + (first + j + 0.5) * step
        a = min(max(int(np.floor(centre - support + 0.5)), 0), size - 1)
        b = max(min(int(np.floor(centre + support + 0.5)), size), a + 1)
        total = 0.0
        for k in range(a, b):
            value = max(1.0 - abs(k + 0.5 - centre) / support, 0.0)
            weights[j, k - a] = value
            total += value
        if total <= 0.0:  # the centre lies half a pixel or more beyond the edge: repeat the edge
            weights[j, 0] = total = 1.0
        for k in range(b - a):
            weights[j, k] /= total
        low[j], taps[j] = a, b - a


@njit(nogil=True)
def fill_outside(out, box, fill):
    """Fill what lies outside a box.

    Args:
        out: uint8 [H, W, 3].
        box: int64 [4], left, top, right, bottom; may be empty.
        fill: uint8 [3], the colour.
    """
    height, width = out.shape[0], out.shape[1]
    left, top, right, bottom = box[0], box[1], box[2], box[3]
    if right <= left or bottom <= top:
        left = top = right = bottom = 0
    for i in range(height):
        inside = top <= i < bottom
        for j in range(0, left if inside else width):
            out[i, j, 0], out[i, j, 1], out[i, j, 2] = fill[0], fill[1], fill[2]
        for j in range(right if inside else width, width):
            out[i, j, 0], out[i, j, 1], out[i, j, 2] = fill[0], fill[1], fill[2]


@njit(nogil=True, fastmath=True)
def resize(source, out, box, start_x, start_y, step_x, step_y, fill):
    """Resize a source into a box of `out`, exactly at fractional positions, and fill the rest.

    Args:
        source: uint8 [h, w, 3].
        out: uint8 [H, W, 3], written everywhere.
        box: int64 [4], left, top, right, bottom of the pixels that show the source; may be empty.
        start_x: source x of the left edge of output column 0.
        start_y: source y of the top edge of output row 0.
        step_x: source pixels an output pixel along x; negative mirrors.
        step_y: the same along y.
        fill: uint8 [3], colour outside the box.
    """
    fill_outside(out, box, fill)
    left, top, right, bottom = box[0], box[1], box[2], box[3]
    if right <= left or bottom <= top:
        return

    columns, rows = right - left, bottom - top
    weights_x = np.empty((columns, int(2 * max(abs(step_x), 1.0)) + 3), np.float32)
    weights_y = np.empty((rows, int(2 * max(abs(step_y), 1.0)) + 3), np.float32)
    low_x, taps_x = np.empty(columns, np.int64), np.empty(columns, np.int64)
    low_y, taps_y = np.empty(rows, np.int64), np.empty(rows, np.int64)
    triangle_weights(start_x, step_x, left, source.shape[1], weights_x, low_x, taps_x)
    triangle_weights(start_y, step_y, top, source.shape[0], weights_y, low_y, taps_y)

    first = min(low_x[0], low_x[-1])
    last = max(low_x[0] + taps_x[0], low_x[-1] + taps_x[-1])
    lines = source.reshape(source.shape[0], source.shape[1] * 3)
    targets = out.reshape(out.shape[0], out.shape[1] * 3)
    reads = ((low_x - first) * 3).astype(np.uintp)
    counts = taps_x.astype(np.uintp)
    flat_weights = weights_x.reshape(-1)
    stride = _U(weights_x.shape[1])
    line = np.empty((last - first) * 3, np.float32)
    for i in range(rows):
        part = lines[low_y[i], first * 3 : last * 3]
        weight = weights_y[i, 0]
        for c in range(line.shape[0]):
            line[c] = weight * _F(part[c])
        for k in range(1, taps_y[i]):
            part = lines[low_y[i] + k, first * 3 : last * 3]
            weight = weights_y[i, k]
            for c in range(line.shape[0]):
                line[c] += weight * _F(part[c])
        target = targets[top + i]
        write = _U(left * 3)
        for j in range(_U(columns)):
            read, at = reads[j], j * stride
            red = green = blue = _F(0.5)
            for k in range(counts[j]):
                weight = flat_weights[at + k]
                red += weight * line[read]
                green += weight * line[read + _U(1)]
                blue += weight * line[read + _U(2)]
                read += _U(3)
            target[write] = np.uint8(red)
            target[write + _U(1)] = np.uint8(green)
            target[write + _U(2)] = np.uint8(blue)
            write += _U(3)


@njit(nogil=True)
def warp(source, out, inverse, width, height, scale, origin, fill):
    """Sample an intermediate bilinearly under a turned map, edges repeated, with a crisp outline.

    Args:
        source: uint8 [h, w, 3], the intermediate.
        out: uint8 [H, W, 3], written everywhere.
        inverse: float64 [3, 3], output to source pixels.
        width: of the source image, in source pixels; pixels whose centres fall outside are filled.
        height: the same along y.
        scale: float64 [2], intermediate pixels a source pixel along x and y.
        origin: int64 [2], the intermediate's left top corner on the scaled source.
        fill: uint8 [3], colour outside the image.
    """
    rows, columns = source.shape[0], source.shape[1]
    margin = 5e-7  # the outline is decided at six decimals
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x = inverse[0, 0] * (j + 0.5) + inverse[0, 1] * (i + 0.5) + inverse[0, 2]
            y = inverse[1, 0] * (j + 0.5) + inverse[1, 1] * (i + 0.5) + inverse[1, 2]
            inside = -margin <= x < width - margin and -margin <= y < height - margin
            if not inside or rows == 0 or columns == 0:
                for c in range(3):
                    out[i, j, c] = fill[c]
                continue
            u = min(max(x * scale[0] - origin[0] - 0.5, 0.0), columns - 1.0)
            v = min(max(y * scale[1] - origin[1] - 0.5, 0.0), rows - 1.0)
            x0, y0 = int(u), int(v)
            x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
            fx, fy = u - x0, v - y0
            for c in range(3):
                upper = source[y0, x0, c] * (1.0 - fx) + source[y0, x1, c] * fx
                lower = source[y1, x0, c] * (1.0 - fx) + source[y1, x1, c] * fx
                out[i, j, c] = np.uint8(upper * (1.0 - fy) + lower * fy + 0.5)
