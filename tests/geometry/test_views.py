from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from resflow.errors import ConfigError
from resflow.geometry import Affine, Fit, HorizontalFlip, RandomResizedCrop, Rotate, VerticalFlip, View, apply_views
from resflow.geometry.affine import identity, transform_points

SHAPE = (96, 160)


def sizes(count: int, height: int = 300, width: int = 400) -> np.ndarray:
    return np.tile(np.array([[height, width]], dtype=np.int32), (count, 1))


def windows(matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Left, top, right, bottom of the output's rectangle in source pixels."""
    corners = np.array([[0.0, 0.0], [shape[1], shape[0]]])
    return transform_points(np.linalg.inv(matrix), np.tile(corners, (len(matrix), 1, 1))).reshape(-1, 4)


def drawn(view: View, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, view.draws))


@pytest.mark.parametrize("shape", [(224, 224), (96, 160), (160, 96), (32, 1024)])
@pytest.mark.parametrize("size", [(300, 400), (37, 3000), (1, 1), (2000, 11)])
def test_a_random_resized_crop_lies_in_the_image_and_fills_the_shape(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    view = RandomResizedCrop(scale=(0.1, 0.9))
    size_of_each = sizes(500, *size)
    window = windows(view(identity(500), size_of_each, shape, drawn(view, 500)), shape)
    assert (window >= -1e-6).all()
    assert (window[:, 2] <= size[1] + 1e-6).all()
    assert (window[:, 3] <= size[0] + 1e-6).all()
    distortion = (window[:, 2] - window[:, 0]) / (window[:, 3] - window[:, 1]) / (shape[1] / shape[0])
    whole_pixel = np.isclose(window[:, 2] - window[:, 0], 1) | np.isclose(window[:, 3] - window[:, 1], 1)
    assert ((distortion >= 3 / 4 - 1e-9) & (distortion <= 4 / 3 + 1e-9) | whole_pixel).all()


@pytest.mark.parametrize("size", [(300, 400), (200, 900)])
def test_random_resized_crop_is_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    view, count = RandomResizedCrop(scale=(0.08, 1.0)), 4000
    window = windows(view(identity(count), sizes(count, *size), (224, 224), drawn(view, count)), (224, 224))
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    reference = np.array(
        [[left, top, left + w, top + h] for top, left, h, w in map(_torchvision_window, [image] * count)]
    )
    # torchvision's windows are whole pixels, so both are counted in coarse steps.
    for ours, theirs, step in (
        (_area(window), _area(reference), 1000),
        (_ratio(window), _ratio(reference), 0.05),
        *((a, b, 10) for a, b in zip(window.T, reference.T, strict=True)),
    ):
        assert ks_2samp(np.round(ours / step), np.round(theirs / step)).statistic < 0.045


def _torchvision_window(image: torch.Tensor) -> tuple[int, int, int, int]:
    params = v2.RandomResizedCrop(224).make_params([image])
    return params["top"], params["left"], params["height"], params["width"]


def _area(window: np.ndarray) -> np.ndarray:
    return (window[:, 2] - window[:, 0]) * (window[:, 3] - window[:, 1])


def _ratio(window: np.ndarray) -> np.ndarray:
    return (window[:, 2] - window[:, 0]) / (window[:, 3] - window[:, 1])


@pytest.mark.parametrize(("view", "axis"), [(HorizontalFlip(), 0), (VerticalFlip(), 1)])
def test_a_flip_mirrors_half_of_the_samples_within_the_shape(view: View, axis: int) -> None:
    matrix = view(identity(2000), sizes(2000), SHAPE, drawn(view, 2000))
    flipped = matrix[:, axis, axis] < 0
    assert 0.45 < flipped.mean() < 0.55
    point = np.array([[[3.0, 5.0]]])
    expected = point.copy()
    expected[..., axis] = SHAPE[1 - axis] - point[..., axis]
    np.testing.assert_allclose(transform_points(matrix[flipped], point), np.tile(expected, (flipped.sum(), 1, 1)))
    np.testing.assert_array_equal(matrix[~flipped], identity(int((~flipped).sum())))


@pytest.mark.parametrize(("p", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_probabilities_zero_and_one_are_certain(p: float, share: float) -> None:
    view = HorizontalFlip(p)
    assert (view(identity(100), sizes(100), SHAPE, drawn(view, 100))[:, 0, 0] < 0).mean() == share


def test_rotation_turns_counter_clockwise_about_the_centre() -> None:
    matrix = Rotate(degrees=(90, 90))(identity(1), sizes(1), SHAPE, np.array([[0.5]]))
    centre = np.array([[[80.0, 48.0], [90.0, 48.0]]])
    np.testing.assert_allclose(transform_points(matrix, centre), [[[80, 48], [80, 38]]], atol=1e-9)


def test_affine_stays_within_its_ranges() -> None:
    view = Affine(degrees=10, translate=(0.1, 0.2), scale=(0.5, 2.0), shear=5)
    matrix = view(identity(3000), sizes(3000), SHAPE, drawn(view, 3000))
    centre = transform_points(matrix, np.array([[[80.0, 48.0]]]))[:, 0]
    assert np.abs(centre[:, 0] - 80).max() == pytest.approx(16, rel=0.01)
    assert np.abs(centre[:, 1] - 48).max() == pytest.approx(19.2, rel=0.01)
    angle = np.rad2deg(np.arctan2(-matrix[:, 1, 0], matrix[:, 0, 0]))
    scale = np.hypot(matrix[:, 0, 0], matrix[:, 1, 0])
    assert (angle.min(), angle.max()) == pytest.approx((-10, 10), abs=0.1)
    assert (scale.min(), scale.max()) == pytest.approx((0.5, 2.0), abs=0.01)


def test_a_view_added_leaves_the_draws_of_the_others() -> None:
    ids = np.arange(50)
    arguments = {"seed": 1, "epoch": 2, "sample_ids": ids}
    alone = apply_views([RandomResizedCrop()], identity(50), sizes(50), SHAPE, **arguments)
    flipped = apply_views([RandomResizedCrop(), HorizontalFlip(p=1)], identity(50), sizes(50), SHAPE, **arguments)
    mirrored = HorizontalFlip(p=1)(alone, sizes(50), SHAPE, np.zeros((50, 1)))
    np.testing.assert_allclose(flipped, mirrored)


def test_two_views_of_one_kind_draw_on_their_own() -> None:
    twice = apply_views(
        [HorizontalFlip(), HorizontalFlip()],
        identity(400),
        sizes(400),
        SHAPE,
        seed=0,
        epoch=0,
        sample_ids=np.arange(400),
    )
    assert 0.4 < (twice[:, 0, 0] < 0).mean() < 0.6


def test_epochs_differ_and_repeat() -> None:
    def at(epoch: int) -> np.ndarray:
        placement = Fit().place(sizes(20), SHAPE)
        return apply_views(
            [RandomResizedCrop()], placement, sizes(20), SHAPE, seed=0, epoch=epoch, sample_ids=np.arange(20)
        )

    np.testing.assert_array_equal(at(3), at(3))
    assert not np.isclose(at(3), at(4)).all(axis=(1, 2)).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(scale=(0.5, 0.1)), "RandomResizedCrop.scale must be two finite numbers in order"),
        (lambda: RandomResizedCrop(scale=(0.0, 1.0)), r"within \(0.0, 1.0\]; got \(0.0, 1.0\)"),
        (lambda: RandomResizedCrop(ratio=(1.0, math.inf)), "RandomResizedCrop.ratio"),
        (lambda: HorizontalFlip(p=1.5), r"HorizontalFlip.p must be a probability in \[0, 1\]; got 1.5"),
        (lambda: Rotate(degrees=(10, -10)), "Rotate.degrees must be two finite numbers in order"),
        (lambda: Affine(shear=90), "Affine.shear"),
        (lambda: Affine(translate=(0.1, 1.1)), r"Affine.translate must be two shares in \[0, 1\]"),
    ],
)
def test_a_view_out_of_range_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
