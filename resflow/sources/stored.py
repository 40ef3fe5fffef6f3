"""Images in files as PIL opens them, without PIL wherever an engine decodes the same pixels."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from resflow.errors import DecodeError, HeaderError
from resflow.headers import ImageHeader, read_header
from resflow.sources.base import Pixels
from resflow.sources.files import file_header, read_file
from resflow.sources.items import pil_pixels

_NETPBM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def stored_size(path: str) -> tuple[int, int]:
    """Height and width of a file's image as `stored_image` gives it, from its first bytes.

    Args:
        path: a file in a format that `resflow.headers` reads, or netpbm.

    Returns:
        Height and width in pixels.

    Raises:
        HeaderError: no size can be read from it.
        ShardError: the file cannot be read.
    """
    try:
        header = file_header(path)
    except HeaderError as error:
        if read_file(path)[:2] not in _NETPBM:
            raise error.located(key=path, shard="") from error
        header = None
    if header is None or (header.orientation != 1 and header.format != "jpeg"):
        try:
            with Image.open(path, formats=_formats(header)) as image:
                return image.height, image.width
        except _DAMAGE as error:
            message = f"no image header: {error}. Convert the image, or leave it out."
            raise HeaderError(message, key=path) from error
    return (header.width, header.height) if header.orientation >= 5 else (header.height, header.width)


def stored_image(path: str) -> memoryview | Pixels:
    """A file's image as PIL opens it, which leaves the EXIF orientation of a JPEG unapplied.

    Encoded wherever engines then decode the same pixels: of a JPEG with another orientation than upright the
    metadata segments are hidden. Other formats with such an orientation, and netpbm, are decoded here.

    Args:
        path: the file.

    Returns:
        The file's bytes, or uint8 [H, W, 3].

    Raises:
        ShardError: the file cannot be read.
        DecodeError: an image that is decoded here is damaged.
    """
    data = read_file(path)
    header = None
    if data[:2] not in _NETPBM:
        try:
            header = read_header(data)
        except HeaderError:  # the engine says what is wrong, and names the sample
            return memoryview(data)
        if header.orientation == 1:
            return memoryview(data)
        if header.format == "jpeg":
            return memoryview(without_metadata(data))
    try:
        with Image.open(io.BytesIO(data), formats=_formats(header)) as image:
            return pil_pixels(image, path)
    except _DAMAGE as error:
        message = f"the image cannot be decoded: {error}. Replace the file, or leave it out."
        raise DecodeError(message, key=path) from error


def _formats(header: ImageHeader | None) -> list[str]:
    """The one reader that Pillow may try."""
    return ["PPM" if header is None else header.format.upper()]


def without_metadata(data: bytes) -> bytes:
    """The same JPEG with its EXIF and XMP (segments APP1) numbered APP15, which no decoder reads.

    Args:
        data: a JPEG whose header could be read.

    Returns:
        As many bytes; the pixels they code are the same, their orientation is gone.

    Source:
        ITU-T T.81, annex B.1.1.
    """
    hidden, position = bytearray(data), 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        if data[position + 1] == 0xFF:  # a fill byte
            position += 1
            continue
        if data[position + 1] == 0xE1:
            hidden[position + 1] = 0xEF
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return bytes(hidden)
