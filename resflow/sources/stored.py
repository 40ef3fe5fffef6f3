"""Images in files as PIL opens them, without PIL wherever an engine decodes the same pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from resflow.errors import DecodeError, HeaderError
from resflow.images import ImageHeader, whole_header
from resflow.images.pillow import DAMAGE, open_image, rgb_pixels
from resflow.sources.base import Pixels
from resflow.sources.files import file_header, read_file


def stored_size(path: str) -> tuple[int, int]:
    """Height and width of a file's image as `stored_image` gives it; arguments and errors of `turned_size`."""
    return turned_size(path)[0]


def turned_size(path: str) -> tuple[tuple[int, int], int]:
    """The size of a file's image as `stored_image` gives it, and how EXIF turns it, from the file's first bytes.

    Args:
        path: a file in a format that `resflow.images` reads.

    Returns:
        Height and width in pixels, and the EXIF orientation, 1 to 8.

    Raises:
        HeaderError: no size can be read from it.
        ShardError: the file cannot be read.
    """
    try:
        header = file_header(path)
    except HeaderError as error:
        raise error.located(key=path, shard="") from error
    if header.orientation == 1:
        return (header.height, header.width), 1
    if header.format == "jpeg":
        size = (header.height, header.width)
        return size[::-1] if header.orientation >= 5 else size, header.orientation
    with _opened(read_file(path), header, path) as image:
        return (image.height, image.width), header.orientation


def stored_image(path: str) -> memoryview | Pixels:
    """A file's image as PIL opens it, which leaves the EXIF orientation of a JPEG unapplied.

    Encoded wherever engines then decode the same pixels: of a JPEG with another orientation than upright the
    metadata segments are hidden. Other formats with such an orientation are decoded here.

    Args:
        path: the file.

    Returns:
        The file's bytes, or uint8 [H, W, 3].

    Raises:
        ShardError: the file cannot be read.
        DecodeError: an image that is decoded here is damaged.
    """
    data = read_file(path)
    try:
        header = whole_header(data)
        if header.orientation == 1:
            return memoryview(data)
        if header.format == "jpeg" and whole_header(hidden := without_metadata(data)).orientation == 1:
            return memoryview(hidden)
    except HeaderError:  # the engine says what is wrong, and names the sample
        return memoryview(data)
    with _opened(data, header, path) as image:
        return rgb_pixels(image)


@contextmanager
def _opened(data: bytes, header: ImageHeader, path: str) -> Iterator[Image.Image]:
    try:
        with open_image(data, header.format) as image:
            yield image
    except DAMAGE as error:
        message = f"the image cannot be decoded: {error}. Replace the file, or leave it out."
        raise DecodeError(message, key=path) from error


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
    while position + 4 <= len(data) and data[position : position + 2] != b"\xff\xda":
        if data[position] != 0xFF or data[position + 1] == 0xFF:  # bytes between segments, fill bytes
            position += 1
            continue
        if data[position + 1] == 0xE1:
            hidden[position + 1] = 0xEF
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return bytes(hidden)
