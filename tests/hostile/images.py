"""Hostile images, built from bytes: each with what may come of it."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.decode import samples
from tests.decode.samples import encode, picture

HEIGHT, WIDTH = 48, 67


class Case(NamedTuple):
    """A hostile image.

    Args:
        data: its bytes.
        decodes: True: engines give the reference's pixels; False: a typed error; None: either.
    """

    data: bytes
    decodes: bool | None


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(height: int, width: int, *extra: bytes, rows: bytes | None = None) -> bytes:
    """A grey PNG of a stated size, with chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = rows if rows is not None else zlib.compress(bytes((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_size(kind: str, height: int, width: int) -> bytes:
    """A small file whose header claims another size."""
    plain = Image.fromarray(picture(16, 16))
    if kind == "png":
        return png_of(height, width, rows=zlib.compress(bytes(1000)))
    if kind == "gif":
        data = bytearray(encode(plain, "GIF"))
        data[6:10] = struct.pack("<HH", width, height)
        return bytes(data)
    if kind == "webp":
        frame = encode(plain, "WEBP", lossless=True)[12:]
        extended = struct.pack("<4sIB3x", b"VP8X", 10, 0) + b"".join(
            (side - 1).to_bytes(3, "little") for side in (width, height)
        )
        return b"RIFF" + struct.pack("<I", 4 + len(extended) + len(frame)) + b"WEBP" + extended + frame
    data = bytearray(encode(plain, kind.upper()))
    if kind == "jpeg":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", height, width)
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", width, height)
    elif kind == "tiff":
        for tag, side in ((256, width), (257, height)):
            place = max(data.find(struct.pack("<HHI", tag, kind, 1)) for kind in (3, 4))
            data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, side)
    elif kind == "avif":
        place = data.index(b"ispe") + 8
        data[place : place + 8] = struct.pack(">II", width, height)
    return bytes(data)


def exif_jpeg(body: bytes, order: bytes = b"MM") -> bytes:
    """A JPEG with a hand-made EXIF directory at byte 8 of it."""
    block = b"Exif\0\0" + order + (b"\0*\0\0\0\x08" if order == b"MM" else b"*\0\x08\0\0\0") + body
    plain = samples.jpeg(HEIGHT, WIDTH)
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]


def scan_bomb(height: int = 64, width: int = 64, scans: int = 3000) -> bytes:
    """A progressive JPEG whose last scan, of few bytes, is repeated: each costs as much time as the pixels."""
    data = encode(Image.new("RGB", (width, height), (90, 120, 200)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def cases() -> dict[str, Case]:
    """All hostile images by name."""
    return dict(_cases())


def _cases() -> Iterator[tuple[str, Case]]:
    for name, data in samples.formats(HEIGHT, WIDTH).items():
        yield name, Case(data, True)
        for part in (1, 11, 12, 30, len(data) // 10, len(data) // 2, len(data) * 9 // 10, len(data) - 1):
            yield f"{name} cut at {part}", Case(data[:part], None)
    yield from _shapes()
    yield from _bombs()
    yield from _wrong()
    yield from _exif()


def _shapes() -> Iterator[tuple[str, Case]]:
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "AVIF"):
        yield f"{kind.lower()} 1x1", Case(encode(Image.fromarray(picture(1, 1)), kind), True)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP"):
        grey = Image.fromarray(np.resize(np.arange(256, dtype=np.uint8), (1, 65_500)))
        yield f"{kind.lower()} 1x65500", Case(encode(grey, kind), True)
        yield f"{kind.lower()} 65500x1", Case(encode(grey.transpose(Image.Transpose.TRANSPOSE), kind), True)
    rgb = Image.fromarray(picture(HEIGHT, WIDTH))
    frames = [rgb, Image.fromarray(255 - picture(HEIGHT, WIDTH))]
    yield "png animated", Case(encode(rgb, "PNG", save_all=True, append_images=frames[1:]), True)
    yield "jpeg of several", Case(encode(rgb, "MPO", save_all=True, append_images=frames[1:]), True)
    ycck = bytearray(encode(rgb.convert("CMYK"), "JPEG"))
    adobe = ycck.index(b"Adobe")
    ycck[adobe + 11] = 2  # colour transform: YCCK
    yield "jpeg ycck", Case(bytes(ycck), True)
    deep = bytearray(samples.jpeg(HEIGHT, WIDTH))
    deep[deep.index(b"\xff\xc0") + 4] = 12
    yield "jpeg 12 bit", Case(bytes(deep), False)
    # The entropy-coded data of a Huffman file, read arithmetically: noise, but the same noise for every decoder.
    coded = bytearray(encode(rgb, "JPEG", subsampling=0))
    coded[coded.index(b"\xff\xc0") + 1] = 0xC9
    yield "jpeg arithmetic", Case(bytes(coded), None)
    lossless = bytearray(samples.jpeg(HEIGHT, WIDTH))
    lossless[lossless.index(b"\xff\xc0") + 1] = 0xC3
    yield "jpeg lossless", Case(bytes(lossless), None)
    grey = picture(HEIGHT, WIDTH)[..., 0]
    yield "tiff 16 grey", Case(encode(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"), True)
    yield "tiff float", Case(encode(Image.fromarray(grey.astype(np.float32)), "TIFF"), True)
    yield "tiff cmyk", Case(encode(rgb.convert("CMYK"), "TIFF"), None)


def _bombs() -> Iterator[tuple[str, Case]]:
    for kind in ("jpeg", "png", "gif", "webp", "bmp", "tiff", "avif"):
        yield f"{kind} 65500x65500", Case(with_size(kind, 65_500, 65_500), False)
        yield f"{kind} 30000x30000", Case(with_size(kind, 30_000, 30_000), False)
        yield f"{kind} 2500x2500 of few bytes", Case(with_size(kind, 2500, 2500), None)
    packer = zlib.compressobj(9)  # in pieces, since the tests measure memory
    zeros = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    yield "png pixels of 200 MiB for a small image", Case(png_of(HEIGHT, WIDTH, rows=zeros), None)
    yield "png text bomb", Case(png_of(HEIGHT, WIDTH, chunk(b"zTXt", b"Comment\0\0" + zeros)), None)
    yield "png profile bomb", Case(png_of(HEIGHT, WIDTH, chunk(b"iCCP", b"profile\0\0" + zeros)), None)
    many = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000)))
    yield "png 200 texts", Case(png_of(HEIGHT, WIDTH, many * 200), None)
    yield "png 200000 chunks", Case(png_of(HEIGHT, WIDTH, chunk(b"abCd", b"") * 200_000), False)
    yield "jpeg scans", Case(scan_bomb(), False)
    plain = samples.jpeg(HEIGHT, WIDTH)
    yield "jpeg 2 MiB between its segments", Case(plain[:20] + bytes(2 << 20) + plain[20:], False)
    yield "jpeg 2 MiB of restart markers", Case(plain[:2] + b"\xff\xd0" * (1 << 20) + plain[2:], False)
    segment = b"\xff\xe1\xff\xffExif\0\0" + b"Exif\0\0" * 10921 + b"\0"
    yield "jpeg 20 MiB of exif", Case(plain[:2] + segment * 320 + plain[2:], False)
    gif = encode(Image.fromarray(picture(HEIGHT, WIDTH)), "GIF")
    screen = 13 + (3 << (gif[10] & 7) + 1)
    yield "gif 1 MiB of extensions", Case(gif[:screen] + b"!\xfe" + b"\1a" * (1 << 19) + b"\0" + gif[screen:], False)
    webp = encode(Image.fromarray(picture(16, 16)), "WEBP", lossless=True)[12:]
    body = struct.pack("<4sIB3x3s3s", b"VP8X", 10, 12, b"\x0f\0\0", b"\x0f\0\0") + b"abcd\0\0\0\0" * 200_000 + webp
    yield "webp 200000 chunks", Case(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, False)
    boxes = struct.pack(">I4s4sI", 16, b"ftyp", b"avif", 0) + struct.pack(">I4s", 8, b"free") * 200_000
    yield "avif 200000 boxes", Case(boxes, False)
    entry = struct.pack("<HHQQ", 1, 1, 1, 0)
    big = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", 1 << 60) + entry * 1000
    yield "tiff 2^60 entries", Case(big, False)


def _wrong() -> Iterator[tuple[str, Case]]:
    yield "nothing", Case(b"", False)
    yield "zeros", Case(bytes(4096), False)
    yield "text", Case(b"this is not an image, though its name says so" * 9, False)
    yield "a shell script", Case(b"#!/bin/sh\ntouch /tmp/owned\n", False)
    yield "postscript", Case(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", False)
    yield "svg", Case(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', False)
    yield "pickle", Case(b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.", False)
    plain = samples.jpeg(HEIGHT, WIDTH)
    yield "jpeg with a zip behind it", Case(plain + b"PK\x03\x04" + bytes(500), None)
    frame = plain[plain.index(b"\xff\xc0") :][:19]
    second = frame[:5] + struct.pack(">HH", 9000, 9000) + frame[9:]
    place = plain.index(b"\xff\xda")
    yield "jpeg of two frames", Case(plain[:place] + second + plain[place:], False)
    no_rows = bytearray(plain)
    no_rows[no_rows.index(b"\xff\xc0") + 5 :][:2] = b"\0\0"
    start = no_rows.index(b"\xff\xc0") + 5
    no_rows[start : start + 2] = b"\0\0"
    yield "jpeg without height", Case(bytes(no_rows), False)
    good = samples.png(HEIGHT, WIDTH)
    yield "png of another checksum", Case(good[:40] + bytes([good[40] ^ 255]) + good[41:], None)
    yield "webp smaller than its frame", Case(_webp_within(8, 8), False)


def _webp_within(height: int, width: int) -> bytes:
    """An extended WebP whose canvas is smaller than the frame in it."""
    return with_size("webp", height, width)


def _exif() -> Iterator[tuple[str, Case]]:
    entry = struct.pack(">HHIHH", 274, 3, 1, 6, 0)
    upright = struct.pack(">HHIHH", 274, 3, 1, 1, 0)
    bodies = {
        "exif whose directory follows itself": struct.pack(">H", 1) + upright + struct.pack(">I", 8),
        "exif of 65535 entries": struct.pack(">H", 65535) + upright,
        "exif of a count of 2^32": struct.pack(">H", 1)
        + struct.pack(">HHII", 274, 3, 0xFFFFFFFF, 0xFFFFFFF0)
        + bytes(4),
        "exif beyond its end": struct.pack(">H", 1) + struct.pack(">HHII", 274, 4, 9, 0x7FFFFFFF),
        "exif of orientation 77": struct.pack(">H", 1) + struct.pack(">HHIHH", 274, 3, 1, 77, 0) + bytes(4),
        "exif of a sub-directory in itself": struct.pack(">H", 1) + struct.pack(">HHII", 0x8769, 4, 1, 8) + bytes(4),
    }
    for name, body in bodies.items():
        yield name, Case(exif_jpeg(body), True)
    yield "exif in the other byte order", Case(exif_jpeg(struct.pack(">H", 1) + entry + bytes(4), b"II"), True)
    plain = samples.jpeg(HEIGHT, WIDTH)
    yield "exif of 6 bytes", Case(plain[:2] + b"\xff\xe1\0\x08Exif\0\0" + plain[2:], True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        Image.fromarray(picture(HEIGHT, WIDTH)).save(buffer, "PNG", exif=b"MM\0*\0\0\0\x08\xff\xff" + bytes(20))
    yield "png of broken exif", Case(buffer.getvalue(), True)
