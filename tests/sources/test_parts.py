"""Of an object with one wrong part the rest is kept; what hangs over the border is cut where that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks

import resflow as rf
from resflow.errors import TargetError
from resflow.sources import Coco, Yolo
from resflow.targets import Annotation
from resflow.targets.masks import decode_mask
from tests.sources.annotated_sets import picture

SIZE = (40, 60)
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
PIXELS = np.zeros(SIZE, np.uint8)
PIXELS[10:30, 10:30] = 1
RLE = {"size": list(SIZE), "counts": coco_masks.encode(np.asfortranarray(PIXELS))["counts"].decode()}
GOOD = {"id": 9, "image_id": 1, "category_id": 1, "bbox": [40, 5, 10, 10], "segmentation": [[40, 5, 50, 5, 50, 15]]}
FIRST = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}


def coco(root: Path, *records: Any, categories: Any = None, **options: Any) -> Coco:
    picture(root / "a.png", *SIZE)
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": list(records),
        "categories": categories or [{"id": 1, "name": "a"}],
    }
    (root / "c.json").write_text(json.dumps(data))
    return Coco(root, root / "c.json", **options)


def objects(source: Any) -> Annotation:
    found = source.target(0)
    assert isinstance(found, Annotation)
    return found


def batch(source: Any, **targets: Any) -> Any:
    pipeline = rf.Pipeline(resolution=64, targets=rf.Targets(**targets))
    return next(iter(rf.DataLoader(source, batch_size=1, pipeline=pipeline)))


@pytest.mark.parametrize(
    "mask",
    [
        SQUARE,
        [SQUARE, [30, 30, 50, 50]],
        [SQUARE, []],
        [[str(number) for number in SQUARE]],
        [[10, 10], [30, 10], [30, 30], [10, 30]],
        [[[10, 10], [30, 10], [30, 30], [10, 30]]],
        [RLE],
        RLE,
    ],
    ids=str,
)
def test_masks_in_other_forms_are_read(tmp_path: Path, mask: Any) -> None:
    found = objects(coco(tmp_path, FIRST | {"segmentation": mask}, GOOD))
    assert found.masks is not None
    assert np.array_equal(decode_mask(found.masks[0], SIZE), PIXELS)


@pytest.mark.parametrize("mask", [[[]], [], {}, None])
def test_an_empty_mask_is_no_mask(tmp_path: Path, mask: Any) -> None:
    source = coco(tmp_path, FIRST | {"segmentation": mask}, GOOD)
    assert objects(source).masks == (None, GOOD["segmentation"])
    with pytest.raises(TargetError, match="box_as_mask=True"):
        batch(source, masks=True)
    taken = batch(source, masks=True, box_as_mask=True).targets[0]
    assert len(taken["boxes"]) == 2
    left, top, right, bottom = taken["boxes"][0].round().int().tolist()
    expected = torch.zeros_like(taken["masks"][0])
    expected[top:bottom, left:right] = 1
    assert torch.equal(taken["masks"][0], expected)


@pytest.mark.parametrize("mask", [[[1, 2, 3, 4]], {"size": [60, 40], "counts": [2400]}, "text", [[1, 2, 3, 4, 5, 900]]])
def test_a_broken_mask_costs_the_mask(tmp_path: Path, mask: Any) -> None:
    with pytest.raises(TargetError, match="1 problem in"):
        coco(tmp_path, FIRST | {"segmentation": mask}, GOOD)
    source = coco(tmp_path, FIRST | {"segmentation": mask}, GOOD, on_error="drop")
    assert len(source.problems) == 1
    assert len(batch(source).targets[0]["boxes"]) == 2
    assert batch(source, masks=True).targets[0]["boxes"].shape == (1, 4)  # nothing to draw, and no stop in mid-epoch


def test_broken_keypoints_cost_the_keypoints(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "a", "keypoints": ["left", "right"]}]
    for points, kept in (
        ([1, 2], [[0, 0, 0]] * 2),
        ([], [[0, 0, 0]] * 2),
        ([9, 9, 2, 99, 9, 2], [[9, 9, 2], [0, 0, 0]]),
    ):
        found = objects(coco(tmp_path, FIRST | {"keypoints": points}, categories=categories, on_error="drop"))
        assert found.boxes.tolist() == [[10, 10, 30, 30]]
        assert found.keypoints is not None
        assert found.keypoints[0].tolist() == kept


def test_two_skeletons_do_not_cost_the_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    categories = [{"id": 1, "name": "a", "keypoints": ["left", "right"]}, {"id": 2, "name": "b", "keypoints": ["x"]}]
    source = coco(tmp_path, FIRST | {"keypoints": [1, 2, 2, 3, 4, 2]}, categories=categories)
    assert len(objects(source)) == 1
    assert "different keypoints" in caplog.text
    for category in categories:
        category["keypoints"] = ["left", "right"]
    categories[1]["skeleton"] = [[1, 2]]
    source = coco(tmp_path, FIRST | {"keypoints": [1, 2, 2, 3, 4, 2]}, categories=categories)
    assert (source.keypoint_names, source.skeleton) == (("left", "right"), ((0, 1),))


def test_what_hangs_over_is_cut_where_asked(tmp_path: Path) -> None:
    over = FIRST | {"bbox": [-10, 10, 40, 50], "segmentation": [[-10, 10, 30, 10, 30, 60, -10, 60]]}
    gone = FIRST | {"id": 2, "bbox": [70, 10, 20, 20]}
    with pytest.raises(TargetError, match=r"2 problems in .* \(2 out of bounds\)"):  # an object counts once
        coco(tmp_path, over, gone, GOOD)
    assert len(objects(coco(tmp_path, over, gone, GOOD, on_error="drop"))) == 1
    source = coco(tmp_path, over, gone, GOOD, on_error="clip")
    found = objects(source)
    assert found.boxes.tolist() == [[0, 10, 30, 40], [40, 5, 50, 15]]
    assert len(source.problems) == 1
    assert found.masks is not None
    expected = np.zeros(SIZE, np.uint8)
    expected[10:40, :30] = 1
    assert np.array_equal(decode_mask(found.masks[0], SIZE), expected)
    picture(tmp_path / "images" / "a.png", *SIZE)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.95 0.5 0.3 0.2\n0 0.2 0.2 1.2 0.2 1.2 0.6 0.2 0.6\n")
    boxes = objects(Yolo(tmp_path / "images", tmp_path / "labels", on_error="clip")).boxes
    np.testing.assert_allclose(boxes, [[48, 16, 60, 24], [12, 8, 60, 24]])
