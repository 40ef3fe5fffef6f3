"""Files that hold an image each: their bytes, their headers, and their images as PIL opens them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import Image

from resflow.errors import DecodeError, HeaderError, ShardError
from resflow.images import ImageHeader, find_header, whole_header
from resflow.images.jpeg import without_metadata
from resflow.images.pillow import DAMAGE, open_image, rgb_pixels
from resflow.sources.base import Pixels

MAX_FILE_BYTES = 1 << 30
"""Bytes of the largest image file that is read: more than `Pipeline.max_pixels` pixels take uncompressed."""

_OPEN = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for a writer


def read_file(path: str) -> bytes:
    """All bytes of a file; ShardError where it cannot be read, is no regular file, or is too large."""
    try:
        descriptor = os.open(path, _OPEN)
        try:
            size = _regular_size(descriptor, path)
            if size > MAX_FILE_BYTES:
                raise ShardError(
                    f"the file has {size} bytes; at most {MAX_FILE_BYTES} are read of an image. Compress it.",
                    shard=path,
                )
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def file_header(path: str) -> ImageHeader:
    """The header of a file's image, from its first bytes.

    Args:
        path: a file in a format that `resflow.images` reads.

    Returns:
        The header.

    Raises:
        HeaderError: it cannot be read.
        ShardError: the file cannot be read.
    """
    try:
        descriptor = os.open(path, _OPEN)
        try:
            return _header(descriptor, _regular_size(descriptor, path))
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_files_ahead(paths: list[str]) -> None:
    """Ask the system to read files into its cache; returns at once, does nothing where that is not offered."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        try:
            descriptor = os.open(path, _OPEN)
        except (OSError, ValueError):  # the read that follows says what is wrong
            continue
        try:
            with suppress(OSError):  # a pipe
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def common_folder(paths: list[str]) -> str:
    """The deepest folder that holds all of these, with its final slash; "" if there is none."""
    prefix = os.path.commonprefix([min(paths), max(paths)])  # noqa: RUF071 (cut at a folder in the next line)
    return prefix[: prefix.rfind(os.sep) + 1]


def _unreadable(path: str, error: OSError | ValueError) -> ShardError:
    if isinstance(error, OSError):
        return ShardError(f"the image cannot be read: {error.strerror}. Put the file back.", shard=path)
    shown = path.encode(errors="backslashreplace").decode()  # may hold what no terminal can show
    return ShardError(f"the image cannot be read: {error}. Correct the name.", shard=shown)


def _regular_size(descriptor: int, path: str) -> int:
    """Bytes of a file; ShardError for a device or a pipe, which may never end."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise ShardError("this is no regular file. Name an image.", shard=path)
    return found.st_size


def _header(descriptor: int, size: int) -> ImageHeader:
    most = min(size, MAX_FILE_BYTES)  # a header may claim that the rest of it lies anywhere
    return find_header(lambda count: os.pread(descriptor, count, 0), most)


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
