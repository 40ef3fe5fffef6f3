"""Laws of the window decoder: it agrees with libjpeg, sees no more than it shows, and leaves what it cannot take."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
import simplejpeg
from PIL import Image

from resflow.decode import native, open_engine
from resflow.geometry.affine import Geometry
from tests.decode import samples

Pixels = npt.NDArray[np.uint8]
FULL = float("inf")
SIDES = (6, 4, 3, 2, 1)  # pixels a side that a block may become instead of 8
KINDS = samples.JPEG_KINDS


def encode(pixels: Pixels, **options: object) -> bytes:
    return samples.encode(Image.fromarray(pixels), "JPEG", **options)


def reference(data: bytes) -> npt.NDArray[np.int64]:
    return samples.decoded(data).astype(np.int64)


def decode(
    data: bytes,
    at: tuple[float, float],
    size: tuple[int, int],
    step: float = 1.0,
    oversample: float = FULL,
    code: int = 0,
) -> Pixels | None:
    """The window of an upright image whose left top corner is `at` (x, y); None where it is left to others."""
    height, width = reference(data).shape[:2]
    out = np.zeros((*size, 3), np.uint8)
    box = np.array([0, 0, size[1], size[0]])
    file = np.frombuffer(data, np.uint8)
    return out if native.decode_window(file, out, box, *at, step, step, width, height, 1, oversample, code) else None


def whole(data: bytes) -> Pixels:
    height, width = reference(data).shape[:2]
    pixels = decode(data, (0.0, 0.0), (height, width))
    assert pixels is not None
    return pixels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (9, 17), (16, 1), (64, 65), (150, 233), (257, 40)])
def test_pixels_are_those_of_libjpeg(kind: str, size: tuple[int, int]) -> None:
    pixels = samples.picture(*size, seed=len(kind))
    grey = {name: value for name, value in KINDS[kind].items() if name != "subsampling"}
    for data in (encode(pixels, **KINDS[kind]), encode(pixels[..., 0], **grey)):
        error = np.abs(whole(data) - reference(data))
        # Inverse transforms and conversions round by themselves; colour out of range is cut once, not twice.
        assert error.mean() < 0.5
        assert error.max() <= 6


def test_a_file_that_may_be_turned_is_left_until_its_orientation_is_known() -> None:
    def taken(data: bytes, orientation: int) -> tuple[bool, npt.NDArray[np.int64]]:
        out, box = np.zeros((48, 64, 3), np.uint8), np.array([0, 0, 64, 48])
        file = np.frombuffer(data, np.uint8)
        done = native.decode_window(file, out, box, 0.0, 0.0, 1.0, 1.0, 64, 48, orientation, FULL)
        return done, out.astype(np.int64)

    exif = Image.Exif()
    exif[0x0112] = 2
    pixels = samples.picture(48, 64)
    plain, turned = encode(pixels), encode(pixels, exif=exif)
    done, upright = taken(plain, 1)
    assert done
    done, unknown = taken(plain, 0)
    assert done
    assert np.array_equal(upright, unknown)
    done, mirrored = taken(turned, 2)
    assert done
    assert np.abs(mirrored - upright[:, ::-1]).mean() < 1
    assert np.abs(taken(turned, 1)[1] - mirrored).mean() > 10  # what taking it for upright would be
    assert not taken(turned, 0)[0]


def test_colour_is_smoothed_as_libjpeg_smooths_it() -> None:
    data = encode(samples.picture(64, 64), subsampling=2)
    assert np.abs(whole(data) - reference(data)).mean() < 0.4
    fault = simplejpeg.decode_jpeg(data, fastupsample=True)  # the nearest colour
    assert np.abs(fault - reference(data)).mean() > 0.4


@pytest.mark.parametrize("kind", ["4:4:4", "4:2:2", "4:2:0", "restarts by rows"])
def test_a_window_is_that_part_of_the_whole(kind: str) -> None:
    data = encode(samples.picture(157, 211), **KINDS[kind])
    full = whole(data)
    rng = np.random.default_rng(0)
    for _ in range(60):
        left, top = int(rng.integers(0, 211)), int(rng.integers(0, 157))
        height, width = int(rng.integers(1, 158 - top)), int(rng.integers(1, 212 - left))
        part = decode(data, (float(left), float(top)), (height, width))
        assert part is not None
        assert np.array_equal(part, full[top : top + height, left : left + width])


@pytest.mark.parametrize("side", [8, *SIDES])
@pytest.mark.parametrize("blocks", [(1, 1), (3, 37)])
def test_blocks_are_the_inverse_transform_of_their_lowest_frequencies(side: int, blocks: tuple[int, int]) -> None:
    values = np.random.default_rng(side).integers(60, 196, (8 * blocks[0], 8 * blocks[1]), dtype=np.uint8)
    data = encode(values, quality=100)
    split = reference(data)[..., 0].reshape(blocks[0], 8, blocks[1], 8).transpose(0, 2, 1, 3)
    lowest = scipy.fft.dctn(split - 128.0, axes=(2, 3), norm="ortho")[..., :side, :side] * (side / 8)
    expected = np.clip(scipy.fft.idctn(lowest, axes=(2, 3), norm="ortho") + 128, 0, 255)
    size = blocks[0] * side, blocks[1] * side
    got = decode(data, (0.0, 0.0), size, 8 / side, 1.0 if side < 8 else FULL)
    assert got is not None
    # The reference's own rounding of pixels is in `lowest`.
    assert np.abs(got[..., 0] - expected.transpose(0, 2, 1, 3).reshape(size)).max() < 1.3


@pytest.mark.parametrize("kind", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("side", [8, *SIDES])
def test_a_smooth_picture_is_itself_from_smaller_blocks(kind: str, side: int) -> None:
    def smooth(step: float, height: int, width: int) -> npt.NDArray[np.float64]:
        y, x = (np.mgrid[:height, :width] + 0.5) * step
        return np.stack([128 + 90 * np.sin(x / 40), 128 + 90 * np.cos(y / 30), 128 + 60 * np.sin((x + y) / 50)], -1)

    data = encode(smooth(1, 168, 240).round().astype(np.uint8), quality=98, **KINDS[kind])
    step = 8 / side
    size = (168 * side // 8, 240 * side // 8)
    got = decode(data, (0.0, 0.0), size, step, 1.0)
    assert got is not None
    assert np.abs(got - smooth(step, *size))[2:-2, 2:-2].mean() < 1.2


@pytest.mark.parametrize("quality", [60, 90])
def test_what_is_not_taken(quality: int) -> None:
    pixels = samples.picture(64, 96)
    good = encode(pixels, quality=quality, subsampling=0)
    frame, scan = good.index(b"\xff\xc0"), good.index(b"\xff\xda")
    middle = scan + (len(good) - scan) // 2
    bad = {
        "progressive": encode(pixels, quality=quality, progressive=True),
        "CMYK": samples.encode(Image.fromarray(pixels).convert("CMYK"), "JPEG"),
        "cut short": good[:-2],
        "bytes after the end": good + b"\0",
        "12 bit": good[: frame + 4] + b"\x0c" + good[frame + 5 :],
        "another height": good[: frame + 6] + b"\x41" + good[frame + 7 :],
        "three by one": good[: frame + 11] + b"\x31" + good[frame + 12 :],
        "a table that is not there": good[: frame + 12] + b"\x03" + good[frame + 13 :],
        "arithmetic": good[:frame] + b"\xff\xc9" + good[frame + 2 :],
        "a marker in the scan": good[:middle] + b"\xff\xc4" + good[middle:],
        "a restart that is not announced": good[:middle] + b"\xff\xd0" + good[middle:],
        "half a scan": good[:middle] + b"\xff\xd9",
        "nothing": b"\xff\xd8\xff\xd9",
    }
    out, box = np.zeros((64, 96, 3), np.uint8), np.array([0, 0, 96, 64])
    for name, data in {"good": good, **bad}.items():
        file = np.frombuffer(data, np.uint8)
        taken = native.decode_window(file, out, box, 0.0, 0.0, 1.0, 1.0, 96, 64, 1, FULL)
        assert taken == (name == "good"), name


def test_damaged_files_do_no_damage() -> None:
    """The same files run under sanitizers: `make sanitize`."""
    rng, done = np.random.default_rng(7), [0, 0]
    for data, number in samples.damaged_jpegs(6000, 0):
        out, box = np.full((30, 34, 3), 7, np.uint8), np.array([2, 3, 30, 27])
        left, top = rng.uniform(-3, 30, 2)
        step, orientation = rng.uniform(0.3, 9, 2), int(rng.integers(1, 5))
        where = left, top, *step, 56, 40, orientation, 1.5, number % 3
        done[native.decode_window(data, out, box, *where)] += 1
        out[3:27, 2:30] = 7
        assert (out == 7).all()
    assert min(done) > 300, done


@pytest.mark.parametrize("shrink", [1, 3])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_jpegs_that_the_window_decoder_leaves_are_upright(orientation: int, shrink: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(samples.picture(93, 141), quality=95, progressive=True, exif=exif)
    height, width = (93, 141) if orientation < 5 else (141, 93)
    size = (height // shrink, width // shrink)
    matrix = np.diag([size[1] / width, size[0] / height, 1.0])[None]
    where = Geometry(matrix, np.array([[height, width]], np.int32), size)
    found, expected = (open_engine(name).decode([data], where).int() for name in ("turbo", "pillow"))
    error = (found - expected).abs().float()
    assert error.mean() < (1.5, 2.5)[shrink > 1], error.mean()  # of a decode at half the size; turned otherwise: tens
