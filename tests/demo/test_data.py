"""The demonstration's data: the split, and folders it refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resflow.demo.data import Data, draw_data, folder_data, hold_out, unwatched
from resflow.errors import ConfigError
from resflow.sources import open_index


def make_images(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + 5 * number, 60), (number * 10 % 256, 90, 120)).save(path)
    return folder


def take(tmp_path: Path, images: Path, pattern: str | None = None, most: int = 1000) -> Data:
    return folder_data(tmp_path / "shards", images, pattern, most=most, seed=0, watch=unwatched)


def keys(data: Data) -> Counter[str]:
    return Counter(
        key for split in (data.train, data.held_out) for key in open_index(list(split.shards)).keys.to_pylist()
    )


@pytest.mark.parametrize("counts", [[1, 2], [1, 1, 10], [5, 5], [2, 3, 4, 5, 6, 30], [1, 200]])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_class_gives_about_a_fifth_and_keeps_one(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    held_out = hold_out(labels, rng)
    for label, count in enumerate(counts):
        share = int(held_out[labels == label].sum())
        assert share == {1: 0, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 10: 2, 30: 6, 200: 40}[count]


def test_something_is_held_out_where_no_class_has_two_images() -> None:
    held_out = hold_out(np.arange(50), np.random.default_rng(0))
    assert held_out.sum() == 10


def test_a_drawn_set_is_indexed_and_split(tmp_path: Path) -> None:
    data = draw_data(tmp_path, 30, seed=0, watch=unwatched)
    assert (len(data.train), len(data.held_out)) == (24, 6)
    assert max(keys(data).values()) == 1
    assert len(open_index(list(data.train.shards))) == 24
    assert data.chance == pytest.approx(1 / 6)
    assert data.unseen == 0


def test_class_folders_give_each_image_once(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", [f"{c}/{n}.jpg" for c in ("cat", "dog") for n in range(6)])
    data = take(tmp_path, images)
    assert data.classes == ("cat", "dog")
    assert keys(data) == Counter(f"{c}/{n}" for c in ("cat", "dog") for n in range(6))
    assert Counter(data.held_out.labels) == {0: 1, 1: 1}


def test_a_pattern_names_classes_and_most_thins_out(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", [f"{c}_{n}.png" for c in ("cat", "dog") for n in range(6)])
    data = take(tmp_path, images, "^([a-z]+)_", most=9)
    assert data.classes == ("cat", "dog")
    assert sum(keys(data).values()) == 9


def test_unseen_classes_are_counted(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", [f"c{n:02d}.png" for n in range(10)])
    data = take(tmp_path, images, r"c(\d+)")
    assert data.unseen == len(data.held_out) == 2
    assert data.chance == 0


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        (["a.jpg", "b.jpg"], None, r"has no sub-folders, so its images have no classes.*--label-pattern"),
        (["cat/a.jpg", "cat/b.jpg"], None, r"2 image\(s\) of one class \('cat'\); expected at least two classes"),
        (["cat_1.jpg", "cat_2.jpg"], "([a-z]+)_", r"one class \('cat'\).*change --label-pattern"),
        (["cat_1.jpg", "2.jpg"], "([a-z]+)_", r"finds no class in the file name '2.jpg'"),
    ],
)
def test_folders_without_classes_are_refused(
    tmp_path: Path, names: list[str], pattern: str | None, message: str
) -> None:
    images = make_images(tmp_path / "images", names)
    with pytest.raises(ConfigError, match=message):
        take(tmp_path, images, pattern)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        take(tmp_path, tmp_path / "nowhere")


def test_too_few_images_to_draw_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 10 images to draw; got 9"):
        draw_data(tmp_path, 9, seed=0, watch=unwatched)
