"""Every engine places every image as the float64 reference does, within its stated tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from resflow.decode import Decoder, open_engine
from resflow.decode.placement import INTERPOLATIONS as FILTERS
from resflow.decode.placement import Interpolation
from resflow.errors import ConfigError
from resflow.geometry.affine import is_axis_aligned
from tests.data import real
from tests.decode import samples
from tests.decode.reference import (
    FILL,
    Pixels,
    Tolerance,
    check_batch,
    geometry,
    reference_decode,
    reference_place,
)

ENGINES = ("pillow", "turbo", "dali")
TIGHT = Tolerance(0.5, 1.01, 0.5, 1.01)
DALI = Tolerance(0.5, 1.6, 6.0, 32.0)
# Colour is enlarged and resized in one step, and not cut to the range of bytes in between.
TURBO = Tolerance(0.5, 6.0, 0.5, 6.0)
EXACT = {"pillow": TIGHT, "turbo": TURBO, "dali": DALI}
"""Images that are decoded at full size."""
REDUCED = EXACT | {"turbo": Tolerance(4.0, 25.0, 6.0, 25.0)}
"""JPEGs that turbo may decode at a reduced size."""
PHOTOGRAPHS = EXACT | {"turbo": Tolerance(1.5, 20.0, 3.0, 20.0)}
"""The same, on photographs, which have less detail at the finest scale than the test pictures."""

SIZES = ((1, 1), (1, 9), (7, 1000), (1000, 7), (33, 47), (181, 121), (150, 200))
SHAPES = ((48, 64), (33, 31))


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[str, Decoder]]:
    opened = open_engine(request.param, fill=FILL, max_batch=32)
    yield request.param, opened
    opened.close()


def window(left: float, top: float, right: float, bottom: float, size: tuple[int, int]) -> Pixels:
    """The matrix that shows a window of the source in an output of `size`; right < left mirrors."""
    by_x, by_y = size[1] / (right - left), size[0] / (bottom - top)
    return np.array([[by_x, 0, -left * by_x], [0, by_y, -top * by_y], [0, 0, 1]])


def about_centre(linear: list[list[float]], source: tuple[int, int], size: tuple[int, int]) -> Pixels:
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    centre = np.array([source[1], source[0]]) / 2
    matrix[:2, 2] = np.array([size[1], size[0]]) / 2 + 0.137 - matrix[:2, :2] @ centre
    return matrix


def turned(degrees: float, scale: float, source: tuple[int, int], size: tuple[int, int]) -> Pixels:
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return about_centre([[cos, -sin], [sin, cos]], source, size)


def placements(height: int, width: int, size: tuple[int, int]) -> dict[str, Pixels]:
    """The ways an image can lie in an output, by name."""
    h, w = float(height), float(width)
    fit = min(size[0] / h, size[1] / w)
    source = (height, width)
    return {
        "stretch": window(0, 0, w, h, size),
        "crop": window(0.113 * w, 0.071 * h, 0.817 * w, 0.673 * h, size),
        "crop, mirrored": window(0.817 * w, 0.071 * h, 0.113 * w, 0.673 * h, size),
        "crop, upside down": window(0.113 * w, 0.673 * h, 0.817 * w, 0.071 * h, size),
        "letterbox": about_centre([[fit, 0], [0, fit]], source, size),
        "letterbox, mirrored": about_centre([[-fit, 0], [0, fit]], source, size),
        "beyond the image": window(-0.31 * w, -0.17 * h, 1.23 * w, 1.41 * h, size),
        "off one corner": window(-0.6 * w, 0.4 * h, 0.513 * w, 1.377 * h, size),
        "outside": window(1.5 * w + 3, 0, 2.5 * w + 3, h, size),
        "a tenth": about_centre([[0.1, 0], [0, 0.1]], source, size),
        "unequal": about_centre([[0.37, 0], [0, 1.3]], source, size),
        "four times": about_centre([[4, 0], [0, 4]], source, size),
        "identity": np.eye(3),
        "rotated 17": turned(17, 0.6, source, size),
        "rotated 90": turned(90, 0.83, source, size),
        "rotated -140, small": turned(-140, 0.21, source, size),
        "rotated 5, large": turned(5, 2.3, source, size),
        "sheared": about_centre([[0.7, 0.3], [0, 0.6]], source, size),
        "mirrored and rotated": about_centre([[-0.5, 0.2], [0.2, 0.5]], source, size),
        "rotated, outside": turned(30, 0.5, source, size) + np.array([[0, 0, 5000.0], [0, 0, 0], [0, 0, 0]]),
    }


@pytest.mark.parametrize("size", SHAPES)
def test_placements(engine: tuple[str, Decoder], size: tuple[int, int]) -> None:
    name, decoder = engine
    for number, (height, width) in enumerate(SIZES):
        cases = placements(height, width, size)
        encoded = [samples.png(height, width, number)] * len(cases)
        where = geometry(encoded, list(cases.values()), size)
        names = [f"{height}x{width} {case}" for case in cases]
        check_batch(decoder.decode(encoded, where), encoded, where, EXACT[name], names)


@pytest.mark.parametrize(
    ("interpolation", "warp"), [pair for pair in product(FILTERS, FILTERS) if pair != ("bilinear", "bilinear")]
)
def test_filters(engine: tuple[str, Decoder], interpolation: Interpolation, warp: Interpolation) -> None:
    _, decoder = engine
    size = SHAPES[0]
    for number, (height, width) in enumerate(SIZES[1:]):
        cases = placements(height, width, size)
        if warp != "bilinear":  # which the others do not ask for
            cases = {case: matrix for case, matrix in cases.items() if not is_axis_aligned(matrix)}
        encoded = [samples.png(height, width, number)] * len(cases)
        where = geometry(encoded, list(cases.values()), size)
        names = [f"{height}x{width} {case}" for case in cases]
        got = decoder.decode(encoded, where, None, interpolation, warp)
        # A cubic sample of rounded pixels carries their rounding by up to 1.5 on each axis.
        largest = 1.7 if warp == "bicubic" else 1.01
        tolerance = Tolerance(0.6, largest, 0.6, largest)
        check_batch(got, encoded, where, tolerance, names, interpolation, warp)


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
@pytest.mark.parametrize("reduced", [False, True])
def test_filters_of_jpegs(interpolation: Interpolation, reduced: bool) -> None:
    decoder = open_engine("turbo", fill=FILL, **({} if reduced else {"oversample": math.inf}))
    tolerance = Tolerance(4.0, 30.0, 6.0, 30.0) if reduced and interpolation == "bicubic" else Tolerance(0.6, 9, 0.6, 9)
    for number, (height, width) in enumerate(SIZES[4:]):
        cases = placements(height, width, (48, 64))
        encoded = [samples.jpeg(height, width, number, subsampling=number % 3)] * len(cases)
        where = geometry(encoded, list(cases.values()), (48, 64))
        names = [f"{height}x{width} {case}" for case in cases]
        got = decoder.decode(encoded, where, None, interpolation)
        check_batch(got, encoded, where, tolerance, names, interpolation)


def test_each_image_may_have_a_filter_of_its_own(engine: tuple[str, Decoder]) -> None:
    _, decoder = engine
    encoded = [samples.png(48, 67)] * 6
    matrices = [placements(48, 67, (32, 32))[case] for case in ("crop", "rotated 17") for _ in range(3)]
    where = geometry(encoded, matrices, (32, 32))
    together = decoder.decode(encoded, where, None, FILTERS * 2, FILTERS[::-1] * 2)
    for number in range(6):
        one = geometry(encoded[:1], matrices[number : number + 1], (32, 32))
        alone = decoder.decode(encoded[:1], one, None, FILTERS[number % 3], FILTERS[2 - number % 3])
        assert torch.equal(together[number], alone[0]), number
    assert len({image.numpy().tobytes() for image in together}) == 6
    for wrong in (["bilinear"] * 5, "lanczos"):
        with pytest.raises(ConfigError, match=r"5 interpolations for 6 images|bicubic, nearest; got 'lanczos'"):
            decoder.decode(encoded, where, None, wrong)  # type: ignore[arg-type]


def test_jpegs_of_many_sizes_and_scales(engine: tuple[str, Decoder]) -> None:
    name, decoder = engine
    for number, (height, width) in enumerate(SIZES[3:]):
        for shape in ((48, 64), (12, 15)):
            cases = placements(height, width, shape)
            encoded = [samples.jpeg(height, width, number, subsampling=number % 3)] * len(cases)
            where = geometry(encoded, list(cases.values()), shape)
            names = [f"{height}x{width} {case}" for case in cases]
            check_batch(decoder.decode(encoded, where), encoded, where, REDUCED[name], names)


@pytest.mark.parametrize("placed", ["identity", "crop, mirrored", "rotated 17"])
def test_formats(engine: tuple[str, Decoder], placed: str) -> None:
    name, decoder = engine
    images = samples.formats()
    encoded = list(images.values())
    matrix = placements(48, 67, (48, 64))[placed]
    where = geometry(encoded, [matrix] * len(encoded), (48, 64))
    check_batch(decoder.decode(encoded, where), encoded, where, EXACT[name], list(images))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_orientations(engine: tuple[str, Decoder], kind: str) -> None:
    name, decoder = engine
    encoded = [samples.oriented(kind, orientation, 93, 130) for orientation in range(1, 9)]
    for case in ("letterbox", "crop, mirrored", "a tenth", "rotated 17"):
        matrices = [placements(*reference_decode(data).shape[:2], (24, 32))[case] for data in encoded]
        where = geometry(encoded, matrices, (24, 32))
        names = [f"orientation {number} {case}" for number in range(1, 9)]
        check_batch(decoder.decode(encoded, where), encoded, where, REDUCED[name], names)


def test_real_orientations(engine: tuple[str, Decoder]) -> None:
    files = sorted(real("exif-orientation").glob("*.jpg"))
    assert len(files) == 18
    name, decoder = engine
    encoded = [file.read_bytes() for file in files]
    matrices = [placements(*reference_decode(data).shape[:2], (96, 128))["letterbox"] for data in encoded]
    where = geometry(encoded, matrices, (96, 128))
    check_batch(decoder.decode(encoded, where), encoded, where, PHOTOGRAPHS[name], [file.name for file in files])


@pytest.mark.parametrize("side", [64, 128, 224])
def test_real_photographs(engine: tuple[str, Decoder], side: int) -> None:
    files = sorted(real("imagenet500").glob("*.JPEG"))[::25]
    name, decoder = engine
    encoded = [file.read_bytes() for file in files]
    matrices = [
        placements(*reference_decode(data).shape[:2], (side, side))["crop, mirrored" if number % 2 else "crop"]
        for number, data in enumerate(encoded)
    ]
    where = geometry(encoded, matrices, (side, side))
    check_batch(decoder.decode(encoded, where), encoded, where, PHOTOGRAPHS[name], [file.name for file in files])


def test_outline_where_centres_lie_on_an_edge(engine: tuple[str, Decoder]) -> None:
    name, decoder = engine
    encoded = [samples.png(20, 20)] * 4
    ties = ((0.5, 0.5, 3.5, 2.5), (-0.5, 0.5, 13.5, 2.5), (0.5, -0.5, 3.5, 12.5), (1, 1, 0.5, 0.5))
    matrices = [np.array([[x, 0, right], [0, y, down], [0, 0, 1]]) for x, y, right, down in ties]
    where = geometry(encoded, matrices, (24, 24))
    frames = decoder.decode(encoded, where).permute(0, 2, 3, 1)
    for frame, (left, top, right, bottom) in zip(frames, where.valid.tolist(), strict=True):
        shown = (frame != torch.tensor(FILL, dtype=torch.uint8)).any(-1)
        expected = torch.zeros_like(shown)
        expected[top:bottom, left:right] = True
        assert torch.equal(shown, expected), name


def quantised(placed: Pixels) -> torch.Tensor:
    """uint8 [1, 3, H, W] in channels_last of a float64 [H, W, 3] image."""
    pixels = torch.from_numpy(np.clip(np.round(placed), 0, 255).astype(np.uint8))
    return pixels[None].permute(0, 3, 1, 2)


def faulty(fault: str, data: bytes, matrix: Pixels, size: tuple[int, int]) -> torch.Tensor:
    pixels = reference_decode(data)
    moved, (height, width) = matrix.copy(), size
    if fault == "half a pixel right":
        moved[0, 2] += 0.5
    elif fault == "half a source pixel down":
        moved[:2, 2] += 0.5 * moved[:2, 1]
    elif fault == "mirrored":
        moved = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]) @ matrix
    placed, _ = reference_place(pixels, moved, size, antialias=fault != "no antialias")
    if fault == "one pixel low":
        placed = np.roll(placed, 1, axis=0)
    elif fault == "one padding pixel":
        placed[height - 1, width - 1] += 1
    elif fault == "red and blue swapped":
        placed = placed[..., ::-1].copy()
    return quantised(placed)


@pytest.mark.parametrize("tolerance", [TIGHT, DALI, REDUCED["turbo"]], ids=["tight", "dali", "turbo reduced"])
@pytest.mark.parametrize(
    "fault",
    [
        "half a pixel right",
        "mirrored",
        "no antialias",
        "one pixel low",
        "one padding pixel",
        "red and blue swapped",
    ],
)
@pytest.mark.parametrize("case", ["letterbox", "beyond the image", "rotated -140, small"])
def test_planted_faults_are_caught(fault: str, case: str, tolerance: Tolerance) -> None:
    encoded, size = samples.png(240, 250), (48, 64)
    matrix = placements(240, 250, size)[case]
    where = geometry([encoded], [matrix], size)
    check_batch(faulty("none", encoded, matrix, size), [encoded], where, tolerance)
    with pytest.raises(AssertionError, match=r"mean|largest|padding"):
        check_batch(faulty(fault, encoded, matrix, size), [encoded], where, tolerance)


@pytest.mark.parametrize("tolerance", [TIGHT, DALI], ids=["tight", "dali"])
def test_half_a_source_pixel_is_caught(tolerance: Tolerance) -> None:
    encoded, size = samples.png(240, 250), (48, 64)
    matrix = placements(240, 250, size)["crop"]
    where = geometry([encoded], [matrix], size)
    with pytest.raises(AssertionError, match="mean interior error"):
        check_batch(faulty("half a source pixel down", encoded, matrix, size), [encoded], where, tolerance)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(33, 40), (331, 402)])
def test_reference_agrees_with_pillows_resize(interpolation: str, size: tuple[int, int]) -> None:
    pixels, (left, top, right, bottom) = samples.picture(181, 121) // 2 + 64, (5.3, 7.7, 100.2, 150.9)
    how = Image.Resampling[interpolation.upper()]
    resized = Image.fromarray(pixels).resize(size[::-1], how, box=(left, top, right, bottom))
    placed, image = reference_place(pixels, window(left, top, right, bottom, size), size, True, interpolation)
    assert image.all()
    # Pillow rounds between the axes, which the cubic's weights carry on; and cuts, which these pixels need not.
    largest = {"bilinear": 1.0, "bicubic": 1.3, "nearest": 0}[interpolation]
    assert np.abs(np.asarray(resized) - placed).max() <= largest


@pytest.mark.parametrize("warp", FILTERS)
def test_reference_agrees_with_pillows_rotation(warp: str) -> None:
    pixels = samples.picture(81, 97)
    cos, sin = np.cos(np.radians(23)), np.sin(np.radians(23))
    matrix = about_centre([[cos, -sin], [sin, cos]], (81, 97), (81, 97))
    coefficients = np.linalg.inv(matrix)[:2].ravel().tolist()
    how = Image.Resampling[warp.upper()]
    turned = Image.fromarray(pixels).transform((97, 81), Image.Transform.AFFINE, coefficients, how, fillcolor=FILL)
    placed, image = reference_place(pixels, matrix, (81, 97), warp=warp)
    inner = image & np.roll(image, 2, 0) & np.roll(image, -2, 0) & np.roll(image, 2, 1) & np.roll(image, -2, 1)
    assert np.abs(np.asarray(turned) - placed)[inner].max() <= (0 if warp == "nearest" else 1.0)
