"""AVIF (ISO/IEC 23008-12, 9.2 and 9.3)."""

from __future__ import annotations

import struct

from resflow.images.base import MAX_STEPS, U16, U32, Bytes, Stored, broken, endless, truncated


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
            raise broken("avif", f"box {kind!r} at byte {start} claims {length} bytes; {end - start} are left")
        boxes.append((kind, start + head, start + length))
        if len(boxes) > MAX_STEPS:
            raise endless("avif")
        start += length
    return boxes


def read_heif(data: Bytes) -> Stored:
    """Size of a HEIF's primary item as decoders give it: cut to its clean aperture and turned."""
    height, width, orientation = read_avif(data, cut=True)
    return (width, height, 1) if orientation >= 5 else (height, width, 1)


def read_avif(data: Bytes, *, cut: bool = False) -> Stored:
    """Size and orientation of an AVIF's primary item; with `cut`, of its clean aperture."""
    position = 0
    for _ in range(MAX_STEPS):  # top-level boxes, up to `meta`
        length, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, position + 8)
            head = 16
        if kind == b"meta":
            break
        if length < head:
            raise broken("avif", f"no meta box; box {kind!r} at byte {position} claims {length} bytes")
        position += length
        if position + 16 > len(data):
            raise truncated("avif", position + 16, len(data))
    else:
        raise endless("avif")
    if position + length > len(data):
        raise truncated("avif", position + length, len(data))
    meta = _boxes(data, position + head + 4, position + length)
    if b"iprp" not in meta or b"pitm" not in meta:
        raise broken("avif", "no primary item or no item properties")
    start = meta[b"pitm"][0]
    (primary,) = U32(data, start + 4) if data[start] else U16(data, start + 4)
    properties = _boxes(data, *meta[b"iprp"])
    if b"ipco" not in properties or b"ipma" not in properties:
        raise broken("avif", "no property container or no property association")
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
        elif kind == b"clap" and cut:
            across, by_x, down, by_y = struct.unpack_from(">IIII", data, start)
            if not by_x or not by_y:
                raise broken("heif", "a clean aperture (clap) divides by 0")
            size = down // by_y, across // by_x
        elif kind == b"irot":
            turn = data[start] & 3
        elif kind == b"imir":
            mirror = data[start] & 1
    if size is None:
        raise broken("avif", "the primary item has no size (ispe)")
    return *size, _AVIF_ORIENTATION[mirror][turn]


# Rows: no mirroring, axis 0 (top and bottom change places), axis 1 (left and right); columns: quarter turns
# anticlockwise, done before the mirroring.
_AVIF_ORIENTATION = {-1: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}


def _associated(data: Bytes, start: int, item: int) -> list[int]:
    """Numbers (from 1) of the properties of `item`, from the contents of an ipma box."""
    version, wide = data[start], data[start + 3] & 1
    (items,) = U32(data, start + 4)
    position = start + 8
    if items > MAX_STEPS:
        raise endless("avif")
    for _ in range(items):
        (found,) = U32(data, position) if version else U16(data, position)
        position += 4 if version else 2
        count = data[position]
        position += 1
        if found == item:
            if wide:
                return [U16(data, position + 2 * i)[0] & 0x7FFF for i in range(count)]
            return [data[position + i] & 0x7F for i in range(count)]
        position += count * (2 if wide else 1)
    return []
