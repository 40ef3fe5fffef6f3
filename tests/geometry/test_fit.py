from __future__ import annotations

import math

import numpy as np
import pytest

from resflow.errors import ConfigError
from resflow.geometry.affine import Geometry
from resflow.geometry.fit import Fit, coverage

SIZES = np.array([[h, w] for h in (1, 3, 97, 224, 375, 3000) for w in (1, 5, 99, 224, 500, 4000)], dtype=np.int32)
SHAPES = [(224, 224), (160, 320), (96, 64), (7, 1000)]


def placed(fit: Fit, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Placed height and width, top and left, and the geometry."""
    matrix = fit.place(SIZES, shape)
    return matrix[:, [1, 0], [1, 0]] * SIZES, matrix[:, [1, 0], 2], Geometry(matrix, SIZES, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_letterbox_shows_the_whole_image_between_whole_pixels(shape: tuple[int, int]) -> None:
    size, offset, geometry = placed(Fit(), shape)
    assert (np.abs(size - np.round(size)) < 1e-6).all()
    assert (np.abs(offset - np.round(offset)) < 1e-6).all()
    assert (offset >= 0).all()
    assert (offset + size <= np.array(shape) + 1e-6).all()
    touches = np.isclose(size, shape).any(axis=1)
    assert touches.all()
    padded, cropped = coverage(geometry)
    np.testing.assert_allclose(cropped, 0, atol=1e-9)
    np.testing.assert_allclose(padded, 1 - size.prod(axis=1) / math.prod(shape), atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_letterbox_keeps_the_aspect_ratio_to_within_half_a_pixel(shape: tuple[int, int]) -> None:
    size, _, _ = placed(Fit(), shape)
    scale = (np.array(shape) / SIZES).min(axis=1, keepdims=True)
    assert (np.abs(size - np.maximum(scale * SIZES, 1)) <= 0.5 + 1e-9).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("max_crop", [0.0, 0.05, 0.1, 0.3, 0.9, 1.0])
def test_no_more_than_max_crop_is_lost_and_no_more_is_padded_than_that_forces(
    shape: tuple[int, int], max_crop: float
) -> None:
    size, offset, _ = placed(Fit(max_crop=max_crop), shape)
    kept = (np.minimum(size, shape) / size).prod(axis=1)
    assert (1 - kept <= max_crop + 1e-9).all()
    pads = (size < np.array(shape) - 0.5).any(axis=1)
    rounding = 1 / np.minimum(size, shape).min(axis=1)
    assert (np.abs(1 - kept - max_crop)[pads] <= rounding[pads]).all()
    np.testing.assert_allclose((offset * 2 + size)[size > shape], np.broadcast_to(shape, size.shape)[size > shape])


def test_max_crop_one_covers_the_shape() -> None:
    size, _, _ = placed(Fit(max_crop=1.0), (224, 160))
    assert (size >= np.array((224, 160)) - 1e-6).all()


def test_max_upscale_leaves_small_images_small() -> None:
    size, _, _ = placed(Fit(max_upscale=1.0), (224, 224))
    small = (SIZES <= 224).all(axis=1)
    np.testing.assert_array_equal(size[small], SIZES[small])


def test_stretch_fills_the_shape() -> None:
    size, offset, _ = placed(Fit.stretch(), (224, 160))
    np.testing.assert_allclose(size, np.broadcast_to((224, 160), size.shape))
    np.testing.assert_allclose(offset, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_crop": 1.2}, r"Fit.max_crop must be in \[0, 1\]; got 1.2"),
        ({"max_crop": math.nan}, r"Fit.max_crop must be in \[0, 1\]; got nan"),
        ({"max_upscale": 0}, "Fit.max_upscale must be above 0, or None"),
        ({"fill": (0, 0)}, "Fit.fill must be three integers from 0 to 255"),
        ({"fill": (0, 0, 256)}, "Fit.fill must be three integers from 0 to 255"),
        ({"stretched": True, "max_crop": 0.5}, "neither pads nor crops"),
    ],
)
def test_a_fit_out_of_range_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Fit(**arguments)
