"""PNG (third edition, section 5), WebP (RFC 9649), GIF (89a), BMP and netpbm (PBM, PGM, PPM)."""

from __future__ import annotations

import re
import struct
import zlib

from resflow.images.base import MAX_STEPS, U32, Bytes, Stored, broken, endless, truncated
from resflow.images.exif import orientation_of

_SPACE = rb"(?:[ \t\n\r\v\f]|#[^\n\r]*[\n\r])+"  # and comments
_NETPBM = re.compile(rb"P[1-6](?=\s)" + _SPACE + rb"([0-9]{1,9})" + _SPACE + rb"([0-9]{1,9})[\s#]")
_NETPBM_HEADER = 4096  # bytes, comments included


def read_png(data: Bytes) -> Stored:
    """Size and orientation of a PNG."""
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        raise broken("png", f"the first chunk is {kind!r} of {length} bytes; expected b'IHDR' of 13")
    if zlib.crc32(data[12:29]) != U32(data, 29)[0]:
        raise broken("png", "the checksum of IHDR does not match")
    exif, position, end = b"", 33, len(data)
    for _ in range(MAX_STEPS):  # eXIf may also follow the pixels
        if position + 8 > end:
            raise truncated("png", position + 12, end)
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            break
        if kind == b"eXIf":
            if position + 12 + length > end:
                raise truncated("png", position + 12 + length, end)
            exif = bytes(data[position + 8 : position + 8 + length])
            break
        if not kind.isalpha():
            raise broken("png", f"chunk type {kind!r} at byte {position + 4}")
        position += 12 + length
    else:
        raise endless("png")
    return height, width, orientation_of(exif)


def read_webp(data: Bytes) -> Stored:
    """Size and orientation of a WebP."""
    kind = bytes(data[12:16])
    if kind == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", data, 23)
        if start != b"\x9d\x01\x2a":
            raise broken("webp", "no VP8 start code")
        return height & 0x3FFF, width & 0x3FFF, 1
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise broken("webp", "no VP8L signature")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 1
    if kind != b"VP8X":
        if len(kind) < 4:
            raise truncated("webp", 30, len(data))
        raise broken("webp", f"the first chunk is {kind!r}; expected VP8, VP8L or VP8X")
    flags, width, height = data[20], data[24:27], data[27:30]
    if len(height) < 3:
        raise truncated("webp", 30, len(data))
    chunks = {b"EXIF": b"", b"XMP ": b""}
    wanted = {name for name, bit in ((b"EXIF", 8), (b"XMP ", 4)) if flags & bit}
    position, end = 30, 8 + struct.unpack_from("<I", data, 4)[0]
    for _ in range(MAX_STEPS):
        if not wanted or position + 8 > end:
            break
        if position + 8 > len(data):
            raise truncated("webp", position + 8, len(data))
        name, length = struct.unpack_from("<4sI", data, position)
        if name in wanted:
            if position + 8 + length > len(data):
                raise truncated("webp", position + 8 + length, len(data))
            chunks[name] = bytes(data[position + 8 : position + 8 + length])
            wanted.remove(name)
        position += 8 + length + (length & 1)
    else:
        raise endless("webp")
    stored = int.from_bytes(height, "little") + 1, int.from_bytes(width, "little") + 1
    return *stored, orientation_of(chunks[b"EXIF"], chunks[b"XMP "])


def read_gif(data: Bytes) -> Stored:
    """Size of a GIF's first frame."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    inside = False
    for _ in range(MAX_STEPS):
        if inside:  # a block of an extension; one of length 0 is its last
            inside = data[position] != 0
            position += data[position] + 1
        elif data[position] == 0x21:  # an extension before the first frame
            inside = True
            position += 2
        else:
            break
    else:
        raise endless("gif")
    if data[position] != 0x2C:
        raise broken("gif", f"byte {data[position]:#04x} where the first frame was expected")
    left, top, columns, rows = struct.unpack_from("<HHHH", data, position + 1)
    return max(height, top + rows), max(width, left + columns), 1  # a frame may exceed the screen it declares


def read_bmp(data: Bytes) -> Stored:
    """Size of a BMP."""
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return height, width, 1
    if header not in (40, 52, 56, 64, 108, 124):
        raise broken("bmp", f"information header of {header} bytes; expected 12, 40, 52, 56, 64, 108 or 124")
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), width, 1  # a negative height stores the top row first


def read_netpbm(data: Bytes) -> Stored:
    """Size of a PBM, PGM or PPM."""
    found = _NETPBM.match(bytes(data[:_NETPBM_HEADER]))
    if found is None:
        if len(data) < _NETPBM_HEADER:
            raise truncated("ppm", len(data) + 1, len(data))
        raise broken("ppm", "no width and height")
    width, height = int(found[1]), int(found[2])
    return height, width, 1
