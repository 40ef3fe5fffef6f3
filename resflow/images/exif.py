"""EXIF and TIFF (TIFF 6.0, section 2; BigTIFF)."""

from __future__ import annotations

import re
import struct

from resflow.errors import HeaderError
from resflow.images.base import MAX_STEPS, Bytes, Stored, broken, endless, truncated

_TAG_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
_WIDTH, _LENGTH, _SAMPLE_BITS, _ORIENTATION, _SAMPLE_FORMAT = 256, 257, 258, 274, 339
_SIZE = frozenset([_WIDTH, _LENGTH, _ORIENTATION])
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def _directory(data: Bytes, wanted: frozenset[int] = _SIZE) -> dict[int, int]:
    """First values of tags of the first directory; struct.error where `data` ends too soon."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] == 43:
        (start,) = struct.unpack_from(order + "Q", data, 8)
        count_code, entry, inline = "Q", struct.Struct(order + "HHQ"), 8
    else:
        (start,) = struct.unpack_from(order + "I", data, 4)
        count_code, entry, inline = "H", struct.Struct(order + "HHI"), 4
    (entries,) = struct.unpack_from(order + count_code, data, start)
    position = start + struct.calcsize(order + count_code)
    values: dict[int, int] = {}
    if entries > MAX_STEPS:  # of BigTIFF, which counts them with 64 bits
        raise endless("tiff")
    for _ in range(entries):
        tag, kind, count = entry.unpack_from(data, position)
        if tag in wanted and kind in _TAG_TYPES and count and tag not in values:
            code = order + _TAG_TYPES[kind]
            where = position + entry.size
            if count * struct.calcsize(code) > inline:
                (where,) = struct.unpack_from(order + ("Q" if inline == 8 else "I"), data, where)
            (values[tag],) = struct.unpack_from(code, data, where)
        elif tag > max(wanted) and values:
            break  # tags ascend
        position += entry.size + inline
    return values


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Orientation 1..8 from an EXIF block (a TIFF file), then from an XMP packet."""
    value: int | None = None
    start = 0
    while exif.startswith(b"Exif\0\0", start):
        start += 6
    exif = exif[start:]
    if exif[:4] in (b"II*\0", b"MM\0*"):
        try:
            value = _directory(exif).get(_ORIENTATION)
        except (struct.error, IndexError):
            value = None  # damaged EXIF hides no pixels; Pillow shows the image upright, too
    if value is None and xmp and (match := _XMP_ORIENTATION.search(xmp)):
        value = int(match[1])
    return value if value is not None and 1 <= value <= 8 else 1


def read_tiff(data: Bytes) -> Stored:
    """Size and orientation of a TIFF."""
    big = bytes(data[2:4]) in (b"+\0", b"\0+")
    order = "<" if bytes(data[:2]) == b"II" else ">"
    start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    if start + 2 > len(data):  # the directory often lies behind the pixels
        raise truncated("tiff", start + 2 + 512, len(data))
    values = _directory(data)
    if _WIDTH not in values or _LENGTH not in values:
        raise broken("tiff", "the first directory has no width or no length")
    orientation = values.get(_ORIENTATION, 1)
    return values[_LENGTH], values[_WIDTH], orientation if 1 <= orientation <= 8 else 1


def has_small_samples(data: Bytes) -> bool:
    """Whether a TIFF's samples are whole numbers of 8 bits or fewer, without a sign; its header was read before."""
    try:
        found = _directory(data, frozenset([_SAMPLE_BITS, _SAMPLE_FORMAT]))
    except (struct.error, IndexError, OverflowError, HeaderError):
        return False
    return found.get(_SAMPLE_FORMAT, 1) == 1 and found.get(_SAMPLE_BITS, 1) <= 8
