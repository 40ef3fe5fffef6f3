"""The compiled part of decoding: one shared library, called by ctypes without the interpreter lock.

The contract of each entry is `native.h`; `build.py` compiles the library, where an installation or `make native` asks
for it. It holds every entry for several kinds of processor; the best that this one runs is chosen when it is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from ctypes import c_double, c_int, c_int64, c_size_t, c_ssize_t, c_void_p
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LIBRARY = Path(__file__).parent / f"resflow_native{ {'win32': '.dll', 'darwin': '.dylib'}.get(sys.platform, '.so') }"
INTERFACE = 1
"""What `resflow_interface` must answer, so that code and library are of one version."""

_UINT8, _INT64, _FLOAT32, _FLOAT64 = np.dtype(np.uint8), np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.float64)
_Nothing = ctypes.c_char * 0
_P, _I, _N, _D, _F = c_void_p, c_int64, c_size_t, c_double, c_int
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "decode_window": (_P, _N, _P, _N, _N, _P, _D, _D, _D, _D, _I, _I, _F, _D, _F),
    "resize": (_P, _N, _N, _P, _N, _N, _P, _D, _D, _D, _D, _P, _F),
    "warp": (_P, _N, _N, _P, _N, _N, _P, _D, _D, _P, _P, _P, _F),
    "fill_outside": (_P, _N, _N, _P, _P),
    "to_float_planes": (_P, _N, _N, c_ssize_t, _P, _P),
    "to_byte_planes": (_P, _N, _N, c_ssize_t, _P),
}
_LEVELS = {0: "base", 3: "v3", 4: "v4"}
_NO_MEMORY, _MISUSE = -1, -2


def decode_window(
    data: Bytes,
    out: Bytes,
    box: Ints,
    start_x: float,
    start_y: float,
    step_x: float,
    step_y: float,
    width: int,
    height: int,
    orientation: int,
    oversample: float,
    code: int = 0,
) -> bool:
    """Decode the part of a JPEG that a box shows, and resize it into the box.

    Args:
        data: uint8 [n], the file.
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
        code: the filter: its place in `placement.INTERPOLATIONS`.

    Returns:
        Whether it was done. If not, the file is of a kind that is not taken here, or damaged; `out` may be half filled.

    Raises:
        MemoryError: there is not enough.
        ValueError: the box lies outside `out`, or is empty.
    """
    file, target = _address(data, _UINT8, -1), _address(out, _UINT8, -1, -1, 3)
    shown = _address(box, _INT64, 4)
    rows, columns, _ = out.shape
    where = start_x, start_y, step_x, step_y, width, height, orientation, oversample, code
    return _call("decode_window", file, data.size, target, rows, columns, shown, *where) == 1


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
        code: the filter: its place in `placement.INTERPOLATIONS`.
    """
    pixels, target = _address(source, _UINT8, -1, -1, 3), _address(out, _UINT8, -1, -1, 3)
    shown, colour = _address(box, _INT64, 4), _address(fill, _UINT8, 3)
    where = start_x, start_y, step_x, step_y
    _call("resize", pixels, *source.shape[:2], target, *out.shape[:2], shown, *where, colour, code)


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
    """Sample an intermediate under a turned map, edges repeated, with a crisp outline.

    Args:
        source: uint8 [h, w, 3], the intermediate.
        out: uint8 [H, W, 3], written everywhere.
        inverse: float64 [3, 3], output to source pixels.
        width: of the source image, in source pixels; pixels whose centres fall outside are filled.
        height: the same along y.
        scale: float64 [2], intermediate pixels a source pixel along x and y.
        origin: int64 [2], the intermediate's left top corner on the scaled source.
        fill: uint8 [3], colour outside the image.
        code: the filter: its place in `placement.INTERPOLATIONS`.
    """
    pixels, target = _address(source, _UINT8, -1, -1, 3), _address(out, _UINT8, -1, -1, 3)
    turn, by = _address(inverse, _FLOAT64, 3, 3), _address(scale, _FLOAT64, 2)
    shift, colour = _address(origin, _INT64, 2), _address(fill, _UINT8, 3)
    _call("warp", pixels, *source.shape[:2], target, *out.shape[:2], turn, width, height, by, shift, colour, code)


def fill_outside(out: Bytes, box: Ints, fill: Bytes) -> None:
    """Fill what lies outside a box.

    Args:
        out: uint8 [H, W, 3].
        box: int64 [4], left, top, right, bottom; may be empty.
        fill: uint8 [3], the colour.
    """
    target, shown = _address(out, _UINT8, -1, -1, 3), _address(box, _INT64, 4)
    _call("fill_outside", target, *out.shape[:2], shown, _address(fill, _UINT8, 3))


