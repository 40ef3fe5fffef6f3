"""Test images with structure at every scale, encoded in every format that the engines read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

JPEG_KINDS: dict[str, dict[str, object]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "own codes": {"optimize": True, "quality": 97},
    "coarse": {"quality": 5},
    "exact": {"quality": 100, "subsampling": 0},
    "restarts by blocks": {"restart_marker_blocks": 1},
    "restarts by rows": {"restart_marker_rows": 2, "subsampling": 2},
    "comment and profile": {"comment": b"\xff\xd9 not the end", "icc_profile": b"\xff\xda" * 300},
}
"""Baseline JPEGs of every kind that the window decoder takes: options of Pillow's."""


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]: gradients, edges, fine stripes and a little noise, different in each channel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    gradient = 60 + 120 * np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1)
    stripes = 25 * np.stack([np.sin(x * 0.9), np.sin(y * 0.7), np.sin((x - y) * 0.5)], axis=-1)
    block = 70.0 * (((x // 11 + y // 9) % 3) == 0)[..., None] * np.array([1.0, -0.6, 0.4])
    noise = rng.normal(0, 4, (height, width, 3))
    return np.clip(gradient + stripes + block + noise, 0, 255).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    """Pillow's pixels, uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def png(height: int, width: int, seed: int = 0) -> bytes:
    return encode(Image.fromarray(picture(height, width, seed)), "PNG", compress_level=1)


def jpeg(height: int, width: int, seed: int = 0, **options: object) -> bytes:
    return encode(Image.fromarray(picture(height, width, seed)), "JPEG", **{"quality": 92, **options})


def oriented(kind: str, orientation: int, height: int = 48, width: int = 67) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encode(Image.fromarray(picture(height, width)), kind, exif=exif)


def png16(values: npt.NDArray[np.uint16]) -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write, of uint16 [H, W, 3]."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def formats(height: int = 48, width: int = 67) -> dict[str, bytes]:
    """One image in every format and pixel layout, by name."""
    pixels = picture(height, width)
    rgb = Image.fromarray(pixels)
    alpha = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, width, 1))
    rgba = Image.fromarray(np.concatenate([pixels, alpha], axis=-1))
    palette = rgb.quantize(64)
    wide = pixels.astype(np.uint16) * 256 + pixels[:, ::-1]
    frames = [rgb, Image.fromarray(255 - pixels)]
    return {
        "jpeg 4:2:0": encode(rgb, "JPEG", subsampling=2),
        "jpeg 4:2:2": encode(rgb, "JPEG", subsampling=1),
        "jpeg 4:4:4": encode(rgb, "JPEG", subsampling=0),
        "jpeg progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg restart": encode(rgb, "JPEG", restart_marker_rows=1),
        "jpeg grey": encode(rgb.convert("L"), "JPEG"),
        "jpeg cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "png": encode(rgb, "PNG"),
        "png rgba": encode(rgba, "PNG"),
        "png grey": encode(rgb.convert("L"), "PNG"),
        "png grey alpha": encode(rgba.convert("LA"), "PNG"),
        "png bilevel": encode(rgb.convert("1"), "PNG"),
        "png palette": encode(palette, "PNG"),
        "png palette alpha": encode(palette, "PNG", transparency=bytes(range(0, 256, 4))),
        "png 16 grey": encode(Image.fromarray(wide[..., 0]), "PNG"),
        "png 16 rgb": png16(wide),
        "gif": encode(rgb, "GIF"),
        "gif animated": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "tiff": encode(rgb, "TIFF"),
        "tiff lzw": encode(rgb, "TIFF", compression="tiff_lzw"),
        "bmp": encode(rgb, "BMP"),
        "bmp palette": encode(rgb.quantize(16), "BMP"),
        "webp": encode(rgb, "WEBP"),
        "webp lossless": encode(rgb, "WEBP", lossless=True),
        "webp alpha": encode(rgba, "WEBP"),
        "webp animated": encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "avif": encode(rgb, "AVIF"),
    }


def damaged_jpegs(rounds: int, seed: int) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    """Files with some bytes changed, or cut short, and the number of each."""
    rng = np.random.default_rng(seed)
    files = [
        encode(Image.fromarray(picture(40, 56, seed)), "JPEG", **options)
        for seed, options in enumerate(JPEG_KINDS.values())
    ]
    for number in range(rounds):
        data = np.frombuffer(files[number % len(files)], np.uint8).copy()
        many = int(rng.integers(1, 9))
        where = rng.integers(2, len(data) - 2, many) if number % 3 else rng.integers(2, 700, many) % len(data)
        nasty = np.array([0, 0xFF, 0xD0, 0xC4, 0xDA, 1, 0x7F], np.uint8)
        data[where] = rng.choice(nasty, many) if number % 2 else rng.integers(0, 256, many)
        if number % 7 == 0:
            data = np.concatenate([data[: int(rng.integers(4, len(data)))], np.array([0xFF, 0xD9], np.uint8)])
        yield data, number
