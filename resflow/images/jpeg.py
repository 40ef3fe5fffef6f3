"""JPEG (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
import struct

from resflow.images.base import MAX_METADATA, MAX_STEPS, Bytes, Stored, broken, endless, excessive, truncated
from resflow.images.exif import orientation_of

_SEGMENT = struct.Struct(">BBH").unpack_from
_FRAME = struct.Struct(">HH").unpack_from
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset([0x00, 0x01, *range(0xD0, 0xD9)])  # markers without a length
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
_PROGRESSIVE = frozenset([0xC2, 0xC6, 0xCA, 0xCE])
_SCAN = re.compile(rb"\xff\xda")  # also within entropy-coded data, where 0xFF is followed by 0
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def read_jpeg(data: Bytes) -> Stored:
    """Size and orientation of a JPEG."""
    end, position = len(data), 2
    size: tuple[int, int] | None = None
    exif, xmp, joined = list[bytes](), b"", 0
    for _ in range(MAX_STEPS):
        if position + 4 > end:
            raise truncated("jpeg", position + 4, end)
        lead, marker, length = _SEGMENT(data, position)
        if lead != 0xFF or marker == 0xFF:  # bytes between segments, fill bytes
            position += 1
            continue
        if marker in _BARE:
            position += 2
            continue
        if marker == _SOS:
            break
        if marker == _EOI or length < 2:
            raise broken("jpeg", f"marker 0x{marker:02X} of length {length} at byte {position}, before any scan")
        if marker in _SOF:
            if size is not None:
                raise broken("jpeg", f"a second frame header at byte {position}")
            size = _FRAME(data, position + 5)
        elif marker == _APP1:
            if position + 2 + length > end:
                raise truncated("jpeg", position + 6 + length, end)
            body = bytes(data[position + 4 : position + 2 + length])
            if body[:6] == b"Exif\0\0":
                exif.append(body[6:])
                joined += len(body)
                if joined > MAX_METADATA:
                    raise excessive("jpeg", f"more than {MAX_METADATA} bytes of EXIF")
            elif body.startswith(_XMP):
                xmp = body[len(_XMP) :]
        position += 2 + length
    else:
        raise endless("jpeg")
    if size is None:
        raise broken("jpeg", f"the scan at byte {position} comes before any frame header")
    return *size, orientation_of(b"".join(exif), xmp)


def count_scans(data: Bytes) -> int:
    """How often a decoder goes through all pixels of a JPEG: 1, unless it is progressive or its components lie apart.

    Args:
        data: the whole file, whose header could be read.

    Returns:
        The number of scans, those of images appended to the file included.
    """
    end, position, several, components = len(data), 2, False, 0
    while position + 10 <= end:
        lead, marker, length = _SEGMENT(data, position)
        if lead != 0xFF or marker == 0xFF or marker in _BARE:
            position += 2 if lead == 0xFF and marker != 0xFF else 1
            continue
        if marker == _SOS:
            several |= data[position + 4] < components
            return len(_SCAN.findall(data, position)) if several else 1
        if marker in _SOF:
            several, components = marker in _PROGRESSIVE, data[position + 9]
        position += 2 + length
    return max(1, len(_SCAN.findall(data)))  # of a header that only Pillow reads
