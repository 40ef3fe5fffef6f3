"""Coefficients into pixels: inverse cosine transforms of 16 blocks at a time, one block a vector lane.

A block becomes 8x8 pixels, or 6x6, 4x4, 3x3, 2x2 or one of the same picture from its lowest frequencies alone.
"""

from __future__ import annotations

import math

from numba import njit
from numpy import float32, int32, uint8

LANES = 16
"""Blocks of a group. The same coefficient of all of them is contiguous, and distances are constants: it vectorises."""
BLOCK = 65 * LANES
"""Values of a group: 64 coefficients of each block, and a place for those that do not count."""

EXACT = {"nnan", "ninf", "nsz"}
"""Freedoms of the compiler that change no result. Fusing and reordering would, and in another way on another processor:
ranks would give different pixels."""
SIDES = (6, 4, 3, 2, 1)
"""Pixels a side that a block may become instead of 8."""

_1, _2, _3, _4, _5, _6, _7 = (float32(0.5 * math.cos(k * math.pi / 16)) for k in range(1, 8))
_15, _30, _45, _60, _75 = (float32(0.5 * math.cos(math.radians(degrees))) for degrees in (15, 30, 45, 60, 75))
_HALF = float32(0.5)


@njit(nogil=True)
def to_byte(value):
    """The nearest byte to a value about 0."""
    return uint8(int32(min(max(value + float32(128.5), float32(0)), float32(255))))


@njit(nogil=True)
def eight(x0, x1, x2, x3, x4, x5, x6, x7):
    """Eight samples of eight frequencies: even ones and odd ones, added and subtracted."""
    a, b = (x0 + x4) * _4, (x0 - x4) * _4
    c, d = x2 * _2 + x6 * _6, x2 * _6 - x6 * _2
    e0, e1, e2, e3 = a + c, b + d, b - d, a - c
    o0 = x1 * _1 + x3 * _3 + x5 * _5 + x7 * _7
    o1 = x1 * _3 - x3 * _7 - x5 * _1 - x7 * _5
    o2 = x1 * _5 - x3 * _1 + x5 * _7 + x7 * _3
    o3 = x1 * _7 - x3 * _5 + x5 * _3 - x7 * _1
    return e0 + o0, e1 + o1, e2 + o2, e3 + o3, e3 - o3, e2 - o2, e1 - o1, e0 - o0


@njit(nogil=True)
def four(x0, x1, x2, x3):
    """Four samples of the four lowest frequencies."""
    a, b = (x0 + x2) * _4, (x0 - x2) * _4
    c, d = x1 * _2 + x3 * _6, x1 * _6 - x3 * _2
    return a + c, b + d, b - d, a - c


@njit(nogil=True)
def six(x0, x1, x2, x3, x4, x5):
    """Six samples of the six lowest frequencies."""
    a = x0 * _45
    e0, e1, e2 = a + x2 * _30 + x4 * _60, a - x4 * _HALF, a - x2 * _30 + x4 * _60
    b = (x1 - x3 - x5) * _45
    o0, o2 = x1 * _15 + x3 * _45 + x5 * _75, x1 * _75 - x3 * _45 + x5 * _15
    return e0 + o0, e1 + b, e2 + o2, e2 - o2, e1 - b, e0 - o0


@njit(nogil=True)
def three(x0, x1, x2):
    """Three samples of the three lowest frequencies."""
    a, b = x0 * _45 + x2 * _60, x1 * _30
    return a + b, x0 * _45 - x2 * _HALF, a - b


@njit(nogil=True, fastmath=EXACT)
def inverse_8(x, q, work, out, stride):
    """A group into 8 rows of 8 pixels a block; arguments as `inverse` cuts them."""
    for u in range(8):
        for b in range(LANES):
            i = u * LANES + b
            y = eight(
                float32(x[i]) * q[u],
                float32(x[i + 8 * LANES]) * q[u + 8],
                float32(x[i + 16 * LANES]) * q[u + 16],
                float32(x[i + 24 * LANES]) * q[u + 24],
                float32(x[i + 32 * LANES]) * q[u + 32],
                float32(x[i + 40 * LANES]) * q[u + 40],
                float32(x[i + 48 * LANES]) * q[u + 48],
                float32(x[i + 56 * LANES]) * q[u + 56],
            )
            work[i] = y[0]
            work[i + 8 * LANES] = y[1]
            work[i + 16 * LANES] = y[2]
            work[i + 24 * LANES] = y[3]
            work[i + 32 * LANES] = y[4]
            work[i + 40 * LANES] = y[5]
            work[i + 48 * LANES] = y[6]
            work[i + 56 * LANES] = y[7]
    for row in range(8):
        w = work[row * 8 * LANES : (row + 1) * 8 * LANES]
        line = out[row * stride : row * stride + 8 * LANES]
        for b in range(LANES):
            y = eight(
                w[b],
                w[b + LANES],
                w[b + 2 * LANES],
                w[b + 3 * LANES],
                w[b + 4 * LANES],
                w[b + 5 * LANES],
                w[b + 6 * LANES],
                w[b + 7 * LANES],
            )
            i = b * 8
            line[i] = to_byte(y[0])
            line[i + 1] = to_byte(y[1])
            line[i + 2] = to_byte(y[2])
            line[i + 3] = to_byte(y[3])
            line[i + 4] = to_byte(y[4])
            line[i + 5] = to_byte(y[5])
            line[i + 6] = to_byte(y[6])
            line[i + 7] = to_byte(y[7])


