"""The compiled kernels by plain pointers: what `native` compiles once and calls ever after.

Pointers are to contiguous arrays, whose types and sizes `native` has checked.
"""

from __future__ import annotations

from numba import carray, cfunc
from numba.types import CPointer, float64, int64, uint8

from resflow.decode import kernels
from resflow.decode.jpeg import window

_BYTES, _INTS, _FLOATS = CPointer(uint8), CPointer(int64), CPointer(float64)


@cfunc(int64(_BYTES, int64, _BYTES, int64, int64, _INTS, *[float64] * 4, int64, int64, int64, float64))
def decode_window(
    data, size, out, rows, columns, box, start_x, start_y, step_x, step_y, width, height, orientation, oversample
):
    """See `jpeg.window.decode_window`."""
    file, target, shown = carray(data, size), carray(out, (rows, columns, 3)), carray(box, 4)
    return window.decode_window(
        file, target, shown, start_x, start_y, step_x, step_y, width, height, orientation, oversample
    )


@cfunc(int64(_BYTES, int64, int64, _BYTES, int64, int64, _INTS, *[float64] * 4, _BYTES))
def resize(source, height, width, out, rows, columns, box, start_x, start_y, step_x, step_y, fill):
    """See `kernels.resize`."""
    pixels, target = carray(source, (height, width, 3)), carray(out, (rows, columns, 3))
    kernels.resize(pixels, target, carray(box, 4), start_x, start_y, step_x, step_y, carray(fill, 3))
    return 1


@cfunc(int64(_BYTES, int64, int64, _BYTES, int64, int64, _FLOATS, float64, float64, _FLOATS, _INTS, _BYTES))
def warp(source, height, width, out, rows, columns, inverse, source_width, source_height, scale, origin, fill):
    """See `kernels.warp`."""
    pixels, target = carray(source, (height, width, 3)), carray(out, (rows, columns, 3))
    turn, by, shift = carray(inverse, (3, 3)), carray(scale, 2), carray(origin, 2)
    kernels.warp(pixels, target, turn, source_width, source_height, by, shift, carray(fill, 3))
    return 1


@cfunc(int64(_BYTES, int64, int64, _INTS, _BYTES))
def fill_outside(out, rows, columns, box, fill):
    """See `kernels.fill_outside`."""
    kernels.fill_outside(carray(out, (rows, columns, 3)), carray(box, 4), carray(fill, 3))
    return 1


ENTRIES = {"decode_window": decode_window, "resize": resize, "warp": warp, "fill_outside": fill_outside}
