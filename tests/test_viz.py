"""Contact sheets and ratio histograms."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resflow.batch import Batch
from resflow.errors import ConfigError
from resflow.geometry import Fit, Geometry
from resflow.normalize import IMAGENET, UNIT
from resflow.plan import learn_buckets
from resflow.viz import contact_sheet, ratio_histogram
from resflow.viz.content import pixels as pixels_of
from resflow.viz.tile import padding


def make_batch(shape: tuple[int, int], count: int = 5) -> Batch:
    rng = np.random.default_rng(0)
    size = rng.integers(40, 200, (count, 2)).astype(np.int32)
    geometry = Geometry(Fit().place(size, shape), size, shape)
    return Batch(
        images=torch.from_numpy(rng.integers(0, 256, (count, 3, *shape), dtype=np.uint8)),
        targets=None,
        transform=torch.from_numpy(geometry.matrix.astype(np.float32)),
        valid=torch.from_numpy(geometry.valid),
        source_size=torch.from_numpy(size),
        sample_ids=torch.arange(count),
        keys=tuple(map(str, range(count))),
        resolution=64,
    )


def make_ratios(count: int = 400) -> np.ndarray:
    return np.exp(np.random.default_rng(1).normal(0, 0.4, count))


def make_buckets(ratios: np.ndarray, number: int):  # type: ignore[no-untyped-def]
    size = np.stack([np.full(len(ratios), 300), np.round(300 * ratios)], axis=1).astype(np.int32)
    return learn_buckets(size, number, resolutions=[64, 128], stride=16)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def test_a_contact_sheet_is_written_and_grows_with_its_rows(tmp_path: Path) -> None:
    one = pixels(contact_sheet([make_batch((64, 96))], tmp_path / "one.png"))
    two = pixels(contact_sheet([make_batch((64, 96)), make_batch((128, 32), 1)], tmp_path / "two.png"))
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] > 1.5 * one.shape[0]
    assert one.std() > 20


def test_normalised_images_come_back() -> None:
    batch = make_batch((32, 48))
    normalised = dataclasses.replace(batch, images=IMAGENET(batch.images, torch.float32))
    expected = batch.images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(pixels_of(normalised, IMAGENET, 99), expected)
    np.testing.assert_array_equal(pixels_of(batch, None, 2), expected[:2])
    shares = dataclasses.replace(batch, images=UNIT(batch.images, torch.bfloat16))  # augmented, not normalised
    np.testing.assert_allclose(pixels_of(shares, None, 99).astype(int), expected.astype(int), atol=1)
    np.testing.assert_allclose(pixels_of(shares, UNIT, 99).astype(int), expected.astype(int), atol=1)


@pytest.mark.parametrize("valid", [(0, 0, 9, 7), (2, 0, 9, 7), (1, 2, 6, 5), (0, 3, 9, 4), (9, 7, 9, 7)])
def test_padding_covers_all_but_the_valid_part_once(valid: tuple[int, int, int, int]) -> None:
    covered = np.zeros((7, 9), dtype=int)
    for x, y, width, height in padding(np.array(valid, dtype=float), 9, 7):
        covered[int(y) : int(y + height), int(x) : int(x + width)] += 1
    covered[valid[1] : valid[3], valid[0] : valid[2]] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("number", [1, 4, 12])
def test_a_histogram_is_written(tmp_path: Path, number: int) -> None:
    ratios = make_ratios()
    path = ratio_histogram(ratios, make_buckets(ratios, number), tmp_path / "h.png")
    assert pixels(path).std() > 20


def test_one_image_makes_a_histogram(tmp_path: Path) -> None:
    ratios = np.array([1.5])
    assert ratio_histogram(ratios, make_buckets(ratios, 1), tmp_path / "h.svg").exists()


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one batch; got none"):
        contact_sheet([], tmp_path / "a.png")
    with pytest.raises(ConfigError, match="at least one tile of each batch, or None; got tiles=0"):
        contact_sheet([make_batch((32, 32))], tmp_path / "a.png", tiles=0)
    batch = make_batch((32, 32))
    with pytest.raises(ConfigError, match=r"given torch.float32 images from 0 to 255.*Pass denormalize="):
        contact_sheet([dataclasses.replace(batch, images=batch.images.float())], tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"a.nonsense cannot be written.*Choose another path"):
        contact_sheet([batch], tmp_path / "a.nonsense")
    buckets = make_buckets(make_ratios(), 2)
    for ratios in (np.array([]), np.array([1.0, 0.0]), np.ones((2, 2))):
        with pytest.raises(ConfigError, match=r"aspect_ratios must be \[N\]"):
            ratio_histogram(ratios, buckets, tmp_path / "a.png")


def test_a_missing_matplotlib_is_named_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pictures need matplotlib.*pip install 'resflow\[plots\]'"):
        contact_sheet([make_batch((32, 32))], tmp_path / "a.png")
