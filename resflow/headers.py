"""The size of an image from its first bytes, without decoding: JPEG, PNG, WebP, GIF, TIFF, BMP and AVIF.

The upright size and the orientation agree with Pillow's `ImageOps.exif_transpose`. Orientation comes from EXIF, then
from XMP (JPEG, WebP), and in AVIF from the `irot` and `imir` properties; unreadable EXIF counts as upright.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from resflow.errors import HeaderError

Format: TypeAlias = Literal["jpeg", "png", "webp", "gif", "tiff", "bmp", "avif"]
Bytes: TypeAlias = bytes | memoryview

MAX_SIDE = 65_535
"""Largest height or width that is accepted, in pixels."""
MAX_PIXELS = 2**28
"""Largest height times width that is accepted."""


class HeaderTruncatedError(HeaderError):
    """The bytes end before the header does; `needed` says how many bytes from the start are wanted at least."""

    needed: int = 0


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


_Stored: TypeAlias = tuple[int, int, int]  # height and width as stored, orientation


def read_header(data: Bytes) -> ImageHeader:
    """Read an image's format, upright size and orientation from its first bytes.

    Args:
        data: the encoded image, or its first bytes; a memoryview must be contiguous bytes.

    Returns:
        The header.

    Raises:
        HeaderTruncatedError: more bytes are needed; `needed` says how many.
        HeaderError: no known format, a damaged header, a zero size, or a size beyond MAX_SIDE or MAX_PIXELS.
    """
    if len(data) < 12:
        raise _truncated("image", 12, len(data))
    found = _format(data)
    if found is None:
        raise HeaderError(
            f"no image header: starts with {bytes(data[:12])!r}; expected JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF. "
            "Convert the image, or leave it out."
        )
    try:
        height, width, orientation = _PARSERS[found](data)
    except (struct.error, IndexError, OverflowError) as error:  # every read beyond the end of `data`
        raise _truncated(found, len(data) + 1, len(data)) from error
    if height < 1 or width < 1:
        raise _broken(found, f"size is {height}x{width} (HxW); both must be at least 1")
    if height > MAX_SIDE or width > MAX_SIDE or height * width > MAX_PIXELS:
        raise _broken(
            found,
            f"size is {height}x{width} (HxW); at most {MAX_SIDE} a side and {MAX_PIXELS} pixels are accepted",
        )
    if orientation >= 5:
        height, width = width, height
    return ImageHeader(found, height, width, orientation)


def _format(data: Bytes) -> Format | None:
    start = bytes(data[:12])
    if start[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "webp"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if start[:2] == b"BM":
        return "bmp"
    if start[4:8] == b"ftyp" and (start[8:] in (b"avif", b"avis") or b"avif" in bytes(data[12:256])):
        return "avif"
    return None


def _truncated(kind: str, needed: int, got: int) -> HeaderTruncatedError:
    error = HeaderTruncatedError(
        f"{kind} header is cut short: {got} bytes given, at least {needed} needed. "
        "Replace the image if this is all of it."
    )
    error.needed = needed
    return error


def _broken(kind: str, what: str) -> HeaderError:
    return HeaderError(f"{kind} header is damaged: {what}. Replace the image, or leave it out.")


# JPEG (ITU-T T.81, annex B)

_SEGMENT = struct.Struct(">BBH").unpack_from
_FRAME = struct.Struct(">HH").unpack_from
_U16 = struct.Struct(">H").unpack_from
_U32 = struct.Struct(">I").unpack_from
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset([0x00, 0x01, *range(0xD0, 0xD9)])  # markers without a length
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def _jpeg(data: Bytes) -> _Stored:
    end, position = len(data), 2
    size: tuple[int, int] | None = None
    exif, xmp = b"", b""
    while True:
        if position + 4 > end:
            raise _truncated("jpeg", position + 4, end)
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
            raise _broken("jpeg", f"marker 0x{marker:02X} of length {length} at byte {position}, before any scan")
        if marker in _SOF:
            size = _FRAME(data, position + 5)
        elif marker == _APP1:
            if position + 2 + length > end:
                raise _truncated("jpeg", position + 6 + length, end)
            body = bytes(data[position + 4 : position + 2 + length])
            if body[:6] == b"Exif\0\0":
                exif += body[6:]
            elif body.startswith(_XMP):
                xmp = body[len(_XMP) :]
        position += 2 + length
    if size is None:
        raise _broken("jpeg", f"the scan at byte {position} comes before any frame header")
    return *size, _orientation(exif, xmp)


# EXIF and TIFF (TIFF 6.0, section 2; BigTIFF)

_TAG_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
_WIDTH, _LENGTH, _ORIENTATION = 256, 257, 274


def _directory(data: Bytes) -> dict[int, int]:
    """The first directory's width, length and orientation tags; struct.error where `data` ends too soon."""
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
    for _ in range(entries):
        tag, kind, count = entry.unpack_from(data, position)
        if tag in (_WIDTH, _LENGTH, _ORIENTATION) and kind in _TAG_TYPES and count and tag not in values:
            code = order + _TAG_TYPES[kind]
            where = position + entry.size
            if count * struct.calcsize(code) > inline:
                (where,) = struct.unpack_from(order + ("Q" if inline == 8 else "I"), data, where)
            (values[tag],) = struct.unpack_from(code, data, where)
        elif tag > _ORIENTATION and values:
            break  # tags ascend
        position += entry.size + inline
    return values


