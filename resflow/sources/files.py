"""Images in files of their own: their sizes by header, their bytes as they are."""

from __future__ import annotations

import io
import os
import struct
import zlib

from PIL import Image

from resflow.errors import DecodeError, HeaderError, ShardError
from resflow.headers import HeaderTruncatedError, ImageHeader, read_header
from resflow.sources.base import Pixels
from resflow.sources.items import pil_pixels, read_file

_FIRST = 4 * 1024  # bytes of a file that are tried first
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
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            header = _header(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ShardError(f"the image cannot be read: {error.strerror}. Put the file back.", shard=path) from error
    except HeaderError as error:
        raise error.located(key=path, shard="") from error
    if header is None or (header.orientation != 1 and header.format != "jpeg"):
        try:
            with Image.open(path) as image:
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
        with Image.open(io.BytesIO(data)) as image:
            return pil_pixels(image, path)
    except _DAMAGE as error:
        message = f"the image cannot be decoded: {error}. Replace the file, or leave it out."
        raise DecodeError(message, key=path) from error


def without_metadata(data: bytes) -> bytes:
    """The same JPEG with EXIF and XMP (APP1 segments) under a number that no decoder reads (APP13 becomes of it).

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


def read_files_ahead(paths: list[str]) -> None:
    """Ask the system to read files into its cache; returns at once, does nothing where that is not offered."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # the read that follows says what is wrong
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def common_folder(paths: list[str]) -> str:
    """The deepest folder that holds all of these, with its final slash; "" if there is none."""
    prefix = os.path.commonprefix([min(paths), max(paths)])  # noqa: RUF071 (cut at a folder in the next line)
    return prefix[: prefix.rfind(os.sep) + 1]


def _header(descriptor: int) -> ImageHeader | None:
    """The header of a file's image; None of netpbm."""
    count, data = _FIRST, b""
    while True:
        data = os.pread(descriptor, count, 0)
        if data[:2] in _NETPBM:
            return None
        try:
            return read_header(data)
        except HeaderTruncatedError as error:
            if len(data) < count:
                raise
            count = max(error.needed, 2 * count)
