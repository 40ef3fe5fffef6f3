"""The formats that are read, and those of one's own: how each is told, where its size stands, how it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.images.avif import read_avif
from resflow.images.base import Bytes, Format, Stored
from resflow.images.exif import read_tiff
from resflow.images.formats import read_bmp, read_gif, read_netpbm, read_png, read_webp
from resflow.images.jpeg import read_jpeg

Values: TypeAlias = npt.NDArray[Any]
"""An image's values as its file has them: [H, W] or [H, W, C], of any real dtype."""
MAX_VALUES = 2**31
"""Numbers in one image, over all its channels, that readers allocate."""


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A file format of images.

    Args:
        name: by which messages and `resflow info` call it.
        matches: whether a file is of this format, from its first 256 bytes.
        size: height, width and EXIF orientation (1 where there is none) of the stored pixels, from the file's first
            bytes; struct.error, IndexError or OverflowError where it needs more of them.
        pixels: all values of a whole file, as stored: [H, W] or [H, W, C]; None for what Pillow's own reader decodes.
    """

    name: Format
    matches: Callable[[Bytes], bool]
    size: Callable[[Bytes], Stored]
    pixels: Callable[[Bytes], Values] | None = None


def register_format(
    name: str,
    *,
    magic: bytes | Callable[[Bytes], bool],
    size: Callable[[Bytes], Stored],
    pixels: Callable[[Bytes], Values],
) -> None:
    """Make a file format of your own known to every source, engine and command.

    Call it where spawned worker processes call it, too: at the import of a module that the dataset's class comes from.

    Args:
        name: new, such as "fits".
        magic: the bytes that such files begin with, or a function that tells from the first 256 bytes.
        size: from a file's first bytes to (height, width, orientation): the stored pixels' rows and columns, and EXIF's
            orientation 1 to 8 (1: as stored). Where the bytes given are too few, raise IndexError.
        pixels: from all bytes of a file to its values as stored, [H, W] or [H, W, C], of any real dtype.

    Raises:
        ConfigError: the name is taken, or an argument is of another kind.
    """
    known = _FORMATS.get(name)
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"a format needs a name of letters, digits and '_'; got {name!r}")
    if known is not None and (known.size is not size or known.pixels is not pixels):
        raise ConfigError(f"there is a format {name!r} already. Register yours by another name.")
    if not ((isinstance(magic, bytes) and magic) or callable(magic)) or not callable(size) or not callable(pixels):
        raise ConfigError(
            f"format {name!r} needs magic (bytes, or a function of bytes), and functions size and pixels; got "
            f"{magic!r}, {size!r} and {pixels!r}"
        )
    _FORMATS[name] = ImageFormat(name, starts_with(magic) if isinstance(magic, bytes) else magic, size, pixels)


def find_format(data: Bytes) -> ImageFormat | None:
    """The format of a file, by its first bytes; None where it is of none."""
    start = bytes(data[:256])
    return next((one for one in _FORMATS.values() if one.matches(start)), None)


def known_format(name: Format) -> ImageFormat:
    """A format by its name."""
    return _FORMATS[name]


def format_names() -> tuple[Format, ...]:
    """Names of all formats."""
    return tuple(_FORMATS)


def starts_with(*magics: bytes) -> Callable[[Bytes], bool]:
    """Whether a file begins with one of these."""
    return lambda data: bytes(data[:32]).startswith(magics)


def of_brands(*brands: bytes) -> Callable[[Bytes], bool]:
    """Whether a file is of ISO's base media format and names one of these brands."""

    def matches(data: Bytes) -> bool:
        if bytes(data[4:8]) != b"ftyp":
            return False
        end = min(int.from_bytes(data[:4], "big"), 256)
        listed = bytes(data[8:12]) + bytes(data[16:end])
        return any(listed[first : first + 4] in brands for first in range(0, len(listed), 4))

    return matches


def _is_webp(data: Bytes) -> bool:
    return bytes(data[:4]) == b"RIFF" and bytes(data[8:12]) == b"WEBP"


def _is_netpbm(data: Bytes) -> bool:
    start = bytes(data[:3])
    return len(start) > 2 and start[:1] == b"P" and start[1:2] in b"123456" and start[2:3] in b" \t\n\r\v\f"


_FORMATS = {
    one.name: one
    for one in (
        ImageFormat("jpeg", starts_with(b"\xff\xd8\xff"), read_jpeg),
        ImageFormat("png", starts_with(b"\x89PNG\r\n\x1a\n"), read_png),
        ImageFormat("webp", _is_webp, read_webp),
        ImageFormat("gif", starts_with(b"GIF87a", b"GIF89a"), read_gif),
        ImageFormat("tiff", starts_with(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), read_tiff),
        ImageFormat("bmp", starts_with(b"BM"), read_bmp),
        ImageFormat("avif", of_brands(b"avif", b"avis"), read_avif),
        ImageFormat("ppm", _is_netpbm, read_netpbm),
    )
}
"""By name, in the order in which they are tried."""


def add_formats(formats: tuple[ImageFormat, ...]) -> None:
    """Make formats known, after those that are."""
    _FORMATS.update({one.name: one for one in formats})
