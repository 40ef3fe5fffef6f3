"""Laws of the window decoder: it agrees with libjpeg, sees no more than it shows, and leaves what it cannot take."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
from PIL import Image

from resflow.decode import native
from resflow.decode.jpeg import window
from resflow.decode.jpeg.inverse import BLOCK, LANES, SIDES, inverse
from tests.decode import samples

Pixels = npt.NDArray[np.uint8]
FULL = float("inf")
KINDS: dict[str, dict[str, object]] = {
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


def encode(pixels: Pixels, **options: object) -> bytes:
    return samples.encode(Image.fromarray(pixels), "JPEG", **options)


def reference(data: bytes) -> npt.NDArray[np.int64]:
    return samples.decoded(data).astype(np.int64)


def decode(
    data: bytes, at: tuple[float, float], size: tuple[int, int], step: float = 1.0, oversample: float = FULL
) -> Pixels | None:
    """The window of an upright image whose left top corner is `at` (x, y); None where it is left to others."""
    height, width = reference(data).shape[:2]
    out = np.zeros((*size, 3), np.uint8)
    box = np.array([0, 0, size[1], size[0]])
    file = np.frombuffer(data, np.uint8)
    return out if native.decode_window(file, out, box, *at, step, step, width, height, 1, oversample) else None


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


def test_planted_fault_colour_that_is_not_smoothed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(samples.picture(64, 64), subsampling=2)

    def error() -> float:
        out = np.zeros((64, 64, 3), np.uint8)
        file, box = np.frombuffer(data, np.uint8), np.array([0, 0, 64, 64])
        assert window.decode_window.py_func(file, out, box, 0.0, 0.0, 1.0, 1.0, 64, 64, 1, FULL)
        return float(np.abs(out - reference(data)).mean())

    def nearest(weights: Pixels, low: Pixels, taps: Pixels, size: int, _: bool) -> tuple[npt.NDArray[np.generic], ...]:
        del taps
        own = np.zeros_like(weights)
        own[:, 0] = 1
        return own, np.minimum(low >> 1, size - 1), np.ones_like(low)

    assert error() < 0.4
    monkeypatch.setattr(window, "fold_weights", nearest)
    assert error() > 0.4


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
def test_blocks_are_the_inverse_transform_of_their_lowest_frequencies(side: int) -> None:
    rng = np.random.default_rng(side)
    groups, width = 2, 2 * LANES * side
    values, steps = rng.integers(-9, 10, (groups, LANES, 8, 8)), rng.integers(1, 9, (8, 8))
    values[..., 0, 0] = rng.integers(-60, 60, (groups, LANES))
    coefficients = np.zeros((groups, BLOCK), np.int16)
    coefficients[:, : 64 * LANES] = values.transpose(0, 2, 3, 1).reshape(groups, -1)
    work, planes = np.zeros(64 * LANES, np.float32), np.zeros(5 + side * 300, np.uint8)
    scale = steps.astype(np.float32).ravel()
    inverse(coefficients.ravel(), 0, groups, scale, 0, work, planes, 5, 300, side)
    rows = planes[5:].reshape(side, 300)
    got = rows[:, :width].reshape(side, groups, LANES, side).transpose(1, 2, 0, 3)
    lowest = (values * steps)[..., :side, :side] * (side / 8)
    expected = np.clip(scipy.fft.idctn(lowest, axes=(2, 3), norm="ortho") + 128, 0, 255)
    assert np.abs(got - expected).max() < 0.51
    assert not rows[:, width:].any()


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


_FUZZ = """
    import numpy as np
    from {module} import decode_window
    from tests.decode import samples
    from tests.decode.test_jpeg import KINDS, encode

    rng, done = np.random.default_rng({seed}), [0, 0]
    files = [encode(samples.picture(40, 56, seed), **options) for seed, options in enumerate(KINDS.values())]
    for number in range({rounds}):
        data = np.frombuffer(files[number % len(files)], np.uint8).copy()
        many = int(rng.integers(1, 9))
        where = rng.integers(2, len(data) - 2, many) if number % 3 else rng.integers(2, 700, many) % len(data)
        nasty = np.array([0, 0xFF, 0xD0, 0xC4, 0xDA, 1, 0x7F], np.uint8)
        data[where] = rng.choice(nasty, many) if number % 2 else rng.integers(0, 256, many)
        if number % 7 == 0:
            data = np.concatenate([data[: int(rng.integers(4, len(data)))], np.array([0xFF, 0xD9], np.uint8)])
        data.flags.writeable = False
        out, box = np.full((30, 34, 3), 7, np.uint8), np.array([2, 3, 30, 27])
        left, top = rng.uniform(-3, 30, 2)
        step = rng.uniform(0.3, 9, 2)
        taken = decode_window(data, out, box, left, top, *step, 56, 40, int(rng.integers(1, 5)), 1.5)
        done[taken] += 1
        out[3:27, 2:30] = 7
        assert (out == 7).all()
    assert min(done) > {rounds} // 20, done
"""


def fuzz(module: str, rounds: int, seed: int, **environment: str) -> None:
    code = textwrap.dedent(_FUZZ).format(module=module, rounds=rounds, seed=seed)
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_damaged_files_do_no_damage() -> None:
    fuzz("resflow.decode.native", 6000, 0)


@pytest.mark.slow
def test_damaged_files_never_lead_out_of_an_array() -> None:
    """The same with every access checked, in the same code, compiled for that."""
    fuzz("resflow.decode.jpeg", 60_000, 1, NUMBA_BOUNDSCHECK="1")


_HASH = """
    import hashlib
    import pathlib
    import numpy as np
    from resflow.decode import native
    from tests.decode import samples
    from tests.decode.test_jpeg import KINDS, decode, encode

    native._folder = lambda: pathlib.Path({folder!r})
    pixels = [
        decode(encode(samples.picture(97, 131, seed), **options), (3.3, 5.7), (40, 50), step)
        for seed, options in enumerate(KINDS.values())
        for step in (0.7, 1.6, 2.1)
    ]
    print(hashlib.sha256(np.stack(pixels).tobytes()).hexdigest())
"""


def pixels_hash(folder: Path, *also: str) -> bytes:
    """Of what a fresh process decodes, with code that it compiles into a folder unless that is there."""
    code = "\n".join([*also, textwrap.dedent(_HASH).format(folder=str(folder))])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert len(list(folder.glob("kernels-*.o"))) == 1
    return done


@pytest.mark.slow
def test_pixels_do_not_depend_on_who_compiled(tmp_path: Path) -> None:
    """Law: two machines of one kind, each with code of its own, give the same pixels."""
    one, other = tmp_path / "one", tmp_path / "other"
    assert pixels_hash(one) == pixels_hash(other) == pixels_hash(one) != b""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names a processor of another kind")
def test_pixels_do_not_depend_on_the_processor(tmp_path: Path) -> None:
    """Law: code for a processor with narrower vectors gives the same pixels."""
    narrow = """
import llvmlite.binding as llvm
from resflow.decode import native
native._machine = lambda: llvm.Target.from_default_triple().create_target_machine(
    "haswell", "", opt=3, codemodel="jitdefault", jit=True
)
"""
    own, other = tmp_path / "own", tmp_path / "haswell"
    assert pixels_hash(own) == pixels_hash(other, narrow) != b""
    codes = [next(folder.glob("kernels-*.o")).read_bytes() for folder in (own, other)]
    assert codes[0] != codes[1]
