"""The drawn images: sizes, classes, determinism, and that colour and ratio do not give the class away."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from resflow.demo.drawing import CLASSES, LARGEST_RATIO, drawn_samples
from resflow.errors import ConfigError

COUNT = 300


@pytest.fixture(scope="module")
def drawn() -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.int64]]:
    samples = list(drawn_samples(COUNT, seed=3))
    images = [np.asarray(Image.open(io.BytesIO(s["jpg"]))) for s in samples]  # type: ignore[arg-type]
    return images, np.array([s["cls"] for s in samples])


def test_sizes_and_ratios_are_in_range_and_spread(drawn: tuple[list[npt.NDArray[np.uint8]], object]) -> None:
    sizes = np.array([image.shape[:2] for image in drawn[0]])
    area, ratio = sizes.prod(axis=1), sizes[:, 1] / sizes[:, 0]
    assert area.min() >= 0.0198e6
    assert area.max() <= 0.101e6
    assert ratio.min() >= 0.99 / LARGEST_RATIO
    assert ratio.max() <= 1.01 * LARGEST_RATIO
    assert (ratio < 0.6).sum() > COUNT / 10
    assert (ratio > 1 / 0.6).sum() > COUNT / 10


def test_classes_take_turns(drawn: tuple[object, npt.NDArray[np.int64]]) -> None:
    assert Counter(drawn[1].tolist()) == {label: COUNT // len(CLASSES) for label in range(len(CLASSES))}


def test_an_image_depends_on_seed_prefix_and_number_alone() -> None:
    three, five = list(drawn_samples(3, seed=1, prefix="a")), list(drawn_samples(5, seed=1, prefix="a"))
    assert three == five[:3]
    images = [s["jpg"] for s in [*five, *drawn_samples(5, seed=2, prefix="a"), *drawn_samples(5, seed=1, prefix="b")]]
    assert Counter(images).most_common(1)[0][1] == 1


def test_colour_and_ratio_do_not_give_the_class_away(
    drawn: tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.int64]],
) -> None:
    images, labels = drawn
    means = np.array([image.mean(axis=(0, 1)) for image in images])
    ratio = np.log([image.shape[1] / image.shape[0] for image in images])
    hue = np.column_stack([means - means.mean(axis=1, keepdims=True), ratio])
    assert _leave_one_out(hue, labels) < 0.3  # chance is 1/6; brightness is left out: plain figures have no dark half


def test_the_check_above_can_fail(drawn: tuple[object, npt.NDArray[np.int64]]) -> None:
    labels = drawn[1]
    telling = labels[:, None] + np.random.default_rng(0).normal(0, 0.3, (COUNT, 1))
    assert _leave_one_out(telling, labels) > 0.6


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (3, -1)])
def test_bad_arguments_are_refused(count: int, seed: int) -> None:
    with pytest.raises(ConfigError, match=f"count >= 1 and seed >= 0; got count {count}, seed {seed}"):
        next(drawn_samples(count, seed=seed))


def _leave_one_out(features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Accuracy of a vote of the seven nearest other images."""
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    distance = np.square(scaled[:, None] - scaled[None]).sum(axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = labels[np.argsort(distance, axis=1)[:, :7]]
    votes = np.stack([(nearest == label).sum(axis=1) for label in range(labels.max() + 1)], axis=1)
    return float((votes.argmax(axis=1) == labels).mean())
