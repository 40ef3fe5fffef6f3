"""All values of an image file, in the file's own dtype and channels: what `Pixels` other than 8-bit RGB are made of."""

from __future__ import annotations

import io
import math
import re

import numpy as np

from resflow.errors import HeaderError, ResflowError
from resflow.extras import needed_for
from resflow.images import whole_header
from resflow.images.base import Bytes
from resflow.images.exif import has_small_samples
from resflow.images.pillow import open_image, pil_values
from resflow.images.registry import MAX_VALUES, Values, known_format

_PNG_DEPTH = 24  # the byte that tells it; that of the colour type follows
_NETPBM = re.compile(
    rb"P([56])\s(?:\s*#[^\n\r]*[\n\r])*\s*(\d+)\s(?:\s*#[^\n\r]*[\n\r])*\s*(\d+)\s(?:\s*#[^\n\r]*[\n\r])*\s*(\d+)\s"
)
_MAX_CHANNELS = 4096
_OF_MODE = {"1": (1, "uint8"), "L": (1, "uint8"), "LA": (2, "uint8"), "RGB": (3, "uint8"), "RGBA": (4, "uint8")}
MIRROR_X = (2, 3, 6, 7)
MIRROR_Y = (3, 4, 7, 8)
"""EXIF orientations that mirror the upright image, along x and along y."""


def file_values(encoded: Bytes) -> Values:
    """Decode an image file without losing anything of it: the first frame or page, upright.

    Palettes become RGB (RGBA where they have transparency), CMYK and YCbCr become RGB, single bits 0 and 255. All else
    keeps its channels and its numbers: 16-bit files give uint16, floating ones float32 or float64.

    Args:
        encoded: the whole file.

    Returns:
        [H, W, C] of uint8, uint16, int16, int32, float32 or another real dtype.

    Raises:
        HeaderError: no known format, or an array that is no image.
        ConfigError: a package that reads this format is not installed.
        OSError: the file is damaged, or of a kind that its reader does not know.
    """
    header = whole_header(encoded)
    read = known_format(header.format).pixels
    try:
        values = _deep(encoded, header.format) if read is None else np.asarray(read(encoded))
    except ResflowError:
        raise
    except Exception as error:  # libraries raise anything on damaged files
        raise OSError(f"{type(error).__name__}: {error}") from error
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.dtype.kind not in "biuf" or not 1 <= values.shape[2] <= _MAX_CHANNELS:
        raise HeaderError(
            f"{header.format} gave {values.dtype} {list(values.shape)}; expected [H, W] or [H, W, C] of real numbers. "
            "Convert the image, or leave it out."
        )
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.dtype.byteorder not in "=|":
        values = values.astype(values.dtype.newbyteorder("="))
    return oriented(values, header.orientation)


def values_kind(encoded: Bytes) -> tuple[int, str]:
    """What `file_values` would give, without decoding where Pillow tells it.

    Args:
        encoded: the whole file.

    Returns:
        Channels and dtype: (3, "uint8"), (1, "uint16") ...

    Raises:
        HeaderError: or an error of `file_values`.
    """
    header = whole_header(encoded)
    deep_png = header.format == "png" and encoded[_PNG_DEPTH] == 16
    if known_format(header.format).pixels is None and not deep_png and header.format not in ("tiff", "ppm", "jp2"):
        with open_image(encoded, header.format) as image:
            if (found := _OF_MODE.get(image.mode)) is not None:
                return found
    values = file_values(encoded)
    return values.shape[2], values.dtype.name


def oriented(values: Values, orientation: int) -> Values:
    """Turn stored values upright.

    Args:
        values: [h, w, C] as stored.
        orientation: EXIF orientation 1 to 8.

    Returns:
        [H, W, C], contiguous.
    """
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
    if orientation in MIRROR_X:
        values = values[:, ::-1]
    if orientation in MIRROR_Y:
        values = values[::-1]
    return np.ascontiguousarray(values)


def _deep(encoded: Bytes, kind: str) -> Values:
    """Values of a format that Pillow reads, by another reader where Pillow would cut them."""
    if kind == "png" and encoded[_PNG_DEPTH] == 16 and encoded[_PNG_DEPTH + 1] != 0:  # colour; grey stays whole
        with needed_for("PNGs of 16-bit colour need"):
            import imagecodecs
        return np.asarray(imagecodecs.png_decode(bytes(encoded)))
    if kind == "ppm" and (found := _netpbm(encoded)) is not None:
        return found
    if kind == "tiff" and not has_small_samples(encoded):
        return _tiff(encoded)
    if kind == "jp2":
        with open_image(encoded, "jp2") as image:
            deep = image.mode not in ("L", "I;16") and _is_deep_jp2(encoded)
        if deep:
            with needed_for("JPEG 2000 of more than 8 bits needs"):
                import imagecodecs
            return np.asarray(imagecodecs.jpeg2k_decode(bytes(encoded)))
    try:
        with open_image(encoded, kind) as image:
            return pil_values(image)
    except OSError:
        if kind != "tiff":
            raise
        return _tiff(encoded)  # more bands than Pillow has modes for


def _netpbm(encoded: Bytes) -> Values | None:
    """A PGM or PPM of 16 bits, whose values Pillow scales or cuts; None of any other."""
    found = _NETPBM.match(bytes(encoded[:4096]))
    if found is None or not 255 < int(found[4]) <= 65_535:
        return None
    width, height, channels = int(found[2]), int(found[3]), 3 if found[1] == b"6" else 1
    count = height * width * channels
    if len(encoded) < found.end() + 2 * count:
        raise OSError(f"image file is truncated: {len(encoded)} bytes of {found.end() + 2 * count}")
    values = np.frombuffer(encoded, ">u2", count, found.end())
    return values.reshape(height, width, channels).astype(np.uint16)


def _tiff(encoded: Bytes) -> Values:
    with needed_for("TIFFs of more than 8 bits or four bands need"):
        import tifffile
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        page = file.pages[0]
        if math.prod(page.shape) > MAX_VALUES:
            raise OSError(f"its first page has shape {list(page.shape)}; at most {MAX_VALUES} values are read")
        values = np.asarray(page.asarray())
        if page.axes.startswith("S") and values.ndim == 3:  # bands one after the other
            values = values.transpose(1, 2, 0)
    return values


def _is_deep_jp2(encoded: Bytes) -> bool:
    """Whether the components of a JPEG 2000 have more than 8 bits."""
    start = bytes(encoded).find(b"\xff\x4f\xff\x51")
    return start >= 0 and (encoded[start + 42] & 0x7F) + 1 > 8
