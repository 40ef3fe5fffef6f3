"""Formats that carry more than 8-bit RGB, and rarer ones: their sizes from their headers, their values by libraries.

JPEG 2000 (ISO/IEC 15444-1, annexes A and I), JPEG XL (ISO/IEC 18181-1 and -2), HEIF (ISO/IEC 23008-12), OpenEXR (file
layout, version 2), DICOM (PS3.10), NumPy's .npy (NEP 1) and Truevision TGA (2.0). JPEG 2000 and TGA come with Pillow,
.npy with NumPy; the others need a package of an extra.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import struct
from typing import Any

import numpy as np

from resflow.errors import HeaderError
from resflow.extras import needed_for
from resflow.images.avif import read_heif
from resflow.images.base import MAX_STEPS, Bytes, Stored, broken, endless
from resflow.images.registry import MAX_VALUES, ImageFormat, Values, of_brands, starts_with

_JXL_BOXES = b"\0\0\0\x0cJXL \r\n\x87\n"
_JP2_BOXES = b"\0\0\0\x0cjP  \r\n\x87\n"
_JP2_STREAM = b"\xff\x4f\xff\x51"
_NPY_HEADER = 10_000  # bytes; NumPy's own limit


def _box(data: Bytes, kinds: tuple[bytes, ...], start: int = 0) -> tuple[bytes, int]:
    """The first box of one of these kinds, from `start` on, and where its contents begin."""
    for _ in range(MAX_STEPS):
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        if kind in kinds:
            return kind, start + head
        if length < head:
            raise broken("image", f"box {kind!r} at byte {start} claims {length} bytes")
        start += length
    raise endless("image")


def _read_jp2(data: Bytes) -> Stored:
    start = 0
    if bytes(data[:4]) != _JP2_STREAM:
        _, inside = _box(data, (b"jp2h",))
        _, start = _box(data, (b"ihdr",), inside)
        height, width = struct.unpack_from(">II", data, start)
        return height, width, 1
    right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
    return bottom - top, right - left, 1


class _Bits:
    """Bits of a JPEG XL codestream, the lowest of each byte first."""

    def __init__(self, data: Bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> int:
        value = 0
        for place in range(count):
            value |= (self._data[self._at >> 3] >> (self._at & 7) & 1) << place
            self._at += 1
        return value

    def side(self) -> int:
        return 1 + self.take((9, 13, 18, 30)[self.take(2)])


_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _read_jxl(data: Bytes) -> Stored:
    if bytes(data[:2]) != b"\xff\x0a":
        kind, start = _box(data, (b"jxlc", b"jxlp"))
        data = data[start + (4 if kind == b"jxlp" else 0) :]
    bits = _Bits(data[2:64])
    small = bits.take(1)
    height = 8 * (1 + bits.take(5)) if small else bits.side()
    ratio = bits.take(3)
    if ratio:
        across, down = _JXL_RATIOS[ratio - 1]
        width = height * across // down
    else:
        width = 8 * (1 + bits.take(5)) if small else bits.side()
    orientation = 1
    if not bits.take(1) and bits.take(1):  # not all at their defaults, and extra fields
        orientation = 1 + bits.take(3)
    return (width, height, 1) if orientation >= 5 else (height, width, 1)  # decoders turn it


def _jxl_values(data: Bytes) -> Values:
    with needed_for("images of JPEG XL need"):
        import imagecodecs
    return np.asarray(imagecodecs.jpegxl_decode(bytes(data)))


def _heif_values(data: Bytes) -> Values:
    with needed_for("images of HEIF need"):
        import pillow_heif
    found = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    return np.asarray(found)


def _read_exr(data: Bytes) -> Stored:
    position = 8
    for _ in range(MAX_STEPS):
        start = position
        while data[position]:
            position += 1
        name = bytes(data[start:position])
        if not name:
            break
        position += 1
        while data[position]:
            position += 1
        (length,) = struct.unpack_from("<I", data, position + 1)
        position += 5
        if name == b"dataWindow":
            left, top, right, bottom = struct.unpack_from("<iiii", data, position)
            return bottom - top + 1, right - left + 1, 1
        position += length
    raise broken("exr", "it has no dataWindow")


def _exr_values(data: Bytes) -> Values:
    with needed_for("images of OpenEXR need"):
        library: Any = importlib.import_module("OpenEXR")  # ships no types
    descriptor = os.memfd_create("image.exr")  # the library opens paths alone
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        path = f"/proc/self/fd/{descriptor}"
        with library.File(path, separate_channels=True, header_only=True) as image:
            height, width, _ = _read_exr(data)
            if height * width * len(image.header()["channels"]) > MAX_VALUES:
                raise OSError(f"it has more than {MAX_VALUES} values")
        with library.File(path, separate_channels=True) as image:
            channels = {name: np.array(channel.pixels) for name, channel in image.channels().items()}
    finally:
        os.close(descriptor)
    named = [name for name in ("R", "G", "B", "Y", "A") if name in channels]
    names = named if len(named) == len(channels) else sorted(channels)
    return np.stack([channels[name].astype(np.float32) for name in names], axis=-1)


def _is_dicom(data: Bytes) -> bool:
    return bytes(data[128:132]) == b"DICM"


def _read_dicom(data: Bytes) -> Stored:
    with needed_for("images of DICOM need"):
        import pydicom
    try:
        found = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(found.Rows), int(found.Columns), 1
    except Exception as error:
        raise IndexError(str(error)) from error  # more bytes may tell


def _dicom_values(data: Bytes) -> Values:
    with needed_for("images of DICOM need"):
        import pydicom
        from pydicom.pixels.utils import pixel_array
    found = pydicom.dcmread(io.BytesIO(data))
    values = np.asarray(pixel_array(found, index=0))
    slope, offset = float(found.get("RescaleSlope", 1)), float(found.get("RescaleIntercept", 0))
    if slope == 1 and offset == 0:
        return values
    if slope.is_integer() and offset.is_integer():
        scaled = values.astype(np.int64) * int(slope) + int(offset)
        small = np.iinfo(np.int16)
        return scaled.astype(np.int16 if small.min <= scaled.min() and scaled.max() <= small.max else np.int32)
    return values.astype(np.float32) * np.float32(slope) + np.float32(offset)


def _npy_header(data: Bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    file = io.BytesIO(bytes(data[: _NPY_HEADER + 16]))
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file, max_header_size=_NPY_HEADER)
    return shape, dtype


def _read_npy(data: Bytes) -> Stored:
    try:
        shape, dtype = _npy_header(data)
    except Exception as error:  # damaged text of a Python literal raises anything
        if len(data) < _NPY_HEADER:
            raise IndexError(str(error)) from error
        raise broken("npy", str(error)) from error
    if len(shape) not in (2, 3) or dtype.kind not in "biuf":
        raise HeaderError(
            f"npy holds {dtype} of shape {list(shape)}; expected an image: [H, W] or [H, W, C], of real numbers. "
            "Convert it, or leave it out."
        )
    return shape[0], shape[1], 1


def _npy_values(data: Bytes) -> Values:
    shape, dtype = _npy_header(data)
    if len(data) < math.prod(shape) * dtype.itemsize:
        raise OSError(f"its header says {dtype} {list(shape)}, and the file has {len(data)} bytes")
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False, max_header_size=_NPY_HEADER))


def _is_tga(data: Bytes) -> bool:
    """It has no magic number: its header must be one that encoders write."""
    if len(data) < 18:
        return False
    coloured, kind, depth, flags = data[1], data[2], data[16], data[17]
    colours = coloured == 1 and kind in (1, 9) and depth in (8, 16) and data[7] in (15, 16, 24, 32)
    plain = coloured == 0 and not any(data[3:8]) and kind in (2, 3, 10, 11) and depth in (8, 16, 24, 32)
    return (colours or plain) and not flags & 0xC0


def _read_tga(data: Bytes) -> Stored:
    width, height = struct.unpack_from("<HH", data, 12)
    return height, width, 1


MORE_FORMATS = (
    ImageFormat("jp2", starts_with(_JP2_BOXES, _JP2_STREAM), _read_jp2),
    ImageFormat("jxl", starts_with(b"\xff\x0a", _JXL_BOXES), _read_jxl, _jxl_values),
    ImageFormat(
        "heif", of_brands(b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), read_heif, _heif_values
    ),
    ImageFormat("exr", starts_with(b"\x76\x2f\x31\x01"), _read_exr, _exr_values),
    ImageFormat("dicom", _is_dicom, _read_dicom, _dicom_values),
    ImageFormat("npy", starts_with(b"\x93NUMPY"), _read_npy, _npy_values),
    ImageFormat("tga", _is_tga, _read_tga),
)
