"""The size of an image from its first bytes, without decoding: JPEG, PNG, WebP, GIF, TIFF, BMP and AVIF.

The upright size and the orientation agree with Pillow's `ImageOps.exif_transpose`. Orientation comes from EXIF, then
from XMP (JPEG, WebP), and in AVIF from the `irot` and `imir` properties; unreadable EXIF counts as upright. Formats are
told by magic number, never by a file's name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from resflow.errors import HeaderError
from resflow.headers.avif import read_avif
from resflow.headers.base import Bytes, Format, HeaderTruncatedError, Stored, broken, truncated
from resflow.headers.exif import read_tiff
from resflow.headers.formats import read_bmp, read_gif, read_png, read_webp
from resflow.headers.jpeg import count_scans, read_jpeg

__all__ = [
    "MAX_PIXELS",
    "MAX_SCANS",
    "MAX_SIDE",
    "Bytes",
    "Format",
    "HeaderTruncatedError",
    "ImageHeader",
    "count_scans",
    "read_header",
]

MAX_SIDE = 65_535
"""Largest height or width that is accepted, in pixels."""
MAX_PIXELS = 2**31 - 1
"""Largest height times width that is accepted: an index can hold it. What is decoded is limited by engines."""
MAX_SCANS = 100
"""Scans of a JPEG that is decoded: each costs time by the pixels and next to no bytes. Encoders write about ten."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image's header says.

    Args:
        format: the file format, by magic number.
        height: rows after EXIF orientation, in 1..MAX_SIDE.
        width: columns after EXIF orientation, in 1..MAX_SIDE.
        orientation: EXIF orientation of the stored pixels, 1..8; 5 to 8 swap rows and columns.
    """

    format: Format
    height: int
    width: int
    orientation: int


def read_header(data: Bytes) -> ImageHeader:
    """Read an image's format, upright size and orientation from its first bytes.

    Args:
        data: the encoded image, or its first bytes; a memoryview must be contiguous bytes.

    Returns:
        The header.

    Raises:
        HeaderTruncatedError: more bytes are needed; `needed` says how many.
        HeaderError: no known format, a damaged header, a zero size, or a size beyond MAX_SIDE or MAX_PIXELS.
    """
    if len(data) < 12:
        raise truncated("image", 12, len(data))
    found = _format(data)
    if found is None:
        raise HeaderError(
            f"no image header: starts with {bytes(data[:12])!r}; expected JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF. "
            "Convert the image, or leave it out."
        )
    try:
        height, width, orientation = _PARSERS[found](data)
    except (struct.error, IndexError, OverflowError) as error:  # every read beyond the end of `data`
        raise truncated(found, len(data) + 1, len(data)) from error
    if height < 1 or width < 1:
        raise broken(found, f"size is {height}x{width} (HxW); both must be at least 1")
    if height > MAX_SIDE or width > MAX_SIDE or height * width > MAX_PIXELS:
        raise broken(
            found,
            f"size is {height}x{width} (HxW); at most {MAX_SIDE} a side and {MAX_PIXELS} pixels are accepted",
        )
    if orientation >= 5:
        height, width = width, height
    return ImageHeader(found, height, width, orientation)


def _format(data: Bytes) -> Format | None:
    start = bytes(data[:12])
    if start[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "webp"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if start[:2] == b"BM":
        return "bmp"
    if start[4:8] == b"ftyp" and (start[8:] in (b"avif", b"avis") or b"avif" in bytes(data[12:256])):
        return "avif"
    return None


_PARSERS: dict[Format, Callable[[Bytes], Stored]] = {
    "jpeg": read_jpeg,
    "png": read_png,
    "webp": read_webp,
    "gif": read_gif,
    "tiff": read_tiff,
    "bmp": read_bmp,
    "avif": read_avif,
}
