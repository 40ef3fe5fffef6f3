"""YOLO datasets of several folders and lists of images, and where labels are looked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from resflow.errors import ConfigError
from resflow.sources import Yolo
from tests.sources.annotated_sets import picture


def made(root: Path, *names: str) -> Path:
    """Images with a label file each, in images/ and labels/; the class is the number of the image."""
    for number, name in enumerate(names):
        picture(root / "images" / f"{name}.png", 20, 30)
        page = root / "labels" / f"{name}.txt"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"{number} 0.5 0.5 0.2 0.2\n")
    return root


def labels(source: Yolo) -> dict[str, list[int]]:
    samples = source.read(np.arange(len(source)))
    return {Path(sample.key).stem: sample.target.labels.tolist() for sample in samples}  # type: ignore[attr-defined]


def test_labels_are_found_beside_the_images(tmp_path: Path) -> None:
    made(tmp_path / "images" / "set", "a", "sub/b")  # an upper folder of the same name stays
    assert labels(Yolo(tmp_path / "images" / "set" / "images")) == {"a": [1], "b": [2]}
    flat = tmp_path / "flat"
    picture(flat / "c.png", 20, 30)
    (flat / "c.txt").write_text("4 0.5 0.5 0.2 0.2\n")
    assert labels(Yolo(flat)) == {"c": [5]}


def test_several_folders_are_one_dataset(tmp_path: Path) -> None:
    first, second = made(tmp_path / "one", "a", "b"), made(tmp_path / "two", "c")
    source = Yolo([first / "images", second / "images"])
    assert labels(source) == {"a": [1], "b": [2], "c": [1]}
    other = Yolo([first / "images", second / "images"], [first / "labels", second / "labels"])
    assert labels(other) == labels(source)
    with pytest.raises(ConfigError, match="as many folders as images, or None; got 1 for 2"):
        Yolo([first / "images", second / "images"], [first / "labels"])


@pytest.mark.parametrize("form", ["beside the list", "working directory", "absolute"])
def test_a_list_names_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    made(tmp_path / "set", "a", "b", "c")
    places = {
        "beside the list": "./images",
        "working directory": "set/images",
        "absolute": str(tmp_path / "set/images"),
    }
    lines = "".join(f"{places[form]}/{name}.png\r\n" for name in ("c", "a", "c"))
    (tmp_path / "set" / "train.txt").write_text(lines + "\n")
    monkeypatch.chdir(tmp_path)
    assert labels(Yolo(tmp_path / "set" / "train.txt")) == {"c": [3], "a": [1]}


def test_data_yaml_names_several_of_both(tmp_path: Path) -> None:
    made(tmp_path / "one", "a", "b")
    made(tmp_path / "two", "c")
    (tmp_path / "list.txt").write_text("./two/images/c.png\n")
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: [one/images, list.txt]\nval: list.txt\nnames: [cat, dog]\n")
    assert labels(Yolo.from_yaml(yaml)) == {"a": [1], "b": [2], "c": [1]}
    assert labels(Yolo.from_yaml(yaml, "val")) == {"c": [1]}
    yaml.write_text("train: [one/images, 3]\nnames: [cat, dog]\n")
    with pytest.raises(ConfigError, match=r"must be a folder of images, a \.txt list of them, or several; got 3"):
        Yolo.from_yaml(yaml)


def test_a_list_that_is_none_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    with pytest.raises(ConfigError, match=r"empty\.txt is empty. Name one image per line"):
        Yolo(empty)
    with pytest.raises(ConfigError, match=r"nowhere\.txt cannot be read.*No such file"):
        Yolo(tmp_path / "nowhere.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ConfigError, match="it is no regular file"):
        Yolo(tmp_path / "pipe.txt")


def test_orphans_of_several_folders_are_named(tmp_path: Path) -> None:
    first, second = made(tmp_path / "one", "a"), made(tmp_path / "two", "c")
    (second / "labels" / "c.txt").rename(second / "labels" / "d.txt")
    with pytest.raises(Exception, match=r"1 images have no labels: two/images/c"):
        Yolo([first / "images", second / "images"])
