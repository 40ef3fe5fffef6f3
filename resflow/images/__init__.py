"""The size of an image from its first bytes, without decoding: JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF and netpbm.

The upright size and the orientation agree with Pillow's `ImageOps.exif_transpose`. Orientation comes from EXIF, then
from XMP (JPEG, WebP), and in AVIF from the `irot` and `imir` properties; unreadable EXIF counts as upright. Formats are
told by magic number, never by a file's name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from resflow.errors import HeaderError
from resflow.images.avif import read_avif
from resflow.images.base import (
    Bytes,
    Format,
    HeaderExcessError,
    HeaderTruncatedError,
    Stored,
    broken,
    truncated,
)
from resflow.images.exif import read_tiff
from resflow.images.formats import read_bmp, read_gif, read_netpbm, read_png, read_webp
from resflow.images.jpeg import count_scans, read_jpeg

__all__ = [
    "MAX_PIXELS",
    "MAX_SCANS",
    "MAX_SIDE",
    "Bytes",
    "Format",
    "HeaderTruncatedError",
    "ImageHeader",
    "count_scans",
    "find_header",
    "read_header",
    "whole_header",
]

MAX_SIDE = 65_535
"""Largest height or width that is accepted, in pixels."""
MAX_PIXELS = 178_956_970
"""Largest height times width that is decoded unless `Pipeline.max_pixels` says otherwise: where Pillow refuses, too."""
_MAX_INDEXED = 2**31 - 1  # height times width of what an index holds
MAX_SCANS = 100
"""Scans of a JPEG that is decoded: each costs time by the pixels and next to no bytes. Encoders write about ten."""

_FIRST = 4 * 1024  # bytes of an image that are tried first


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
        HeaderError: no known format, a damaged header, a zero size, or a size beyond MAX_SIDE or 2**31 - 1 pixels.
    """
    found = _format(data)
    if found is None and len(data) < 12:
        raise truncated("image", 12, len(data))
    if found is None:
        raise HeaderError(
            f"no image header: starts with {bytes(data[:12])!r}; expected JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or "
            "netpbm. Convert the image, or leave it out."
        )
    try:
        stored = _PARSERS[found](data)
    except (struct.error, IndexError, OverflowError) as error:  # every read beyond the end of `data`
        raise truncated(found, len(data) + 1, len(data)) from error
    return _checked(found, stored)


def whole_header(data: Bytes) -> ImageHeader:
    """Read the header of an image of which all bytes are there: where `read_header` refuses it, as Pillow does.

    So an image whose damage Pillow reads over, as `torchvision.datasets.ImageFolder` has it, has a size here, too.

    Args:
        data: the whole file; a memoryview must be contiguous bytes.

    Returns:
        The header.

    Raises:
        HeaderError: what `read_header` says, where Pillow reads no size either.
    """
    try:
        return read_header(data)
    except HeaderExcessError:
        raise
    except HeaderError:
        found = _format(data)
        if found is None:
            raise
        from resflow.images.pillow import DAMAGE, stored_by_pillow

        try:
            stored = stored_by_pillow(data, found)
        except DAMAGE:
            stored = None
        if stored is None:
            raise
        return _checked(found, stored)


def find_header(read: Callable[[int], Bytes], size: int) -> ImageHeader:
    """Read the header of an image that lies elsewhere, from as few bytes of it as tell.

    Args:
        read: gives so many of its first bytes.
        size: how many it has.

    Returns:
        The header.

    Raises:
        HeaderError: as `whole_header`.
    """
    count = min(size, _FIRST)
    while True:
        data = read(count)
        if len(data) < count or count == size:
            return whole_header(data)
        try:
            return read_header(data)
        except HeaderExcessError:
            raise
        except HeaderTruncatedError as error:
            count = min(size, max(error.needed, 2 * count))
        except HeaderError:
            if _format(data) is None:
                raise
            count = size


def _checked(found: Format, stored: Stored) -> ImageHeader:
    height, width, orientation = stored
    if height < 1 or width < 1:
        raise broken(found, f"size is {height}x{width} (HxW); both must be at least 1")
    if height > MAX_SIDE or width > MAX_SIDE or height * width > _MAX_INDEXED:
        raise broken(
            found,
            f"size is {height}x{width} (HxW); at most {MAX_SIDE} a side and {_MAX_INDEXED} pixels are accepted",
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
    if start[:1] == b"P" and start[1:2] in b"123456" and len(start) > 2 and start[2:3] in b" \t\n\r\v\f":
        return "ppm"
    return None


_PARSERS: dict[Format, Callable[[Bytes], Stored]] = {
    "jpeg": read_jpeg,
    "png": read_png,
    "webp": read_webp,
    "gif": read_gif,
    "tiff": read_tiff,
    "bmp": read_bmp,
    "avif": read_avif,
    "ppm": read_netpbm,
}