def _orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Orientation 1..8 from an EXIF block (a TIFF file), then from an XMP packet."""
    value: int | None = None
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    if exif[:4] in (b"II*\0", b"MM\0*"):
        try:
            value = _directory(exif).get(_ORIENTATION)
        except (struct.error, IndexError):
            value = None  # damaged EXIF hides no pixels; Pillow shows the image upright, too
    if value is None and xmp and (match := _XMP_ORIENTATION.search(xmp)):
        value = int(match[1])
    return value if value is not None and 1 <= value <= 8 else 1


def _tiff(data: Bytes) -> _Stored:
    big = bytes(data[2:4]) in (b"+\0", b"\0+")
    order = "<" if bytes(data[:2]) == b"II" else ">"
    start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    if start + 2 > len(data):  # the directory often lies behind the pixels
        raise _truncated("tiff", start + 2 + 512, len(data))
    values = _directory(data)
    if _WIDTH not in values or _LENGTH not in values:
        raise _broken("tiff", "the first directory has no width or no length")
    orientation = values.get(_ORIENTATION, 1)
    return values[_LENGTH], values[_WIDTH], orientation if 1 <= orientation <= 8 else 1


# PNG (third edition, section 5)


def _png(data: Bytes) -> _Stored:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        raise _broken("png", f"the first chunk is {kind!r} of {length} bytes; expected b'IHDR' of 13")
    if zlib.crc32(data[12:29]) != _U32(data, 29)[0]:
        raise _broken("png", "the checksum of IHDR does not match")
    exif, position, end = b"", 33, len(data)
    while not exif:  # eXIf may also follow the pixels
        if position + 8 > end:
            raise _truncated("png", position + 12, end)
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            break
        if kind == b"eXIf":
            if position + 12 + length > end:
                raise _truncated("png", position + 12 + length, end)
            exif = bytes(data[position + 8 : position + 8 + length])
        elif not kind.isalpha():
            raise _broken("png", f"chunk type {kind!r} at byte {position + 4}")
        position += 12 + length
    return height, width, _orientation(exif)


# WebP (RFC 9649)


def _webp(data: Bytes) -> _Stored:
    kind = bytes(data[12:16])
    if kind == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", data, 23)
        if start != b"\x9d\x01\x2a":
            raise _broken("webp", "no VP8 start code")
        return height & 0x3FFF, width & 0x3FFF, 1
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise _broken("webp", "no VP8L signature")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 1
    if kind != b"VP8X":
        if len(kind) < 4:
            raise _truncated("webp", 30, len(data))
        raise _broken("webp", f"the first chunk is {kind!r}; expected VP8, VP8L or VP8X")
    flags, width, height = data[20], data[24:27], data[27:30]
    if len(height) < 3:
        raise _truncated("webp", 30, len(data))
    chunks = {b"EXIF": b"", b"XMP ": b""}
    wanted = {name for name, bit in ((b"EXIF", 8), (b"XMP ", 4)) if flags & bit}
    position, end = 30, 8 + struct.unpack_from("<I", data, 4)[0]
    while wanted and position + 8 <= end:
        if position + 8 > len(data):
            raise _truncated("webp", position + 8, len(data))
        name, length = struct.unpack_from("<4sI", data, position)
        if name in wanted:
            if position + 8 + length > len(data):
                raise _truncated("webp", position + 8 + length, len(data))
            chunks[name] = bytes(data[position + 8 : position + 8 + length])
            wanted.remove(name)
        position += 8 + length + (length & 1)
    stored = int.from_bytes(height, "little") + 1, int.from_bytes(width, "little") + 1
    return *stored, _orientation(chunks[b"EXIF"], chunks[b"XMP "])


# GIF (89a)


def _gif(data: Bytes) -> _Stored:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[position] == 0x21:  # extensions before the first frame
        position += 2
        while data[position]:
            position += data[position] + 1
        position += 1
    if data[position] != 0x2C:
        raise _broken("gif", f"byte {data[position]:#04x} where the first frame was expected")
    left, top, columns, rows = struct.unpack_from("<HHHH", data, position + 1)
    return max(height, top + rows), max(width, left + columns), 1  # a frame may exceed the screen it declares


# BMP


def _bmp(data: Bytes) -> _Stored:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return height, width, 1
    if header not in (40, 52, 56, 64, 108, 124):
        raise _broken("bmp", f"information header of {header} bytes; expected 12, 40, 52, 56, 64, 108 or 124")
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), width, 1  # a negative height stores the top row first


# AVIF (ISO/IEC 23008-12, 9.2 and 9.3)


def _boxes(data: Bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """First and last byte of the contents of each kind of box (the first of its kind) in data[start:end]."""
    found: dict[bytes, tuple[int, int]] = {}
    for kind, first, last in _box_list(data, start, end):
        found.setdefault(kind, (first, last))
    return found


def _box_list(data: Bytes, start: int, end: int) -> list[tuple[bytes, int, int]]:
    boxes = []
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        elif length == 0:
            length = end - start
        if length < head or start + length > end:
            raise _broken("avif", f"box {kind!r} at byte {start} claims {length} bytes; {end - start} are left")
        boxes.append((kind, start + head, start + length))
        start += length
    return boxes


def _avif(data: Bytes) -> _Stored:
    position = 0
    while True:  # top-level boxes, up to `meta`
        length, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, position + 8)
            head = 16
        if kind == b"meta":
            break
        if length < head:
            raise _broken("avif", f"no meta box; box {kind!r} at byte {position} claims {length} bytes")
        position += length
        if position + 16 > len(data):
            raise _truncated("avif", position + 16, len(data))
    if position + length > len(data):
        raise _truncated("avif", position + length, len(data))
    meta = _boxes(data, position + head + 4, position + length)
    if b"iprp" not in meta or b"pitm" not in meta:
        raise _broken("avif", "no primary item or no item properties")
    start = meta[b"pitm"][0]
    (primary,) = _U32(data, start + 4) if data[start] else _U16(data, start + 4)
    properties = _boxes(data, *meta[b"iprp"])
    if b"ipco" not in properties or b"ipma" not in properties:
        raise _broken("avif", "no property container or no property association")
    listed = _box_list(data, *properties[b"ipco"])
    size: tuple[int, int] | None = None
    turn, mirror = 0, -1
    for number in _associated(data, properties[b"ipma"][0], primary):
        if not 1 <= number <= len(listed):
            continue
        kind, start, _ = listed[number - 1]
        if kind == b"ispe":
            width, height = struct.unpack_from(">II", data, start + 4)
            size = height, width
        elif kind == b"irot":
            turn = data[start] & 3
        elif kind == b"imir":
            mirror = data[start] & 1
    if size is None:
        raise _broken("avif", "the primary item has no size (ispe)")
    return *size, _AVIF_ORIENTATION[mirror][turn]


# Rows: no mirroring, axis 0 (top and bottom change places), axis 1 (left and right); columns: quarter turns
# anticlockwise, done before the mirroring.
_AVIF_ORIENTATION = {-1: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}


def _associated(data: Bytes, start: int, item: int) -> list[int]:
    """Numbers (from 1) of the properties of `item`, from the contents of an ipma box."""
    version, wide = data[start], data[start + 3] & 1
    (items,) = _U32(data, start + 4)
    position = start + 8
    for _ in range(items):
        (found,) = _U32(data, position) if version else _U16(data, position)
        position += 4 if version else 2
        count = data[position]
        position += 1
        if found == item:
            if wide:
                return [_U16(data, position + 2 * i)[0] & 0x7FFF for i in range(count)]
            return [data[position + i] & 0x7F for i in range(count)]
        position += count * (2 if wide else 1)
    return []


_PARSERS: dict[Format, Callable[[Bytes], _Stored]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
    "gif": _gif,
    "tiff": _tiff,
    "bmp": _bmp,
    "avif": _avif,
}
