"""From a file's bytes to the pixels of a box in a batch: which blocks are needed, and how their pixels become RGB."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy import float32, uintp

from resflow.decode.jpeg.inverse import SIDES
from resflow.decode.jpeg.scan import read_scan
from resflow.decode.jpeg.segments import ACROSS, APP1, COMPONENTS, DOWN, HEIGHT, INFO, WIDTH, read_segments
from resflow.decode.jpeg.vectors import LANES, fma, load, splat, store, store_pixels, zeros
from resflow.decode.kernels import triangle_weights

ROWS = 8
"""Lines that are resized along x together: each weight is loaded once for all of them."""


@njit(nogil=True)
def axis_weights(start, step, first, count, size):
    """Weights of one axis; see `triangle_weights`.

    Returns:
        Weights float32 [count, most taps], zeros behind the taps; int64 [count] first source pixels; int64 [count]
        taps.
    """
    most = int(2 * max(abs(step), 1.0)) + 3
    weights = np.zeros((count, most), np.float32)
    low, taps = np.empty(count, np.int64), np.empty(count, np.int64)
    triangle_weights(start, step, first, size, weights, low, taps)
    return weights, low, taps


@njit(nogil=True)
def fold_weights(weights, low, taps, size, smooth):
    """Weights over a plane that was enlarged twice, as weights over the plane itself.

    An enlarged pixel is three quarters its own and one quarter the neighbour on its side, as libjpeg enlarges colour,
    or all its own, as in pictures too narrow for that.

    Args:
        weights: float32 [n, taps], over the enlarged plane.
        low: int64 [n], first pixel of each.
        taps: int64 [n], pixels of each.
        size: pixels of the plane.
        smooth: whether neighbours count.

    Returns:
        As `axis_weights`.
    """
    side = float32(0.25 if smooth else 0)
    count = low.shape[0]
    most = weights.shape[1] // 2 + 3
    folded = np.zeros((count, most), np.float32)
    folded_low, folded_taps = np.empty(count, np.int64), np.empty(count, np.int64)
    for j in range(count):
        first = min(max((low[j] - 1) >> 1, 0), size - 1)
        end = first
        for k in range(taps[j]):
            pixel = low[j] + k
            near = min(pixel >> 1, size - 1)
            far = min(max(near + (1 if pixel & 1 else -1), 0), size - 1)
            folded[j, near - first] += (float32(1) - side) * weights[j, k]
            folded[j, far - first] += side * weights[j, k]
            end = max(end, near, far)
        folded_low[j], folded_taps[j] = first, end + 1 - first
    return folded, folded_low, folded_taps


@njit(nogil=True)
def blend_rows(planes, at, stride, weights, row, taps, lines, to, span):
    """One row of a plane resized along y, into one of `lines`.

    Args:
        planes: uint8, `LANES` bytes longer than what is read.
        at: where the row of the first tap starts.
        stride: bytes of a row.
        weights: float32 [n, most taps].
        row: the row of `weights`.
        taps: that count.
        lines: float32, filled from `to` on.
        to: where.
        span: values that are needed; a multiple of `LANES` is written.
    """
    for x in range(uintp(0), uintp(span), uintp(LANES)):
        from_ = uintp(at) + x
        values = zeros()
        for k in range(taps):
            values = fma(splat(weights[row, k]), load(planes, from_), values)
            from_ += uintp(stride)
        store(lines, uintp(to) + x, values)


@njit(nogil=True)
def column_weights(weights, low, taps):
    """Weights by block of `LANES` outputs, by pixel that any of them reads, by output; zero where one does not read it.

    Args:
        weights: float32 [n, most taps].
        low: int64 [n], first pixel of each output.
        taps: int64 [n], pixels of each.

    Returns:
        The weights, float32 flat; int64 [blocks] first pixels; int64 [blocks + 1] where each block's weights start.
    """
    count = low.shape[0]
    blocks = -(-count // LANES)
    first, starts = np.empty(blocks, np.int64), np.zeros(blocks + 1, np.int64)
    for block in range(blocks):
        part = slice(block * LANES, min((block + 1) * LANES, count))
        first[block] = low[part].min()
        starts[block + 1] = starts[block] + ((low[part] + taps[part]).max() - first[block]) * LANES
    dense = np.zeros(starts[blocks], np.float32)
    for j in range(count):
        block, lane = j // LANES, j % LANES
        at = starts[block] + (low[j] - first[block]) * LANES + lane
        for k in range(taps[j]):
            dense[at + k * LANES] = weights[j, k]
    return dense, first, starts


@njit(nogil=True)
def blend_columns(lines, length, dense, first, starts, out):
    """`ROWS` lines resized along x.

    Args:
        lines: float32 [ROWS * length].
        length: values of a line.
        dense: float32, of `column_weights`.
        first: int64 [blocks], of it, relative to the lines.
        starts: int64 [blocks + 1], of it.
        out: float32 [ROWS * blocks * LANES], filled.
    """
    blocks, step = first.shape[0], uintp(length)
    for block in range(blocks):
        x = uintp(first[block])
        a = b = c = d = e = f = g = h = zeros()
        for at in range(uintp(starts[block]), uintp(starts[block + 1]), uintp(LANES)):
            weights = load(dense, at)
            i = x
            a = fma(splat(lines[i]), weights, a)
            i += step
            b = fma(splat(lines[i]), weights, b)
            i += step
            c = fma(splat(lines[i]), weights, c)
            i += step
            d = fma(splat(lines[i]), weights, d)
            i += step
            e = fma(splat(lines[i]), weights, e)
            i += step
            f = fma(splat(lines[i]), weights, f)
            i += step
            g = fma(splat(lines[i]), weights, g)
            i += step
            h = fma(splat(lines[i]), weights, h)
            x += uintp(1)
        to, over = uintp(block * LANES), uintp(blocks * LANES)
        store(out, to, a)
        store(out, to + over, b)
        store(out, to + uintp(2) * over, c)
        store(out, to + uintp(3) * over, d)
        store(out, to + uintp(4) * over, e)
        store(out, to + uintp(5) * over, f)
        store(out, to + uintp(6) * over, g)
        store(out, to + uintp(7) * over, h)


@njit(nogil=True)
def to_rgb(y, blue, red, at, count, out):
    """Brightness and colour differences, from `at` on, into bytes.

    Args:
        y: float32, about 128 like the others.
        blue: float32.
        red: float32.
        at: the first of each.
        count: how many, a multiple of `LANES`.
        out: uint8 [3 * count], filled.

    Source: ITU-T T.871, 7.
    """
    middle = splat(float32(128))
    for j in range(uintp(0), uintp(count), uintp(LANES)):
        i = uintp(at) + j
        light, b, r = load(y, i) - middle, load(blue, i) - middle, load(red, i) - middle
        green = fma(r, splat(float32(-0.714136286)), fma(b, splat(float32(-0.344136286)), light))
        pixels = fma(r, splat(float32(1.402)), light), green, fma(b, splat(float32(1.772)), light)
        store_pixels(out, uintp(3) * j, pixels)


@njit(nogil=True)
def decode_window(data, out, box, start_x, start_y, step_x, step_y, width, height, orientation, oversample):
    """Decode the part of a JPEG that a box shows, and resize it into the box.

    Args:
        data: uint8 [n], the file; read-only.
        out: uint8 [H, W, 3], written inside the box alone.
        box: int64 [4], left, top, right, bottom of the pixels that show the source; not empty.
        start_x: source x, upright, of the left edge of output column 0.
        start_y: source y of the top edge of output row 0.
        step_x: source pixels an output pixel along x; negative mirrors.
        step_y: the same along y.
        width: of the upright source.
        height: of the upright source.
        orientation: EXIF orientation, 1 to 8; 0 takes only files that cannot tell another than 1.
        oversample: pixels decoded for an output pixel on each axis, at least, before blocks are decoded smaller.

    Returns:
        Whether it was done. If not, the file is of a kind that is not taken here, or damaged; `out` may be half filled.
    """
    info = np.zeros(INFO, np.int64)
    quant = np.zeros(4 * 64, np.float32)
    counts, symbols = np.zeros(4 * 16, np.uint8), np.zeros(4 * 256, np.uint8)
    if not read_segments(data, info, quant, counts, symbols) or (orientation == 0 and info[APP1]):
        return False

    # Turn the placement to the stored picture; from here on x and y are its axes.
    swapped = orientation >= 5
    if orientation == 2 or orientation == 3 or orientation == 6 or orientation == 7:
        start_x, step_x = width - start_x, -step_x
    if orientation == 3 or orientation == 4 or orientation == 7 or orientation == 8:
        start_y, step_y = height - start_y, -step_y
    left, top, right, bottom = box[0], box[1], box[2], box[3]
    if swapped:
        start_x, step_x, start_y, step_y = start_y, step_y, start_x, step_x
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    if info[WIDTH] != width or info[HEIGHT] != height:
        return False
    columns, rows = right - left, bottom - top

    components = info[COMPONENTS]
    side = 8
    for smaller in SIDES:
        if min(abs(step_x), abs(step_y)) * smaller / 8 >= oversample:
            side = smaller
    sides, strides, starts = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(4, np.int64)
    double = components == 3 and info[ACROSS] == 2 and info[DOWN] == 2 and side <= 4
    sides[0] = side
    sides[1:] = 2 * side if double else side  # colour that was stored at half the size needs no second halving

    factor = side / 8
    plane_width, plane_height = -(-width * side // 8), -(-height * side // 8)
    weights_x, low_x, taps_x = axis_weights(start_x * factor, step_x * factor, left, columns, plane_width)
    weights_y, low_y, taps_y = axis_weights(start_y * factor, step_y * factor, top, rows, plane_height)
    colour_x, colour_low_x, colour_taps_x = weights_x, low_x, taps_x
    colour_y, colour_low_y, colour_taps_y = weights_y, low_y, taps_y
    smooth = info[ACROSS] == 1 or width > 4
    if components == 3 and info[ACROSS] == 2 and not double:
        size = -(-(-(-width // 2) * side) // 8)
        colour_x, colour_low_x, colour_taps_x = fold_weights(weights_x, low_x, taps_x, size, smooth)
    if components == 3 and info[DOWN] == 2 and not double:
        size = -(-(-(-height // 2) * side) // 8)
        colour_y, colour_low_y, colour_taps_y = fold_weights(weights_y, low_y, taps_y, size, smooth)

    # The units under all of these, colour's neighbours with them.
    unit_x, unit_y = info[ACROSS] * side, info[DOWN] * side
    window = np.empty(4, np.int64)
    window[0] = max(low_x.min() - 2, 0) // unit_x
    window[1] = max(low_y.min() - 2, 0) // unit_y
    window[2] = -(-min((low_x + taps_x).max() + 2, plane_width) // unit_x)
    window[3] = -(-min((low_y + taps_y).max() + 2, plane_height) // unit_y)
    for c in range(components):
        group = LANES * sides[c]
        strides[c] = -(-((window[2] - window[0]) * info[ACROSS + c] * sides[c]) // group) * group
        starts[c + 1] = starts[c] + (window[3] - window[1]) * info[DOWN + c] * sides[c] * strides[c]
    planes = np.empty(starts[components] + LANES, np.uint8)
    if not read_scan(data, info, quant, counts, symbols, window, sides, planes, starts, strides):
        return False

    # The first pixel of each plane's window, in its own pixels; then reads relative to it.
    from_x, from_y = window[0] * unit_x, window[1] * unit_y
    colour_from_x, colour_from_y = window[0] * sides[1], window[1] * sides[1]
    first, colour_first = low_x.min(), colour_low_x.min()
    span, colour_span = (low_x + taps_x).max() - first, (colour_low_x + colour_taps_x).max() - colour_first
    across, blocks, places = column_weights(weights_x, low_x - first, taps_x)
    colour_across, colour_blocks, colour_places = column_weights(colour_x, colour_low_x - colour_first, colour_taps_x)
    length, padded = -(-max(span, colour_span) // LANES) * LANES, blocks.shape[0] * LANES
    lines = np.zeros(ROWS * length, np.float32)
    y = np.empty(ROWS * padded, np.float32)
    blue, red = np.full(ROWS * padded, 128, np.float32), np.full(ROWS * padded, 128, np.float32)
    rgb = np.empty(3 * padded, np.uint8)
    flat = out.reshape(-1)
    for upper in range(0, rows, ROWS):
        lower = min(upper + ROWS, rows)
        for i in range(upper, lower):
            at = starts[0] + (low_y[i] - from_y) * strides[0] + first - from_x
            blend_rows(planes, at, strides[0], weights_y, i, taps_y[i], lines, (i - upper) * length, span)
        blend_columns(lines, length, across, blocks, places, y)
        for c in range(1, components):
            for i in range(upper, lower):
                at = starts[c] + (colour_low_y[i] - colour_from_y) * strides[1] + colour_first - colour_from_x
                to = (i - upper) * length
                blend_rows(planes, at, strides[1], colour_y, i, colour_taps_y[i], lines, to, colour_span)
            blend_columns(lines, length, colour_across, colour_blocks, colour_places, blue if c == 1 else red)
        for i in range(upper, lower):
            to_rgb(y, blue, red, (i - upper) * padded, padded, rgb)
            if swapped:
                for j in range(columns):
                    for c in range(3):
                        out[left + j, top + i, c] = rgb[3 * j + c]
            else:
                to = uintp(((top + i) * out.shape[1] + left) * 3)
                for j in range(uintp(3 * columns)):
                    flat[to + j] = rgb[j]
    return True
