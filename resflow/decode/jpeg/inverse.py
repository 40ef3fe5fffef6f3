"""Coefficients into pixels: inverse cosine transforms of 16 blocks at a time, one block a vector lane.

A block becomes 8x8 pixels, or 6x6, 4x4, 3x3, 2x2 or one of the same picture from its lowest frequencies alone.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit
from numpy import float32, uintp

from resflow.decode.jpeg.vectors import LANES, fma, loads, products, splat, store_pixels, stores

BLOCK = 65 * LANES
"""Values of a group of blocks: 64 coefficients of each block, the same one of all of them together, and a place for
those that do not count."""
SIDES = (6, 4, 3, 2, 1)
"""Pixels a side that a block may become instead of 8."""

_1, _2, _3, _4, _5, _6, _7 = (float32(0.5 * math.cos(k * math.pi / 16)) for k in range(1, 8))
_15, _30, _45, _60, _75 = (float32(0.5 * math.cos(math.radians(degrees))) for degrees in (15, 30, 45, 60, 75))
_HALF = float32(0.5)


@njit(nogil=True)
def mix(a, by_a, b, by_b):
    """a * by_a + b * by_b."""
    return fma(b, splat(by_b), a * by_a)


@njit(nogil=True)
def mix_four(a, by_a, b, by_b, c, by_c, d, by_d):
    """The sum of four products."""
    return fma(d, splat(by_d), fma(c, splat(by_c), mix(a, by_a, b, by_b)))


@njit(nogil=True)
def eight(x):
    """Eight samples of eight frequencies: even ones and odd ones, added and subtracted."""
    a, b = (x[0] + x[4]) * _4, (x[0] - x[4]) * _4
    c, d = mix(x[2], _2, x[6], _6), mix(x[2], _6, x[6], -_2)
    e0, e1, e2, e3 = a + c, b + d, b - d, a - c
    o0 = mix_four(x[1], _1, x[3], _3, x[5], _5, x[7], _7)
    o1 = mix_four(x[1], _3, x[3], -_7, x[5], -_1, x[7], -_5)
    o2 = mix_four(x[1], _5, x[3], -_1, x[5], _7, x[7], _3)
    o3 = mix_four(x[1], _7, x[3], -_5, x[5], _3, x[7], -_1)
    return e0 + o0, e1 + o1, e2 + o2, e3 + o3, e3 - o3, e2 - o2, e1 - o1, e0 - o0


@njit(nogil=True)
def six(x):
    """Six samples of the six lowest frequencies."""
    a = x[0] * _45
    e0, e1, e2 = a + mix(x[2], _30, x[4], _60), a - x[4] * _HALF, a + mix(x[2], -_30, x[4], _60)
    b = (x[1] - x[3] - x[5]) * _45
    o0 = fma(x[5], splat(_75), mix(x[1], _15, x[3], _45))
    o2 = fma(x[5], splat(_15), mix(x[1], _75, x[3], -_45))
    return e0 + o0, e1 + b, e2 + o2, e2 - o2, e1 - b, e0 - o0


@njit(nogil=True)
def four(x):
    """Four samples of the four lowest frequencies."""
    a, b = (x[0] + x[2]) * _4, (x[0] - x[2]) * _4
    c, d = mix(x[1], _2, x[3], _6), mix(x[1], _6, x[3], -_2)
    return a + c, b + d, b - d, a - c


@njit(nogil=True)
def three(x):
    """Three samples of the three lowest frequencies."""
    a, b = mix(x[0], _45, x[2], _60), x[1] * _30
    return a + b, mix(x[0], _45, x[2], -_HALF), a - b


@njit(nogil=True)
def two(x):
    """Two samples of the two lowest frequencies: the cosines are all sqrt(1/2)."""
    return (x[0] + x[1]) * _4, (x[0] - x[1]) * _4


@njit(nogil=True)
def one(x):
    """The mean."""
    return (x[0] * _4,)


def _both_ways(side: int, transform: Any) -> Any:
    """A compiled function that transforms groups along y, then along x; arguments as those of `inverse`."""
    coefficients_of, put = products(side, 8 * LANES, 8), stores(side, 8 * LANES)
    line_of = loads(side, LANES)

    @njit(nogil=True)
    def both_ways(coefficients, source, groups, scale, table, work, planes, target, stride):
        for _ in range(groups):
            for u in range(uintp(side)):
                at = u * uintp(LANES)
                put(work, at, transform(coefficients_of(coefficients, source + at, scale, table + u)))
            for row in range(uintp(side)):
                store_pixels(planes, target + row * stride, transform(line_of(work, row * uintp(8 * LANES))))
            source += uintp(BLOCK)
            target += uintp(LANES * side)

    return both_ways


_inverse_8, _inverse_6, _inverse_4 = _both_ways(8, eight), _both_ways(6, six), _both_ways(4, four)
_inverse_3, _inverse_2, _inverse_1 = _both_ways(3, three), _both_ways(2, two), _both_ways(1, one)


@njit(nogil=True)
def inverse(coefficients, source, groups, scale, table, work, planes, target, stride, side):
    """Transform groups of blocks that lie side by side.

    Args:
        coefficients: int16, groups of `BLOCK` values.
        source: where the first group starts.
        groups: how many.
        scale: float32, quantisation tables by place.
        table: where the component's starts.
        work: float32 [64 * LANES], overwritten.
        planes: uint8, filled.
        target: where the first group's left top pixel is in it.
        stride: bytes of a row of pixels.
        side: pixels of a block's side: 8 or one of `SIDES`.
    """
    source, table, target, stride = uintp(source), uintp(table), uintp(target), uintp(stride)
    if side == 8:
        _inverse_8(coefficients, source, groups, scale, table, work, planes, target, stride)
    elif side == 6:
        _inverse_6(coefficients, source, groups, scale, table, work, planes, target, stride)
    elif side == 4:
        _inverse_4(coefficients, source, groups, scale, table, work, planes, target, stride)
    elif side == 3:
        _inverse_3(coefficients, source, groups, scale, table, work, planes, target, stride)
    elif side == 2:
        _inverse_2(coefficients, source, groups, scale, table, work, planes, target, stride)
    else:
        _inverse_1(coefficients, source, groups, scale, table, work, planes, target, stride)
