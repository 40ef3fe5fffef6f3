"""Laws of vectors in compiled code: operations are those of NumPy, and accesses can be checked like all others."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy import uintp

from resflow.decode.jpeg.vectors import (
    LANES,
    WIDE,
    copy_plain,
    fma,
    load,
    loads,
    products,
    splat,
    store,
    store_pixels,
    stores,
    zeros,
)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_loads_take_neighbours_from_anywhere(dtype: Any) -> None:
    @njit
    def copied(array: Any, at: Any, out: Any) -> None:
        store(out, uintp(3), load(array, uintp(at)))

    values = np.random.default_rng(0).integers(0, 200, 60).astype(dtype)
    if dtype != np.uint8:
        values -= dtype(100)
    for at in (0, 1, 7, 60 - LANES):
        out = np.full(LANES + 4, np.nan, np.float32)
        copied(values, at, out)
        assert np.array_equal(out[3:-1], values[at : at + LANES])
        assert np.isnan(out[[0, 1, 2, -1]]).all()


def test_operators_are_those_of_numbers_and_a_product_is_added_with_one_rounding() -> None:
    @njit
    def computed(a: Any, b: Any, c: Any, by: Any, out: Any) -> None:
        x, y, z = load(a, uintp(0)), load(b, uintp(0)), load(c, uintp(0))
        store(out, uintp(0), x + y)
        store(out, uintp(LANES), x - y)
        store(out, uintp(2 * LANES), x * y)
        store(out, uintp(3 * LANES), x * by)
        store(out, uintp(4 * LANES), fma(x, y, z))
        store(out, uintp(5 * LANES), fma(splat(by), y, zeros()))

    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal(LANES).astype(np.float32) for _ in range(3))
    c = -(a * b) + c * np.float32(1e-7)  # of which one rounding leaves much and two leave little
    by = np.float32(0.3)
    out = np.empty(6 * LANES, np.float32)
    computed(a, b, c, by, out)
    once = (a.astype(np.float64) * b + c).astype(np.float32)  # a product of two float32 is exact in float64
    assert np.array_equal(out, np.concatenate([a + b, a - b, a * b, a * by, once, by * b]))
    assert not np.array_equal(once, a * b + c)  # the fault that this would be: rounding twice


def test_several_lie_as_far_apart_as_is_said() -> None:
    take, multiply, put = loads(3, 20), products(3, 20, 2), stores(3, 17)

    @njit
    def moved(array: Any, factors: Any, out: Any, by: Any) -> None:
        put(out, uintp(1), take(array, uintp(2)))
        put(by, uintp(1), multiply(array, uintp(2), factors, uintp(1)))

    array, factors = np.arange(70, dtype=np.int16), np.arange(1, 7, dtype=np.float32)
    out, by = np.full(60, -1, np.float32), np.full(60, -1, np.float32)
    moved(array, factors, out, by)
    expected, product = np.full(60, -1, np.float32), np.full(60, -1, np.float32)
    for k in range(3):
        part = array[2 + 20 * k : 2 + 20 * k + LANES]
        expected[1 + 17 * k : 1 + 17 * k + LANES] = part
        product[1 + 17 * k : 1 + 17 * k + LANES] = part * factors[1 + 2 * k]
    assert np.array_equal(out, expected)
    assert np.array_equal(by, product)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8])
def test_pixels_are_the_nearest_bytes_of_each_block_in_turn(count: int) -> None:
    take = loads(count, LANES)

    @njit
    def stored(array: Any, out: Any) -> None:
        store_pixels(out, uintp(5), take(array, uintp(0)))

    values = np.random.default_rng(count).uniform(-300, 300, (count, LANES)).astype(np.float32)
    values[0, :4] = -128.6, 127.4, 127.6, -0.5
    out = np.full(count * LANES + 7, 77, np.uint8)
    stored(values.ravel(), out)
    assert np.array_equal(out[5:-2], np.clip(np.floor(values.T + 128.5), 0, 255).astype(np.uint8).ravel())
    assert (out[[0, 1, 2, 3, 4, -2, -1]] == 77).all()


def test_bytes_are_copied_and_counted_up_to_the_first_255() -> None:
    @njit
    def copied(source: Any, target: Any) -> Any:
        return copy_plain(source, uintp(1), target, uintp(2))

    source = np.random.default_rng(2).integers(0, 255, WIDE + 2, dtype=np.uint8)
    for first in range(WIDE + 1):
        marked, target = source.copy(), np.zeros(WIDE + 3, np.uint8)
        marked[1 + first :: 7] = 255
        assert copied(marked, target) == first
        assert np.array_equal(target[2:-1], marked[1:-1])
        assert target[0] == target[1] == target[-1] == 0


def test_an_access_beyond_an_array_is_seen_where_accesses_are_checked() -> None:
    code = """
        import numpy as np
        from numba import njit
        from numpy import uintp
        from resflow.decode.jpeg.vectors import LANES, copy_plain, load, loads, store, store_pixels, zeros
        two = loads(2, LANES)
        def reading(a, b): store(b, uintp(0), load(a, uintp(1)))
        def writing(a, b): store(b, uintp(1), zeros())
        def pixels(a, b): store_pixels(a, uintp(0), two(b, uintp(0)))
        def copying(a, b): copy_plain(a, uintp(0), a, uintp(0))
        for kernel in (reading, writing, pixels, copying):
            try:
                njit(kernel)(np.zeros(LANES, np.uint8), np.zeros(LANES, np.float32))
            except IndexError:
                print(kernel.__name__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={"NUMBA_BOUNDSCHECK": "1", "PATH": ""},
    )
    assert done.stdout.split() == ["reading", "writing", "pixels", "copying"]
