from __future__ import annotations

import numpy as np
import pytest

from resflow.errors import ConfigError
from resflow.geometry.affine import (
    Geometry,
    centres,
    factor,
    identity,
    is_axis_aligned,
    scale_translate,
    transform_points,
)


def random_matrices(count: int, *, turned: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    matrix = scale_translate(
        rng.uniform(0.1, 4, (count, 2)) * rng.choice([-1, 1], (count, 2)), rng.normal(0, 50, (count, 2))
    )
    if turned:
        matrix[:, 0, 1], matrix[:, 1, 0] = rng.uniform(0.1, 0.9, count), rng.uniform(-0.9, -0.1, count)
    return matrix


@pytest.mark.parametrize("turned", [False, True])
def test_factors_compose_to_the_matrix(turned: bool) -> None:
    matrix = random_matrices(50, turned=turned)
    aligned, warp = factor(matrix)
    np.testing.assert_allclose(warp @ aligned, matrix, atol=1e-9)
    assert is_axis_aligned(aligned).all()
    if turned:  # all shrinking is in the first factor
        np.testing.assert_allclose(np.linalg.norm(warp[:, :2, :2], axis=1), 1)
    else:
        np.testing.assert_array_equal(warp, identity(50))


def test_centres_moves_the_origin_by_half_a_pixel() -> None:
    matrix = random_matrices(20, turned=True)
    points = np.random.default_rng(1).normal(0, 100, (20, 7, 2))
    edges = transform_points(matrix, points + 0.5) - 0.5
    np.testing.assert_allclose(transform_points(centres(matrix), points), edges, atol=1e-9)


@pytest.mark.parametrize(
    ("scale", "translate", "expected"),
    [
        ((1.0, 1.0), (0.0, 0.0), (0, 0, 8, 6)),
        ((1.0, 1.0), (3.0, 2.0), (3, 2, 10, 8)),
        ((1.0, 1.0), (0.5, 0.49), (0, 0, 8, 6)),
        ((1.0, 1.0), (0.51, 0.0), (1, 0, 9, 6)),
        ((-1.0, 1.0), (8.0, 0.0), (0, 0, 8, 6)),
        ((2.0, 2.0), (-4.0, -4.0), (0, 0, 10, 8)),
        ((1.0, 1.0), (50.0, 0.0), (10, 0, 10, 6)),
        ((-1.0, 1.0), (8.5, 0.0), (0, 0, 8, 6)),
        ((1.0, -1.0), (0.0, 6.5), (0, 0, 8, 6)),
    ],
)
def test_valid_counts_pixels_whose_centre_lies_on_the_image(
    scale: tuple[float, float], translate: tuple[float, float], expected: tuple[int, int, int, int]
) -> None:
    geometry = Geometry(
        scale_translate(np.array([scale]), np.array([translate])), np.array([[6, 8]], dtype=np.int32), (8, 10)
    )
    left, top, right, bottom = geometry.valid[0]
    assert (left, top, right, bottom) == expected
    mask = np.zeros((8, 10), dtype=bool)
    mask[top:bottom, left:right] = True
    np.testing.assert_array_equal(geometry.valid_mask()[0], mask)
    assert geometry.valid_pixels().tolist() == [mask.sum()]


def test_valid_of_a_turned_image_bounds_its_mask() -> None:
    matrix = random_matrices(30, turned=True)
    geometry = Geometry(matrix, np.tile(np.array([[37, 53]], dtype=np.int32), (30, 1)), (64, 96))
    for (left, top, right, bottom), mask in zip(geometry.valid, geometry.valid_mask(), strict=True):
        assert mask[top:bottom, left:right].sum() == mask.sum()
    np.testing.assert_array_equal(geometry.valid_pixels(), geometry.valid_mask().sum(axis=(1, 2)))


@pytest.mark.parametrize(
    ("matrix", "size", "output", "message"),
    [
        (np.eye(3)[None].astype(np.float32), [[4, 4]], (4, 4), r"matrix must be float64 \[B,3,3\]; got float32"),
        (np.zeros((1, 3, 3)), [[4, 4]], (4, 4), r"matrix\[0\] must be finite, invertible"),
        (np.eye(3)[None] * np.nan, [[4, 4]], (4, 4), "must be finite"),
        (np.eye(3)[None], [[4, 4], [5, 5]], (4, 4), r"source_size must be int32 \[1,2\]; got int32 \[2, 2\]"),
        (np.eye(3)[None], [[4, 4]], (0, 4), "output_size must be at least 1x1"),
    ],
)
def test_an_unsound_geometry_is_refused(matrix: np.ndarray, size: list, output: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Geometry(matrix, np.array(size, dtype=np.int32), output)
