"""Formats beyond 8-bit RGB: sizes from headers and values from files, against what was encoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import OpenEXR
import pillow_heif
import pydicom
import pytest
import tifffile
import torch
from PIL import Image

import resflow as rf
from resflow.decode import open_engine
from resflow.errors import ConfigError, DecodeError, HeaderError, ResflowError
from resflow.geometry.affine import Geometry, identity
from resflow.images import ImageHeader, read_header, register_format, registry, whole_header
from resflow.images.values import file_values, values_kind
from resflow.pixels import Pixels
from tests.conftest import Command

RNG = np.random.default_rng(3)
SIZE = (37, 53)
Array = npt.NDArray[Any]


def drawn(dtype: str, *channels: int) -> Array:
    if dtype.startswith("float"):
        return RNG.normal(0, 1, (*SIZE, *channels)).astype(dtype)
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, (*SIZE, *channels), endpoint=True).astype(dtype)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def npy(values: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def tiff(values: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def exr(tmp_path: Path, channels: dict[str, Array]) -> bytes:
    path = tmp_path / "image.exr"
    OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(str(path))
    return path.read_bytes()


def dicom(values: Array, slope: float = 1, intercept: float = 0) -> bytes:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * values.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.PixelData = values.tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def heif(values: Array) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(values)).save(buffer, quality=-1)
    return buffer.getvalue()


GREY16, COLOUR16, COLOUR = drawn("uint16"), drawn("uint16", 3), drawn("uint8", 3)
LOSSLESS: dict[str, tuple[Callable[[], bytes], Array]] = {
    "png 16-bit grey": (lambda: saved(Image.fromarray(GREY16), "PNG"), GREY16),
    "png 16-bit colour": (lambda: imagecodecs.png_encode(COLOUR16), COLOUR16),
    "png with alpha": (
        lambda: saved(Image.fromarray(drawn("uint8", 4) * 0 + 9), "PNG"),
        np.full((*SIZE, 4), 9, np.uint8),
    ),
    "pgm 16-bit": (lambda: b"P5\n# a comment\n53 37\n4095\n" + (GREY16 >> 4).astype(">u2").tobytes(), GREY16 >> 4),
    "ppm 16-bit": (lambda: b"P6 53 37 65535\n" + COLOUR16.astype(">u2").tobytes(), COLOUR16),
    "tiff 16-bit": (lambda: tiff(GREY16), GREY16),
    "tiff signed": (lambda: tiff(GREY16.view(np.int16)), GREY16.view(np.int16)),
    "tiff float": (lambda: tiff(GREY16.astype(np.float32) / 7), GREY16.astype(np.float32) / 7),
    "tiff of 16-bit colour": (lambda: tiff(COLOUR16, photometric="rgb"), COLOUR16),
    "tiff of seven bands": (
        lambda: tiff(np.repeat(GREY16[..., None], 7, axis=2), planarconfig="contig", photometric="minisblack"),
        np.repeat(GREY16[..., None], 7, axis=2),
    ),
    "tiff of bands one after the other": (
        lambda: tiff(np.stack([GREY16, ~GREY16]), planarconfig="separate", photometric="minisblack"),
        np.stack([GREY16, ~GREY16], axis=-1),
    ),
    "tiff in tiles, compressed": (
        lambda: tiff(GREY16, tile=(16, 32), compression="zlib", predictor=True),
        GREY16,
    ),
    "tiff of two pages": (lambda: tiff(np.stack([GREY16, ~GREY16]), metadata=None), GREY16),
    "jp2 16-bit colour": (lambda: imagecodecs.jpeg2k_encode(COLOUR16, level=0), COLOUR16),
    "jp2 codestream": (lambda: imagecodecs.jpeg2k_encode(COLOUR, level=0, codecformat="j2k"), COLOUR),
    "jxl 16-bit colour": (lambda: imagecodecs.jpegxl_encode(COLOUR16, lossless=True), COLOUR16),
    "jxl in boxes": (lambda: imagecodecs.jpegxl_encode(GREY16, lossless=True, usecontainer=True), GREY16),
    "heif": (lambda: heif(np.full((*SIZE, 3), 128, np.uint8)), np.full((*SIZE, 3), 128, np.uint8)),
    "npy": (lambda: npy(drawn("float32", 5) * 0 + 2.5), np.full((*SIZE, 5), 2.5, np.float32)),
    "npy, big endian": (lambda: npy(GREY16.astype(">u2")), GREY16),
    "npy, by columns": (lambda: npy(np.asfortranarray(GREY16)), GREY16),
    "tga": (lambda: saved(Image.fromarray(COLOUR), "TGA"), COLOUR),
    "tga, packed, with alpha": (
        lambda: saved(Image.fromarray(np.dstack([COLOUR, COLOUR[..., :1]])), "TGA", rle=True),
        np.dstack([COLOUR, COLOUR[..., :1]]),
    ),
    "dicom": (lambda: dicom(GREY16), GREY16),
    "dicom in Hounsfield units": (
        lambda: dicom((GREY16 & 4095).view(np.int16), 1, -1024),
        (GREY16 & 4095).astype(np.int16) - 1024,
    ),
    "dicom of fractions": (lambda: dicom(GREY16, 0.5, 3), GREY16.astype(np.float32) * np.float32(0.5) + 3),
}


@pytest.mark.parametrize("name", list(LOSSLESS))
def test_files_give_what_was_put_in(name: str) -> None:
    encode, values = LOSSLESS[name]
    data = encode()
    expected = values if values.ndim == 3 else values[..., None]
    found = file_values(data)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)
    assert whole_header(data) == ImageHeader(name.partition(" ")[0].strip(",").replace("pgm", "ppm"), *SIZE, 1)


@pytest.mark.parametrize("name", list(LOSSLESS))
def test_the_beginning_of_a_file_tells_the_size_or_asks_for_more(name: str) -> None:
    data = LOSSLESS[name][0]()
    whole = whole_header(data)
    for count in (*range(0, min(len(data), 700), 7), *range(700, len(data), 997)):
        try:
            assert read_header(data[:count]) in (whole, ImageHeader("tga", whole.height, whole.width, 1)), count
        except HeaderError:
            continue


def test_exr(tmp_path: Path) -> None:
    colour = drawn("float32", 3)
    data = exr(tmp_path, {"RGB": colour})
    assert whole_header(data) == ImageHeader("exr", *SIZE, 1)
    assert np.array_equal(file_values(data), colour)
    depth = exr(tmp_path, {"Z": colour[..., 0].copy()})
    assert np.array_equal(file_values(depth), colour[..., :1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_deep_images_too(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(Image.fromarray(GREY16), "PNG", exif=exif)
    turned = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.T[::-1, ::-1],
        8: lambda a: np.rot90(a),
    }
    assert np.array_equal(file_values(data)[..., 0], turned.get(orientation, lambda a: a)(GREY16))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (200, 300), (300, 200), (512, 512), (1, 9000), (256, 8)])
def test_sizes_of_jpeg_xl_in_all_its_spellings(size: tuple[int, int]) -> None:
    for data in (
        imagecodecs.jpegxl_encode(np.zeros(size, np.uint8)),
        imagecodecs.jpegxl_encode(np.zeros((*size, 3), np.uint8), usecontainer=True),
    ):
        assert (read_header(data).height, read_header(data).width) == size


def test_a_clean_aperture_cuts_a_heif() -> None:
    data = heif(COLOUR)
    assert b"clap" in data  # encoders write even sides
    assert (read_header(data).height, read_header(data).width) == SIZE


@pytest.mark.parametrize("name", list(LOSSLESS))
def test_damaged_files_raise_nothing_else(name: str) -> None:
    good = LOSSLESS[name][0]()
    rng = np.random.default_rng(5)
    read = 0
    for _ in range(25):
        damaged = np.frombuffer(good, np.uint8).copy()
        damaged[rng.integers(0, min(len(good), 400), 4)] = rng.integers(0, 256, 4)
        data = damaged[: rng.integers(1, 2 * len(good))].tobytes()
        with suppress(ResflowError):
            header = whole_header(data)
            if header.height * header.width > 1 << 20:
                continue
            with suppress(OSError):
                file_values(data)
            read += 1
    assert read


def test_bombs_are_refused_before_they_are_allocated() -> None:
    head = np.lib.format.magic(1, 0)
    text = repr({"descr": "<f8", "fortran_order": False, "shape": (30_000, 5_000, 4_000)}).encode()
    data = head + struct.pack("<H", len(text)) + text
    with pytest.raises(OSError, match="and the file has"):
        file_values(data)
    bands = bytearray(tiff(GREY16))
    where = bands.find(struct.pack("<HHI", 277, 3, 1))  # SamplesPerPixel
    struct.pack_into("<H", bands, where + 8, 65_535)
    with pytest.raises((OSError, HeaderError)):
        file_values(bytes(bands))


def test_a_pickle_in_an_array_is_not_read() -> None:
    with pytest.raises(HeaderError, match="expected an image"):
        file_values(npy(np.full(SIZE, None, dtype=object)))


def test_plain_pipelines_take_them_as_8_bits() -> None:
    bright = np.full((*SIZE, 3), 200.4, np.float32)
    engine = open_engine("turbo")
    where = Geometry(identity(1), np.array([SIZE], np.int32), SIZE)
    assert (engine.decode([npy(bright)], where) == 200).all()
    assert [notice.kind for notice in engine.notices] == ["cut off"]
    jxl = imagecodecs.jpegxl_encode(COLOUR, lossless=True)
    found = engine.decode([jxl], where)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, COLOUR)
    assert torch.equal(open_engine("dali").decode([jxl], where), engine.decode([jxl], where))


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FORMATS", dict(registry._FORMATS))


def raw_size(data: bytes | memoryview) -> tuple[int, int, int]:
    height, width = struct.unpack_from("<HH", data, 4)
    return height, width, 1


def raw_pixels(data: bytes | memoryview) -> Array:
    height, width, _ = raw_size(data)
    return np.frombuffer(data, "<u2", height * width, 8).reshape(height, width)


@pytest.mark.usefixtures("formats")
def test_a_format_of_ones_own_is_two_functions(tmp_path: Path) -> None:
    register_format("raw16", magic=b"RAW\0", size=raw_size, pixels=raw_pixels)
    register_format("raw16", magic=b"RAW\0", size=raw_size, pixels=raw_pixels)  # again, as in a worker
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.raw16"))
        Path(paths[-1]).write_bytes(b"RAW\0" + struct.pack("<HH", *SIZE) + GREY16.astype("<u2").tobytes())
    pipeline = rf.Pipeline(resolution=32, buckets=1, targets=None, pixels=Pixels(channels=1, dtype="uint16"))
    data = [(path, number) for number, path in enumerate(paths)]
    (batch,) = rf.DataLoader(data, batch_size=3, pipeline=pipeline)
    assert batch.images.shape[:2] == (3, 1)
    assert int(batch.images[0].int().max()) > 1000
    with pytest.raises(ConfigError, match="a format 'png' already"):
        register_format("png", magic=b"x", size=raw_size, pixels=raw_pixels)
    with pytest.raises(ConfigError, match="needs magic"):
        register_format("other", magic=b"", size=raw_size, pixels=raw_pixels)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    data = imagecodecs.jpegxl_encode(COLOUR)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises((ConfigError, DecodeError), match=r"pip install 'resflow\[tiff\]'"):
        open_engine("turbo").decode([data], Geometry(identity(1), np.array([SIZE], np.int32), SIZE))


@pytest.mark.parametrize("name", list(LOSSLESS))
def test_the_kind_of_a_file_is_that_of_its_values(name: str) -> None:
    data = LOSSLESS[name][0]()
    values = file_values(data)
    assert values_kind(data) == (values.shape[2], values.dtype.name)


@pytest.mark.parametrize(("mode", "kind"), [("1", 1), ("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("P", 3)])
def test_the_kind_of_plain_files(mode: str, kind: int) -> None:
    assert values_kind(saved(Image.new(mode, (5, 4)), "PNG")) == (kind, "uint8")


def test_info_says_what_rgb_would_lose(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(saved(Image.fromarray(GREY16), "PNG"))
    (tmp_path / "3.png").write_bytes(saved(Image.fromarray(COLOUR), "PNG"))
    assert command("info", tmp_path) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "pixels: 3 1 x uint16, 1 3 x uint8" in text
    assert "loses part of 3 of 1 x uint16" in text
