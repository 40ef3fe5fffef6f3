"""What a strict decoder refuses is read as by torchvision's default loader: the same files, nearly the same pixels."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torchvision
from PIL import Image, ImageFile
from torchvision.datasets.folder import default_loader
from typer.testing import CliRunner

import resflow as rf
from resflow.cli.main import app
from resflow.decode import open_engine
from resflow.errors import ConfigError, DecodeError, ResflowError
from resflow.geometry import Geometry
from resflow.images import find_header, read_header, whole_header
from resflow.sources import ShardSource, build_index, dataset_source
from resflow.sources.image_files import stored_image, stored_size
from tests.decode.samples import encode, formats, jpeg, picture, png16

Pixels = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 61, 83
DALI = ("dali",) if all(importlib.util.find_spec(name) for name in ("nvidia", "nvidia.dali")) else ()
# A JPEG has one byte for the sampling of each component: across in the high half, down in the low one.
SAMPLINGS = {
    "4:1:1": (0x41, 0x11, 0x11),
    "4:1:0": (0x42, 0x11, 0x11),
    "2x4": (0x24, 0x11, 0x11),
    "4:4:1": (0x14, 0x11, 0x11),
    "3x1": (0x31, 0x11, 0x11),
    "colours of other sizes": (0x22, 0x21, 0x12),
    "colours larger than grey": (0x11, 0x22, 0x11),
}


def as_pillow(data: bytes, folder: Path) -> Pixels | None:
    """What `ImageFolder` gives; None where it fails."""
    path = folder / "image.jpg"
    path.write_bytes(data)
    try:
        return np.array(default_loader(str(path)))
    except (OSError, SyntaxError, ValueError):
        return None


def decoded(data: object, size: tuple[int, int], engine: str = "turbo", **options: object) -> tuple[Pixels, list[str]]:
    """Pixels at full size, and the kinds of notices."""
    opened = open_engine(engine, **options)  # type: ignore[arg-type]
    batch = opened.decode([data], Geometry(np.eye(3)[None], np.array([size], np.int32), size))  # type: ignore[list-item]
    return batch[0].permute(1, 2, 0).numpy(), [notice.kind for notice in opened.notices]


def as_resflow(data: bytes, folder: Path, engine: str = "turbo") -> tuple[Pixels, list[str]] | None:
    """The same file through the library, as `ImageFolder` takes it."""
    path = folder / "image.jpg"
    path.write_bytes(data)
    try:
        return decoded(stored_image(str(path)), stored_size(str(path)), engine)
    except ResflowError:
        return None


def with_sampling(data: bytes, sampling: tuple[int, ...]) -> bytes:
    """The file with other samplings in its frame: other pixels, and mostly too many or too few bytes for them."""
    changed = bytearray(data)
    place = data.index(b"\xff\xc0") + 11
    for component, value in enumerate(sampling):
        changed[place + 3 * component] = value
    return bytes(changed)


def flat(sampling: tuple[int, ...], side: int = 64) -> bytes:
    """A sound grey square of any sampling: one code of one bit a table, so that every block is two zero bits."""
    plain = encode(Image.new("RGB", (side, side)), "JPEG", subsampling=0)
    parts = [(value >> 4, value & 15) for value in sampling]
    columns, rows = (-(-side // (8 * max(part[axis] for part in parts))) for axis in (0, 1))
    bits = 2 * columns * rows * sum(across * down for across, down in parts)
    scan = bytes(bits // 8) + bytes([0xFF >> bits % 8][: bits % 8])
    table = bytes([1, *[0] * 15, 0])
    codes = b"".join(b"\xff\xc4\x00\x14" + bytes([kind]) + table for kind in (0x00, 0x10, 0x01, 0x11))
    head = with_sampling(plain[: plain.index(b"\xff\xc4")], sampling)
    start = plain.index(b"\xff\xda")
    return head + codes + plain[start : start + 14] + scan + b"\xff\xd9"


def damaged() -> Iterator[bytes]:
    """Files with a little damage each."""
    rng = random.Random(3)
    sound = [jpeg(HEIGHT, WIDTH, subsampling=kind) for kind in (0, 1, 2)]
    sound += [jpeg(HEIGHT, WIDTH, progressive=True), jpeg(HEIGHT, WIDTH, restart_marker_rows=1)]
    sound += [data for name, data in formats(HEIGHT, WIDTH).items() if name in ("png", "tiff", "bmp", "gif", "webp")]
    for number in range(160):
        data = bytearray(sound[number % len(sound)])
        place = rng.randrange(len(data) // 4, len(data))
        match number % 5:
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                del data[place : place + rng.randrange(1, 40)]
            case 2:
                data[place:place] = rng.randbytes(9)
            case 3:
                del data[place:]
            case 4:
                data[place:] = b"\xff\xd9"
        yield bytes(data)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged metadata
@pytest.mark.parametrize("engine", ["turbo", "pillow"])
def test_the_same_files_are_read_as_by_torchvision(engine: str, tmp_path: Path) -> None:
    kinds: list[str] = []
    read = 0
    for number, data in enumerate(damaged()):
        expected, got = as_pillow(data, tmp_path), as_resflow(data, tmp_path, engine)
        assert (expected is None) == (got is None), f"file {number}: {data[:12]!r}, {len(data)} bytes"
        if expected is not None and got is not None:
            read += 1
            kinds += got[1]
            # Damage makes colours far out of range, which are cut off before resizing by one and after it by the other.
            assert np.abs(got[0].astype(int) - expected).mean() <= 5, f"file {number}"
    assert read > 40
    assert (kinds.count("damaged") > 5) == (engine == "turbo")


@pytest.mark.parametrize("name", list(SAMPLINGS))
def test_every_sampling_that_pillow_reads(name: str, tmp_path: Path) -> None:
    for data in (flat(SAMPLINGS[name]), with_sampling(jpeg(64, 64, subsampling=0), SAMPLINGS[name])):
        expected, got = as_pillow(data, tmp_path), as_resflow(data, tmp_path)
        assert expected is not None
        assert got is not None
        assert np.abs(got[0].astype(int) - expected).mean() <= 1.5
    sound = as_resflow(flat(SAMPLINGS[name]), tmp_path)
    assert sound is not None
    assert not sound[1], "a sampling is no damage"
    assert (sound[0] == 128).all()


def broken_code() -> bytes:
    """A JPEG of which the end of the pixels is lost, and not the end of the file."""
    data = jpeg(HEIGHT, WIDTH)
    return data[: len(data) * 3 // 4] + b"\xff\xd9"


def test_damage_is_told_and_a_strict_engine_refuses_it() -> None:
    for engine in ("turbo", *DALI):
        opened = open_engine(engine)
        where = Geometry(np.stack([np.eye(3)] * 3), np.array([(HEIGHT, WIDTH)] * 3, np.int32), (64, 64))
        opened.decode([jpeg(HEIGHT, WIDTH), broken_code(), jpeg(HEIGHT, WIDTH)], where)
        if engine == "turbo":  # DALI passes over this damage itself
            (notice,) = opened.notices
            assert notice == (1, "damaged", "Corrupt JPEG data: premature end of data segment")
        opened.decode([jpeg(HEIGHT, WIDTH)] * 3, where)
        assert not opened.notices
    with pytest.raises(DecodeError, match="premature end of data segment") as caught:
        decoded(broken_code(), (HEIGHT, WIDTH), strict=True)
    assert caught.value.position == 0
    with pytest.raises(ConfigError, match="engine 'pillow' cannot be strict"):
        open_engine("pillow", strict=True)
    with pytest.raises(ConfigError, match=r"Pipeline.strict"):
        rf.Pipeline(resolution=64, engine="pillow", strict=True)


def test_a_file_that_is_cut_short_is_an_error_unless_pillow_is_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (jpeg(HEIGHT, WIDTH)[:-700], encode(Image.fromarray(picture(HEIGHT, WIDTH)), "PNG")[:-900]):
        assert as_pillow(data, tmp_path) is None
        assert as_resflow(data, tmp_path) is None
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for data in (jpeg(HEIGHT, WIDTH)[:-700], encode(Image.fromarray(picture(HEIGHT, WIDTH)), "PNG")[:-900]):
        expected, got = as_pillow(data, tmp_path), as_resflow(data, tmp_path)
        assert expected is not None
        assert got is not None
        assert np.abs(got[0].astype(int) - expected).mean() <= 1.5


def test_a_header_that_only_pillow_reads() -> None:
    data = encode(Image.fromarray(picture(HEIGHT, WIDTH)), "PNG")
    without_end = data[: data.index(b"IEND") - 4]
    with pytest.raises(ResflowError, match="cut short"):
        read_header(without_end)
    header = whole_header(without_end)
    assert (header.format, header.height, header.width) == ("png", HEIGHT, WIDTH)
    assert find_header(lambda count: without_end[:count], len(without_end)) == header
    pixels, _ = decoded(without_end, (HEIGHT, WIDTH))
    assert np.array_equal(pixels, picture(HEIGHT, WIDTH))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders with a sound, a damaged and a deep image."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "1.jpg").write_bytes(jpeg(HEIGHT, WIDTH))
    (tmp_path / "in" / "a" / "2.jpg").write_bytes(broken_code())
    Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)).save(
        tmp_path / "in" / "a" / "3.png"
    )
    return tmp_path / "in"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_counts_them_and_says_so_once(folder: Path, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    dataset = torchvision.datasets.ImageFolder(folder)
    loader = rf.DataLoader(dataset, 3, num_workers=workers, pipeline=rf.Pipeline(resolution=64, buckets=1))
    with caplog.at_level(logging.WARNING, "resflow"):
        for _ in range(2):
            (batch,) = loader
            assert [(one.key, one.kind) for one in batch.tolerated] == [("2.jpg", "damaged"), ("3.png", "cut off")]
            assert loader.stats().tolerated == {"damaged": 1, "cut off": 1}
    said = [record.getMessage() for record in caplog.records if "strict=True" in record.getMessage()]
    assert len(said) == 2
    assert all(part in said[0] for part in ("2.jpg", "premature end", "stats()"))
    assert all(part in said[1] for part in ("3.png", "5062", "convert('RGB')"))
    assert "images damaged: 1, cut off: 1" in str(loader.stats())
    pipeline = rf.Pipeline(resolution=64, buckets=1, strict=True, on_error=rf.Skip(budget=1.0))
    strict = rf.DataLoader(dataset, 3, num_workers=workers, pipeline=pipeline)
    (batch,) = strict
    assert [one.key for one in batch.skipped] == ["2.jpg", "3.png"]
    assert not batch.tolerated


def test_lint_lists_them_and_strictly_refuses_them(folder: Path) -> None:
    command = ["lint", "--format", "folder", str(folder), "--workers", "0"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "2.jpg: damaged, decoded all the same: Corrupt JPEG data" in result.output
    assert "0 bad of 3 samples, 2 only read leniently (--strict refuses these)" in result.output
    result = CliRunner().invoke(app, [*command, "--strict", "--json"])
    assert result.exit_code == 3, result.output
    found = json.loads(result.output)
    assert [one["key"] for one in found["bad"]] == ["2.jpg", "3.png"]
    assert found["tolerated"] == []


def deep_images() -> dict[str, bytes]:
    """Images of more than 8 bits, or in modes that are not RGB, by name."""
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    rgb = Image.fromarray(picture(HEIGHT, WIDTH))
    grey = rgb.convert("L")
    rgba = Image.fromarray(np.dstack([picture(HEIGHT, WIDTH), (ramp >> 8).astype(np.uint8)]))
    palette = rgb.quantize(32)
    big_endian = b"P5\n%d %d\n4095\n" % (WIDTH, HEIGHT) + (ramp >> 4).astype(">u2").tobytes()
    return {
        "png I;16": encode(Image.fromarray(ramp), "PNG"),
        "png I;16 of 12 bits": encode(Image.fromarray(ramp >> 4), "PNG"),
        "png I;16 of 8 bits": encode(Image.fromarray(ramp >> 8), "PNG"),
        "png rgb 16": png16(np.dstack([ramp, ramp, ramp])),
        "tiff I;16": encode(Image.fromarray(ramp), "TIFF"),
        "tiff I;16B": encode(Image.fromarray(ramp.astype(">u2")), "TIFF"),
        "tiff I;16 lzw": encode(Image.fromarray(ramp), "TIFF", compression="tiff_lzw"),
        "tiff I": encode(Image.fromarray(ramp.astype(np.int32) - 100), "TIFF"),
        "tiff F": encode(Image.fromarray((ramp / 200).astype(np.float32)), "TIFF"),
        "pgm 16": big_endian,
        "png LA": encode(rgba.convert("LA"), "PNG"),
        "png RGBA": encode(rgba, "PNG"),
        "png P with transparency": encode(palette, "PNG", transparency=3),
        "png P with alphas": encode(palette, "PNG", transparency=bytes(range(0, 256, 8))),
        "png L with transparency": encode(grey, "PNG", transparency=7),
        "png 1": encode(rgb.convert("1"), "PNG"),
        "tiff CMYK": encode(rgb.convert("CMYK"), "TIFF"),
        "jpeg CMYK": encode(rgb.convert("CMYK"), "JPEG"),
        "gif": encode(palette, "GIF", transparency=0),
        "bmp 1": encode(rgb.convert("1"), "BMP"),
        "bmp P": encode(palette, "BMP"),
        "pbm": encode(rgb.convert("1"), "PPM"),
        "pgm": encode(grey, "PPM"),
        "ppm": encode(rgb, "PPM"),
        "webp RGBA": encode(rgba, "WEBP", lossless=True),
    }


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # torchvision's way, not the library's
@pytest.mark.parametrize("name", list(deep_images()))
def test_every_mode_is_pillows_conversion_on_every_way(name: str, tmp_path: Path) -> None:
    """With and without a transform, in class folders and shards, in every engine."""
    data = deep_images()[name]
    (tmp_path / "in" / "a").mkdir(parents=True)
    kind = {"pgm": "pgm", "pbm": "ppm", "ppm": "ppm", "jpeg": "jpg", "gif": "png"}.get(name.split()[0], name.split()[0])
    (tmp_path / "in" / "a" / f"x.{kind}").write_bytes(data)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    shard = str(tmp_path / "t.tar")
    with tarfile.open(shard, "w") as tar:
        tar.add(tmp_path / "in" / "a" / f"x.{kind}", f"x.{kind}")
    ways = {
        "plain": dataset_source(torchvision.datasets.ImageFolder(tmp_path / "in")),
        "transform": dataset_source(torchvision.datasets.ImageFolder(tmp_path / "in", transform=lambda image: image)),
        "shard": ShardSource(build_index(shard)),
    }
    for way, source in ways.items():
        for engine in ("turbo", "pillow", *DALI):
            pixels, kinds = decoded(source.read(np.array([0]))[0].image, (HEIGHT, WIDTH), engine)
            error = np.abs(pixels.astype(int) - expected)
            assert error.max() <= 3, f"{way}, {engine}: {error.max()}"
            loses = name.startswith(("png I;16", "tiff I", "tiff F", "pgm 16")) and "of 8 bits" not in name
            assert kinds == (["cut off"] if loses and way != "transform" else []), f"{way}, {engine}"
