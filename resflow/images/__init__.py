"""The size of an image from its first bytes, without decoding it: what `registry` lists, and formats of your own.

The upright size and the orientation agree with Pillow's `ImageOps.exif_transpose`. Orientation comes from EXIF, then
from XMP (JPEG, WebP), and in AVIF from the `irot` and `imir` properties; unreadable EXIF counts as upright. Formats are
told by magic number, never by a file's name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from resflow.errors import HeaderError
from resflow.images.base import (
    Bytes,
    Format,
    HeaderExcessError,
    HeaderTruncatedError,
    Stored,
    broken,
    truncated,
)
from resflow.images.jpeg import count_scans
from resflow.images.more_formats import MORE_FORMATS
from resflow.images.registry import add_formats, find_format, format_names, register_format

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
    "format_names",
    "read_header",
    "register_format",
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
_MAGIC = 12  # bytes that tell nearly any format
add_formats(MORE_FORMATS)


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
    found = find_format(data)
    if found is None and len(data) < _MAGIC:
        raise truncated("image", _MAGIC, len(data))
    if found is None:
        raise HeaderError(
            f"no image header: starts with {bytes(data[:12])!r}; expected {', '.join(format_names()).upper()}. Convert "
            "the image, leave it out, or register its format: resflow.images.register_format."
        )
    try:
        stored = found.size(data)
    except (struct.error, IndexError, OverflowError) as error:  # every read beyond the end of `data`
        raise truncated(found.name, len(data) + 1, len(data)) from error
    return _checked(found.name, stored)


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
        found = find_format(data)
        if found is None or found.pixels is not None:
            raise
        from resflow.images.pillow import DAMAGE, stored_by_pillow

        try:
            stored = stored_by_pillow(data, found.name)
        except DAMAGE:
            stored = None
        if stored is None:
            raise
        return _checked(found.name, stored)


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
            if find_format(data) is None:
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