def to_planes(source: Bytes, out: npt.NDArray[Any], table: npt.NDArray[np.float32] | None = None) -> None:
    """Put an image's pixels into planes: `out[c, y, x] = table[c, source[y, x, c]]`.

    Args:
        source: uint8 [H, W, 3]; rows may lie any way apart, the pixels of one are contiguous.
        out: float32 [3, H, W], or uint8 where there is no table; contiguous, written everywhere.
        table: float32 [3, 256]; None copies bytes.
    """
    height, width, channels = source.shape
    if source.dtype != _UINT8 or channels != 3 or source.strides[1:] != (3, 1):
        raise TypeError(
            f"to_planes needs uint8 [H, W, 3] with contiguous rows; got {source.dtype} {list(source.shape)} "
            f"with strides {list(source.strides)}"
        )
    if out.shape != (3, height, width):
        raise ValueError(f"to_planes got an image of {height}x{width} for planes {list(out.shape)}")
    pixels = source.__array_interface__["data"][0]
    if table is None:
        _call("to_byte_planes", pixels, height, width, source.strides[0], _address(out, _UINT8, 3, -1, -1))
    else:
        planes, values = _address(out, _FLOAT32, 3, -1, -1), _address(table, _FLOAT32, 3, 256)
        _call("to_float_planes", pixels, height, width, source.strides[0], values, planes)


def _address(array: npt.NDArray[Any], dtype: np.dtype[Any], *shape: int) -> int:
    """Where a contiguous array of a type and shape (-1: any size) lies; compiled code does not look again."""
    got = array.shape
    if (
        array.dtype != dtype
        or not array.flags.c_contiguous
        or len(got) != len(shape)
        or any(want not in (-1, size) for want, size in zip(shape, got, strict=True))
    ):
        wanted = ", ".join("any" if size < 0 else str(size) for size in shape)
        raise TypeError(
            f"compiled code needs a contiguous {dtype} array [{wanted}]; got {array.dtype} "
            f"{list(got)}{'' if array.flags.c_contiguous else ', not contiguous'}"
        )
    if array.flags.writeable:
        return ctypes.addressof(_Nothing.from_buffer(cast(Any, array)))
    address: int = array.__array_interface__["data"][0]  # takes four times as long
    return address


def _call(name: str, *arguments: Any) -> int:
    """What an entry returns; the interpreter lock is let go meanwhile."""
    result: int = (_entries or load())[name](*arguments)
    if result == _NO_MEMORY:
        raise MemoryError(f"there is not enough memory to decode an image (in {name})")
    if result == _MISUSE:
        raise ValueError(f"{name} got a box outside its output, or an option that is none: {arguments}")
    return result


_entries: dict[str, Any] = {}
_lock = threading.Lock()


@functools.cache
def missing() -> str:
    """Why the library cannot be used, and what helps; "" where it can."""
    try:
        load()
    except ConfigError as error:
        return str(error)
    return ""


def load() -> dict[str, Any]:
    """The entries by name, for this processor; loaded by whoever asks first.

    Raises:
        ConfigError: the library is not there, or not of this version.
    """
    with _lock:
        if not _entries:
            _entries.update(open_entries())
    return _entries


def open_entries(level: int | None = None) -> dict[str, Any]:
    """The entries by name, for one kind of processor.

    Args:
        level: 0 (any), 3 (AVX2) or 4 (AVX-512); None: the best that this one runs.

    Raises:
        ConfigError: the library is not there, or not of this version.
    """
    library, entries = _opened(), {}
    for name, arguments in _ARGUMENTS.items():
        entry = library[f"resflow_{name}_{_LEVELS[library.resflow_level() if level is None else level]}"]
        entry.argtypes, entry.restype = arguments, c_int
        entries[name] = entry
    return entries


def best_level() -> int:
    """The best kind of code that this processor runs: 0, 3 (AVX2) or 4 (AVX-512)."""
    return int(_opened().resflow_level())


def _opened() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(LIBRARY))
        interface = library.resflow_interface()
    except (OSError, AttributeError) as error:
        raise ConfigError(
            f"Resflow's compiled decoder cannot be loaded from {LIBRARY}: {error}. In a checkout, build it with "
            "`make native`; otherwise install Resflow anew. Engine 'pillow' works without it."
        ) from error
    if interface != INTERFACE:
        raise ConfigError(
            f"Resflow's compiled decoder in {LIBRARY} is of another version: its interface is {interface}, expected "
            f"{INTERFACE}. In a checkout, build it anew with `make native`; otherwise install Resflow anew."
        )
    return library
