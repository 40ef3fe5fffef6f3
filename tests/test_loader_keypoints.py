"""Left and right keypoints of mirrored images swap places, whatever they come from; where nobody says, it is said."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset
from torchvision.datasets import CocoDetection

import resflow as rf
from resflow.errors import ConfigError, TargetError
from tests.sources.annotated_sets import picture

POINTS = [[20.0, 40, 2], [50, 50, 2], [80, 60, 2]]
PERMUTATION = [0, 2, 1]
UNKNOWN = r"nothing says which of their keypoints are left and right.*Targets\(keypoints=True, keypoint_pairs="


class Own(Dataset[Any]):
    """Three images of 120 x 160 pixels (H x W), with an object of three keypoints in torchvision's form."""

    def __init__(self, **extra: Any) -> None:
        self.extra = extra

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Any:
        target = {"boxes": torch.tensor([[10.0, 20, 150, 110]]), "labels": torch.tensor([1])}
        return np.full((120, 160, 3), 90, np.uint8), target | {"keypoints": torch.tensor([POINTS])} | self.extra


def coco_file(root: Path, names: list[str]) -> tuple[Path, Path]:
    picture(root / "a.png", 120, 160)
    record = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 140, 90], "num_keypoints": 3}
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 160, "height": 120}],
        "annotations": [record | {"area": 1.0, "iscrowd": 0, "keypoints": np.ravel(POINTS).tolist()}],
        "categories": [{"id": 1, "name": "cat", "keypoints": names, "skeleton": []}],
    }
    (root / "k.json").write_text(json.dumps(data))
    return root, root / "k.json"


def yolo_folders(root: Path) -> tuple[Path, Path]:
    picture(root / "images" / "a.png", 120, 160)
    shares = " ".join(f"{x / 160!r} {y / 120!r} {seen}" for x, y, seen in POINTS)
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.875 0.75 {shares}\n")
    return root / "images", root / "labels"


def loader(source: Any, *, workers: int = 0, **targets: Any) -> rf.DataLoader:
    pipeline = rf.Pipeline(
        resolution=128, views=[rf.views.HorizontalFlip(1.0)], targets=rf.Targets(keypoints=True, **targets)
    )
    return rf.DataLoader(source, batch_size=1, num_workers=workers, pipeline=pipeline)


def order(batch: rf.Batch) -> list[int]:
    """Which of the source's points stands in each place."""
    moved = torch.tensor(POINTS)[:, :2] @ batch.transform[0, :2, :2].T + batch.transform[0, :2, 2]
    found = batch.targets[0]["keypoints"][0, :, :2]
    home = batch.invert(batch.targets)[0]["keypoints"][0]
    assert torch.allclose(home, torch.tensor(POINTS), atol=1e-2)
    return [int(n) for n in torch.cdist(found, moved).argmin(1)]


@pytest.mark.parametrize(
    "names", [["nose", "left_eye", "right_eye"], ["Nose", "L_Eye", "R_Eye"], ["n", "LHip", "RHip"]]
)
def test_names_in_a_coco_file_are_enough(tmp_path: Path, names: list[str]) -> None:
    images, path = coco_file(tmp_path, names)
    (tmp_path / "unnamed").mkdir()
    assert order(next(iter(loader(rf.sources.Coco(images, path))))) == PERMUTATION
    detection = CocoDetection(str(images), str(path))
    assert order(next(iter(loader(detection)))) == PERMUTATION
    assert order(next(iter(loader(Subset(detection, [0]))))) == PERMUTATION
    whole = CocoDetection(str(images), str(path), transform=lambda image: image.copy())  # decoded by the dataset
    assert order(next(iter(loader(whole)))) == PERMUTATION


@pytest.mark.parametrize("given", [PERMUTATION, [(1, 2)], ((2, 1), (1, 2)), np.array(PERMUTATION)])
def test_pairs_are_given_to_every_source(tmp_path: Path, given: Any) -> None:
    images, path = coco_file(tmp_path, ["a", "b", "c"])
    folders = yolo_folders(tmp_path)
    sources: list[Any] = [
        rf.sources.Coco(images, path, keypoint_pairs=given),
        rf.sources.Yolo(*folders, keypoints=(3, 3), keypoint_pairs=given),
        Own(keypoint_pairs=given),
        Own(flip_idx=given),
    ]
    for source in sources:
        batch = next(iter(loader(source)))
        assert order(batch) == PERMUTATION
        assert batch.keypoint_pairs == ((1, 2),)
    unsaid = [rf.sources.Yolo(*folders, keypoints=(3, 3)), Own(), CocoDetection(str(images), str(path))]
    for source in [*sources, *unsaid]:
        batch = next(iter(loader(source, keypoint_pairs=given)))
        assert order(batch) == PERMUTATION
        home = batch.invert(keypoints=[one["keypoints"] for one in batch.targets], keypoint_pairs=given)
        assert torch.allclose(home[0][0], torch.tensor(POINTS), atol=1e-2)
    assert rf.Targets(keypoint_pairs=given) == rf.Targets(keypoint_pairs=((1, 2),))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mirror_without_pairs_is_said_once(workers: int) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        batches = list(loader(Own(), workers=workers))
    (said,) = [str(one.message) for one in told if "keypoints" in str(one.message)]
    assert re.search(UNKNOWN, said)
    assert order(batches[0]) == [0, 1, 2]


def test_nothing_is_said_where_it_is_known_or_does_not_matter() -> None:
    assert order(next(iter(loader(Own(), keypoint_pairs=())))) == [0, 1, 2]
    assert order(next(iter(loader(Own(keypoint_pairs=()))))) == [0, 1, 2]
    plain = rf.Pipeline(resolution=128, targets=rf.Targets(keypoints=True))
    next(iter(rf.DataLoader(Own(), batch_size=1, pipeline=plain)))
    next(iter(loader(Own(keypoints=torch.tensor([POINTS[:1]])))))


def test_pairs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images, path = coco_file(tmp_path, ["a", "b", "c"])
    with pytest.raises(ConfigError, match="place 9; expected places from 0 to 2, of 3 keypoints"):
        rf.sources.Coco(images, path, keypoint_pairs=((1, 9),))
    with pytest.raises(ConfigError, match="got 'x'"):
        rf.Targets(keypoint_pairs="x")  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="place 9"):
        next(iter(loader(Own(), keypoint_pairs=((1, 9),))))
    with pytest.raises(TargetError, match="place 1 is paired with 0 and with 2"):
        next(iter(loader(Own(flip_idx=[1, 2, 0]))))
