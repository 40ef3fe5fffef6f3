"""JPEG (ITU-T T.81, annex B): the one reader of its markers."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from resflow.errors import HeaderError
from resflow.images.base import MAX_METADATA, MAX_STEPS, Bytes, Stored, broken, endless, excessive, truncated
from resflow.images.exif import orientation_of

_SEGMENT = struct.Struct(">BBH").unpack_from
_FRAME = struct.Struct(">BHHB").unpack_from
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset([0x00, 0x01, *range(0xD0, 0xD9)])  # markers without a length
_EOI, _SOS, _APP1, _APP15 = 0xD9, 0xDA, 0xE1, 0xEF
_PROGRESSIVE = frozenset([0xC2, 0xC6, 0xCA, 0xCE])
_SCAN = re.compile(rb"\xff\xda")  # also within entropy-coded data, where 0xFF is followed by 0
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


class Frame(NamedTuple):
    """A frame header.

    Args:
        marker: 0xC0 to 0xCF, which tells the coding.
        depth: bits of a sample.
        height: stored rows.
        width: stored columns.
        components: 1 is grey, 3 colour, 4 CMYK.
    """

    marker: int
    depth: int
    height: int
    width: int
    components: int


def segments(data: Bytes) -> Iterator[tuple[int, int, int]]:
    """The segments of a JPEG up to its first scan, which comes last.

    Args:
        data: the encoded image, or its first bytes.

    Yields:
        The byte at which the marker stands, the marker's second byte, and the length that follows it. All bytes of a
        segment are there, but those of the scan.

    Raises:
        HeaderError: bytes are missing, the image ends before a scan, a length is impossible, or no scan comes in
            MAX_STEPS steps.
    """
    end, position = len(data), 2
    for _ in range(MAX_STEPS):
        if position + 4 > end:
            raise truncated("jpeg", position + 4, end)
        lead, marker, length = _SEGMENT(data, position)
        if lead != 0xFF or marker == 0xFF:  # bytes between segments, fill bytes
            position += 1
        elif marker in _BARE:
            position += 2
        elif marker == _SOS:
            yield position, marker, length
            return
        elif marker == _EOI or length < 2:
            raise broken("jpeg", f"marker 0x{marker:02X} of length {length} at byte {position}, before any scan")
        else:
            following = position + 2 + length
            if following + 4 > end:
                raise truncated("jpeg", following + 4, end)
            yield position, marker, length
            position = following
    raise endless("jpeg")


def read_jpeg(data: Bytes) -> Stored:
    """Size and orientation of a JPEG."""
    frame: Frame | None = None
    exif, xmp, joined, position = list[bytes](), b"", 0, 2
    for position, marker, length in segments(data):  # the last is told
        if marker in _SOF:
            if frame is not None:
                raise broken("jpeg", f"a second frame header at byte {position}")
            frame = _frame(data, position)
        elif marker == _APP1:
            body = bytes(data[position + 4 : position + 2 + length])
            if body[:6] == b"Exif\0\0":
                exif.append(body[6:])
                joined += len(body)
                if joined > MAX_METADATA:
                    raise excessive("jpeg", f"more than {MAX_METADATA} bytes of EXIF")
            elif body.startswith(_XMP):
                xmp = body[len(_XMP) :]
    if frame is None:
        raise broken("jpeg", f"the scan at byte {position} comes before any frame header")
    return frame.height, frame.width, orientation_of(b"".join(exif), xmp)


def read_frame(data: Bytes) -> Frame | None:
    """The frame header of a JPEG; None where there is none that can be read."""
    try:
        return next((_frame(data, position) for position, marker, _ in segments(data) if marker in _SOF), None)
    except (HeaderError, struct.error):
        return None


def count_scans(data: Bytes) -> int:
    """How often a decoder goes through all pixels of a JPEG: 1, unless it is progressive or its components lie apart.

    Args:
        data: the whole file, whose header could be read.

    Returns:
        The number of scans, those of images appended to the file included.
    """
    several, components = False, 0
    try:
        for position, marker, _ in segments(data):
            if marker == _SOS:
                several |= data[position + 4] < components
                return len(_SCAN.findall(data, position)) if several else 1
            if marker in _SOF:
                frame = _frame(data, position)
                several, components = marker in _PROGRESSIVE, frame.components
    except (HeaderError, struct.error, IndexError):  # only Pillow reads such a header
        pass
    return max(1, len(_SCAN.findall(data)))


def without_metadata(data: bytes) -> bytes:
    """The same JPEG with its EXIF and XMP (segments APP1) numbered APP15, which no decoder reads.

    Args:
        data: a JPEG whose header could be read.

    Returns:
        As many bytes; the pixels they code are the same, their orientation is gone.

    Source:
        ITU-T T.81, annex B.1.1.
    """
    hidden = bytearray(data)
    with contextlib.suppress(HeaderError):  # only Pillow reads what follows
        for position, marker, _ in segments(data):
            if marker == _APP1:
                hidden[position + 1] = _APP15
    return bytes(hidden)


def _frame(data: Bytes, position: int) -> Frame:
    return Frame(data[position + 1], *_FRAME(data, position + 4))
