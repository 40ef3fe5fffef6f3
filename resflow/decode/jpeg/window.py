"""From a file's bytes to the pixels of a box in a batch: which blocks are needed, and how their pixels become RGB."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy import float32, int32, uint8, uintp

from resflow.decode.jpeg.inverse import EXACT, LANES, SIDES
from resflow.decode.jpeg.scan import read_scan
from resflow.decode.jpeg.segments import ACROSS, COMPONENTS, DOWN, HEIGHT, INFO, WIDTH, read_segments
from resflow.decode.kernels import triangle_weights

_TAPS = 4  # weights are padded to a multiple, and loops unrolled to as many


@njit(nogil=True)
def axis_weights(start, step, first, count, size):
    """Weights of one axis; see `triangle_weights`.

    Returns:
        Weights float32 [count, a multiple of _TAPS], zeros behind the taps; int64 [count] first source pixels; int64
        [count] taps.
    """
    most = int(2 * max(abs(step), 1.0)) + 3
    weights = np.zeros((count, -(-most // _TAPS) * _TAPS), np.float32)
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
    folded = np.zeros((count, -(-most // _TAPS) * _TAPS), np.float32)
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


@njit(nogil=True, fastmath=EXACT)
def blend_rows(planes, at, stride, last, weights, row, taps, line):
    """One row of a plane resized along y, into `line`.

    Args:
        planes: uint8.
        at: where the row of the first tap starts.
        stride: bytes of a row.
        last: where the plane's last row starts; taps beyond it weigh nothing.
        weights: float32 [n, a multiple of _TAPS].
        row: the row of `weights`.
        taps: that count.
        line: float32 [m], filled.
    """
    for k in range(0, taps, _TAPS):
        a = uintp(min(at + k * stride, last))
        b = uintp(min(at + (k + 1) * stride, last))
        c = uintp(min(at + (k + 2) * stride, last))
        d = uintp(min(at + (k + 3) * stride, last))
        w0, w1, w2, w3 = weights[row, k], weights[row, k + 1], weights[row, k + 2], weights[row, k + 3]
        if k == 0:
            for x in range(uintp(line.shape[0])):
                line[x] = (
                    w0 * float32(planes[a + x])
                    + w1 * float32(planes[b + x])
                    + w2 * float32(planes[c + x])
                    + w3 * float32(planes[d + x])
                )
        else:
            for x in range(uintp(line.shape[0])):
                line[x] += (
                    w0 * float32(planes[a + x])
                    + w1 * float32(planes[b + x])
                    + w2 * float32(planes[c + x])
                    + w3 * float32(planes[d + x])
                )


@njit(nogil=True)
def column_weights(weights, taps):
    """Weights by tap, then by output: float32 [a multiple of _TAPS * n], so that outputs are neighbours."""
    count = weights.shape[0]
    most = -(-taps.max() // _TAPS) * _TAPS
    turned = np.empty(most * count, np.float32)
    for k in range(most):
        for j in range(count):
            turned[k * count + j] = weights[j, k]
    return turned


@njit(nogil=True, fastmath=EXACT)
def blend_columns(line, reads, weights, out):
    """A line resized along x.

    Args:
        line: float32, `_TAPS` values longer than its pixels.
        reads: uint32 [n], first pixel of each output.
        weights: float32 [taps * n], of `column_weights`.
        out: float32 [n], filled.
    """
    count = uintp(out.shape[0])
    two, three = count + count, count + count + count
    for at in range(uintp(0), uintp(weights.shape[0]), uintp(_TAPS) * count):
        k = at // count
        if at == uintp(0):
            for j in range(count):
                i = uintp(reads[j])
                out[j] = (
                    weights[j] * line[i]
                    + weights[j + count] * line[i + uintp(1)]
                    + weights[j + two] * line[i + uintp(2)]
                    + weights[j + three] * line[i + uintp(3)]
                )
        else:
            for j in range(count):
                i, w = uintp(reads[j]) + k, at + j
                out[j] += (
                    weights[w] * line[i]
                    + weights[w + count] * line[i + uintp(1)]
                    + weights[w + two] * line[i + uintp(2)]
                    + weights[w + three] * line[i + uintp(3)]
                )


@njit(nogil=True)
def to_byte(value):
    """The nearest byte."""
    return uint8(int32(min(max(value + float32(0.5), float32(0)), float32(255))))


@njit(nogil=True, fastmath=EXACT)
def to_rgb(y, blue, red, out):
    """Brightness and colour differences, float32 [n] each, into uint8 [3 * n].

    Source: ITU-T T.871, 7.
    """
    for j in range(y.shape[0]):
        b, r = blue[j] - float32(128), red[j] - float32(128)
        out[3 * j] = to_byte(y[j] + float32(1.402) * r)
        out[3 * j + 1] = to_byte(y[j] - float32(0.344136286) * b - float32(0.714136286) * r)
        out[3 * j + 2] = to_byte(y[j] + float32(1.772) * b)


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
        orientation: EXIF orientation, 1 to 8.
        oversample: pixels decoded for an output pixel on each axis, at least, before blocks are decoded smaller.

    Returns:
        Whether it was done. If not, the file is of a kind that is not taken here, or damaged; `out` may be half filled.
    """
    info = np.zeros(INFO, np.int64)
    quant = np.zeros(4 * 64, np.float32)
    counts, symbols = np.zeros(4 * 16, np.uint8), np.zeros(4 * 256, np.uint8)
    if not read_segments(data, info, quant, counts, symbols):
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
    planes = np.empty(starts[components], np.uint8)
    if not read_scan(data, info, quant, counts, symbols, window, sides, planes, starts, strides):
        return False

    # The first pixel of each plane's window, in its own pixels; then reads relative to it.
    from_x, from_y = window[0] * unit_x, window[1] * unit_y
    colour_from_x, colour_from_y = window[0] * sides[1], window[1] * sides[1]
    first, colour_first = low_x.min(), colour_low_x.min()
    reads, colour_reads = (low_x - first).astype(np.uint32), (colour_low_x - colour_first).astype(np.uint32)
    across, colour_across = column_weights(weights_x, taps_x), column_weights(colour_x, colour_taps_x)
    span = (low_x + taps_x).max() - first
    colour_span = (colour_low_x + colour_taps_x).max() - colour_first
    line = np.zeros(span + weights_x.shape[1], np.float32)
    colour_line = np.zeros(colour_span + colour_x.shape[1], np.float32)
    y, blue, red = np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(columns, np.float32)
    blue[:] = 128
    red[:] = 128
    rgb = np.empty(3 * columns, np.uint8)
    flat = out.reshape(-1)
    for i in range(rows):
        at = starts[0] + (low_y[i] - from_y) * strides[0] + first - from_x
        last = starts[1] - strides[0] + first - from_x
        blend_rows(planes, at, strides[0], last, weights_y, i, taps_y[i], line[:span])
        blend_columns(line, reads, across, y)
        if components == 3:
            offset = (colour_low_y[i] - colour_from_y) * strides[1] + colour_first - colour_from_x
            end = colour_first - colour_from_x - strides[1]
            taps = colour_taps_y[i]
            blend_rows(
                planes, starts[1] + offset, strides[1], starts[2] + end, colour_y, i, taps, colour_line[:colour_span]
            )
            blend_columns(colour_line, colour_reads, colour_across, blue)
            blend_rows(
                planes, starts[2] + offset, strides[1], starts[3] + end, colour_y, i, taps, colour_line[:colour_span]
            )
            blend_columns(colour_line, colour_reads, colour_across, red)
        if swapped:
            to_rgb(y, blue, red, rgb)
            for j in range(columns):
                for c in range(3):
                    out[left + j, top + i, c] = rgb[3 * j + c]
        else:
            to = ((top + i) * out.shape[1] + left) * 3
            to_rgb(y, blue, red, flat[to : to + 3 * columns])
    return True