@njit(nogil=True, fastmath=EXACT)
def inverse_6(x, q, work, out, stride):
    """A group into 6 rows of 6 pixels a block."""
    for u in range(6):
        for b in range(LANES):
            i = u * LANES + b
            y = six(
                float32(x[i]) * q[u],
                float32(x[i + 8 * LANES]) * q[u + 8],
                float32(x[i + 16 * LANES]) * q[u + 16],
                float32(x[i + 24 * LANES]) * q[u + 24],
                float32(x[i + 32 * LANES]) * q[u + 32],
                float32(x[i + 40 * LANES]) * q[u + 40],
            )
            work[i] = y[0]
            work[i + 8 * LANES] = y[1]
            work[i + 16 * LANES] = y[2]
            work[i + 24 * LANES] = y[3]
            work[i + 32 * LANES] = y[4]
            work[i + 40 * LANES] = y[5]
    for row in range(6):
        w = work[row * 8 * LANES : row * 8 * LANES + 6 * LANES]
        line = out[row * stride : row * stride + 6 * LANES]
        for b in range(LANES):
            y = six(w[b], w[b + LANES], w[b + 2 * LANES], w[b + 3 * LANES], w[b + 4 * LANES], w[b + 5 * LANES])
            i = b * 6
            line[i] = to_byte(y[0])
            line[i + 1] = to_byte(y[1])
            line[i + 2] = to_byte(y[2])
            line[i + 3] = to_byte(y[3])
            line[i + 4] = to_byte(y[4])
            line[i + 5] = to_byte(y[5])


@njit(nogil=True, fastmath=EXACT)
def inverse_4(x, q, work, out, stride):
    """A group into 4 rows of 4 pixels a block."""
    for u in range(4):
        for b in range(LANES):
            i = u * LANES + b
            y = four(
                float32(x[i]) * q[u],
                float32(x[i + 8 * LANES]) * q[u + 8],
                float32(x[i + 16 * LANES]) * q[u + 16],
                float32(x[i + 24 * LANES]) * q[u + 24],
            )
            work[i] = y[0]
            work[i + 8 * LANES] = y[1]
            work[i + 16 * LANES] = y[2]
            work[i + 24 * LANES] = y[3]
    for row in range(4):
        w = work[row * 8 * LANES : row * 8 * LANES + 4 * LANES]
        line = out[row * stride : row * stride + 4 * LANES]
        for b in range(LANES):
            y = four(w[b], w[b + LANES], w[b + 2 * LANES], w[b + 3 * LANES])
            i = b * 4
            line[i] = to_byte(y[0])
            line[i + 1] = to_byte(y[1])
            line[i + 2] = to_byte(y[2])
            line[i + 3] = to_byte(y[3])


@njit(nogil=True, fastmath=EXACT)
def inverse_3(x, q, work, out, stride):
    """A group into 3 rows of 3 pixels a block."""
    for u in range(3):
        for b in range(LANES):
            i = u * LANES + b
            y = three(
                float32(x[i]) * q[u], float32(x[i + 8 * LANES]) * q[u + 8], float32(x[i + 16 * LANES]) * q[u + 16]
            )
            work[i] = y[0]
            work[i + 8 * LANES] = y[1]
            work[i + 16 * LANES] = y[2]
    for row in range(3):
        w = work[row * 8 * LANES : row * 8 * LANES + 3 * LANES]
        line = out[row * stride : row * stride + 3 * LANES]
        for b in range(LANES):
            y = three(w[b], w[b + LANES], w[b + 2 * LANES])
            i = b * 3
            line[i] = to_byte(y[0])
            line[i + 1] = to_byte(y[1])
            line[i + 2] = to_byte(y[2])


@njit(nogil=True, fastmath=EXACT)
def inverse_2(x, q, out, stride):
    """A group into 2 rows of 2 pixels a block."""
    upper, lower = out[: 2 * LANES], out[stride : stride + 2 * LANES]
    for b in range(LANES):
        x0, x1 = float32(x[b]) * q[0], float32(x[b + LANES]) * q[1]
        x2, x3 = float32(x[b + 8 * LANES]) * q[8], float32(x[b + 9 * LANES]) * q[9]
        # The cosines of two points are all sqrt(1/2), half of it in each direction.
        a, c, d, e = (x0 + x1) * _4 * _4, (x0 - x1) * _4 * _4, (x2 + x3) * _4 * _4, (x2 - x3) * _4 * _4
        upper[2 * b] = to_byte(a + d)
        upper[2 * b + 1] = to_byte(c + e)
        lower[2 * b] = to_byte(a - d)
        lower[2 * b + 1] = to_byte(c - e)


@njit(nogil=True)
def inverse(coefficients, source, scale, table, work, planes, target, stride, side):
    """Transform one group of blocks.

    Args:
        coefficients: int16, groups of `BLOCK` values.
        source: where the group starts.
        scale: float32, quantisation tables by place.
        table: where the component's starts.
        work: float32 [64 * LANES], overwritten.
        planes: uint8, filled.
        target: where the group's left top pixel is in it.
        stride: bytes of a row of pixels.
        side: pixels of a block's side: 8 or one of `SIDES`.
    """
    x, q, out = coefficients[source : source + BLOCK], scale[table : table + 64], planes[target:]
    if side == 8:
        inverse_8(x, q, work, out, stride)
    elif side == 6:
        inverse_6(x, q, work, out, stride)
    elif side == 4:
        inverse_4(x, q, work, out, stride)
    elif side == 3:
        inverse_3(x, q, work, out, stride)
    elif side == 2:
        inverse_2(x, q, out, stride)
    else:
        for b in range(LANES):
            out[b] = to_byte(float32(x[b]) * q[0] * float32(0.125))
