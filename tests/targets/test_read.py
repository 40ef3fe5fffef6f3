from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from resflow.errors import TargetError
from resflow.targets import Annotation, annotation_from, annotation_from_json, annotation_json, decode_mask
from tests.data import real
from tests.targets.scenes import annotation

RECORD: dict[str, Any] = {
    "id": 5,
    "image_id": 9,
    "category_id": 3,
    "bbox": [1.5, 2, 3, 4.25],
    "area": 7.5,
    "iscrowd": 0,
    "segmentation": [[1.5, 2, 4.5, 2, 4.5, 6.25]],
    "keypoints": [1, 2, 2, 0, 0, 0],
}


def check_same(one: Annotation, other: Annotation) -> None:
    for name in ("boxes", "labels", "area", "iscrowd", "keypoints"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name) is None or getattr(one, name).dtype == getattr(other, name).dtype
    assert (one.image_id, one.keypoint_pairs) == (other.image_id, other.keypoint_pairs)
    assert not len(one) or (one.masks is None) == (other.masks is None)


def test_coco() -> None:
    crowd = {"image_id": 9, "category_id": 1, "bbox": [0, 0, 2, 2], "iscrowd": 1}
    got = annotation_from([RECORD, crowd], keypoint_pairs=((0, 1),))
    assert got.boxes.tolist() == [[1.5, 2, 4.5, 6.25], [0, 0, 2, 2]]
    assert got.labels.tolist() == [3, 1]
    assert got.area.tolist() == [7.5, 4]
    assert got.iscrowd.tolist() == [False, True]
    assert got.masks == (RECORD["segmentation"], None)
    assert got.keypoints is not None
    assert got.keypoints.tolist() == [[[1, 2, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert (got.image_id, got.keypoint_pairs) == (9, ((0, 1),))
    plain = annotation_from([crowd])
    assert plain.masks is plain.keypoints is None
    assert annotation_from([]).image_id == -1
    assert annotation_from([], image_id=4).image_id == 4
    assert annotation_from(plain) is plain


def test_a_member_gives_back_number_for_number() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 700, (300, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    given = annotation(boxes, keypoints=rng.normal(0, 100, (300, 3, 3)), pairs=((1, 2),))
    check_same(given, annotation_from_json(json.dumps(annotation_json(given)).encode()))
    for one in (annotation([], image_id=3), annotation_from([RECORD])):
        check_same(one, annotation_from_json(json.dumps(annotation_json(one)).encode()))
    value = annotation_json(annotation_from([RECORD]))
    assert value["annotations"][0]["bbox"] == RECORD["bbox"]
    assert value["annotations"][0]["segmentation"] == RECORD["segmentation"]
    assert value["annotations"][0]["num_keypoints"] == 1


def test_masks_of_every_kind_in_a_member() -> None:
    pixels = (np.random.default_rng(0).random((6, 8)) < 0.5).astype(np.uint8)
    columns = pixels.T.reshape(-1)
    counts = np.diff([0, *np.flatnonzero(np.diff(columns, prepend=0)), 48]).tolist()
    masks: list[Any] = [pixels, {"size": [6, 8], "counts": counts}, RECORD["segmentation"]]
    read = annotation_from_json(json.dumps(annotation_json(annotation([[0, 0, 8, 6]] * 3, masks=masks))).encode())
    again = annotation_from_json(json.dumps(annotation_json(read)).encode())
    for one in (read, again):
        assert one.masks is not None
        for got, right in zip(one.masks, masks, strict=True):
            np.testing.assert_array_equal(decode_mask(got, (6, 8)), decode_mask(right, (6, 8)))


def test_real_annotations_give_back_their_numbers() -> None:
    path = real("coco-mini/annotations/person_keypoints_val2017.json")
    for record in json.loads(path.read_text())["annotations"]:
        (written,) = annotation_json(annotation_from([record]))["annotations"]
        for name in (
            "bbox",
            "category_id",
            "area",
            "iscrowd",
            "keypoints",
            "num_keypoints",
            "segmentation",
            "image_id",
        ):
            assert written[name] == record[name], (record["id"], name)


def test_torchvision_dicts() -> None:
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    value = {
        "boxes": torch.tensor([[1, 2, 3, 4], [0, 0, 5, 5.5]]),
        "labels": torch.tensor([1, 2]),
        "masks": tv_tensors.Mask(masks),
        "keypoints": torch.ones(2, 4, 3),
        "iscrowd": torch.tensor([0, 1]),
        "image_id": torch.tensor([12]),
    }
    got = annotation_from(value)
    assert got.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 5, 5.5]]
    assert got.area.tolist() == [4, 27.5]
    assert got.iscrowd.tolist() == [False, True]
    assert got.image_id == 12
    assert got.masks is not None
    assert got.masks[0].shape == (6, 8)  # type: ignore[union-attr]
    none = annotation_from({"boxes": torch.zeros(0), "labels": torch.zeros(0), "image_id": 3})
    assert (len(none), none.image_id) == (0, 3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.int16])
def test_masks_of_any_whole_numbers(dtype: torch.dtype) -> None:
    masks = torch.zeros(1, 6, 8, dtype=dtype)
    masks[:, 2:4, 3:7] = 1 if dtype in (torch.bool, torch.uint8) else 256  # which is 0 in a byte
    got = annotation_from({"boxes": [[3, 2, 7, 4]], "labels": [1], "masks": masks})
    assert got.masks is not None
    np.testing.assert_array_equal(got.masks[0], (masks[0] != 0).numpy().astype(np.uint8))


@pytest.mark.parametrize(("form", "boxes"), [("XYXY", [2, 3, 6, 9]), ("XYWH", [2, 3, 4, 6]), ("CXCYWH", [4, 6, 4, 6])])
def test_boxes_of_tv_tensors(form: str, boxes: list[int]) -> None:
    value = tv_tensors.BoundingBoxes(torch.tensor([boxes]), format=form, canvas_size=(20, 20))  # type: ignore[call-overload]
    got = annotation_from({"boxes": value, "labels": [1]})
    assert got.boxes.tolist() == [[2, 3, 6, 9]]


def voc(**change: Any) -> dict[str, Any]:
    one = {"name": "dog", "difficult": "1", "bndbox": {"xmin": "1", "ymin": "2", "xmax": "30", "ymax": "40"}} | change
    return {"annotation": {"filename": "a.jpg", "object": [one]}}


def test_pascal_voc() -> None:
    got = annotation_from(voc(), classes={"dog": 12}, image_id=5)
    assert got.boxes.tolist() == [[0, 1, 30, 40]]
    assert (got.labels.tolist(), got.iscrowd.tolist(), got.image_id) == ([12], [True], 5)
    assert len(annotation_from({"annotation": {"filename": "a.jpg"}}, classes={})) == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "objects must be a list of COCO annotations or a dict; got int. Give COCO annotations"),
        ("text", "got str"),
        ({"a": 1}, "no objects in a dict of 'a'. Give COCO annotations, or a dict of boxes and labels"),
        ([5], r"COCO annotations must be a list of dicts; got \[5\]"),
        ({"annotations": 5}, "COCO annotations must be a list of dicts; got 5"),
        ({"annotations": [], "image_id": "x"}, "image_id must be a whole number; got 'x'"),
        ({"annotations": [], "keypoint_pairs": [[1]]}, r"keypoint_pairs: got \(1,\); expected pairs of places"),
        ([{"category_id": 1}], "no 'bbox' in object 0; got {'category_id': 1}"),
        ([RECORD, {"bbox": [0, 0, 1, 1]}], "no 'category_id' in object 1"),
        ([RECORD | {"bbox": [0, 0, 1]}], r"bbox must be 4 finite numbers; got \[0, 0, 1\] for object 0"),
        ([RECORD | {"bbox": [0, 0, 1, float("nan")]}], r"bbox must be 4 finite numbers; got \[0, 0, 1, nan\]"),
        ([RECORD | {"bbox": None}], "bbox must be 4 finite numbers; got None"),
        ([RECORD | {"bbox": [0, 0, -1, 1]}], "with neither side negative; got .* for object 0"),
        ([RECORD | {"area": "big"}], "area must be a finite number; got 'big' for object 0"),
        ([RECORD | {"category_id": 1.5}], "category_id must be a whole number; got 1.5"),
        ([RECORD | {"keypoints": [1, 2]}], r"keypoints must be x, y, visibility of each; got \[1, 2\] for object 0"),
        ([RECORD, RECORD | {"keypoints": [1, 2, 2]}], "keypoints must be 6 finite numbers; got .* for object 1"),
        ([RECORD, RECORD | {"image_id": 8}], r"must have one image_id; got \[8, 9\]"),
        ({"boxes": torch.zeros(2, 4)}, "no labels beside boxes; got 'boxes'"),
        ({"boxes": torch.zeros(2, 5), "labels": torch.zeros(2)}, r"boxes must be \[N, 4\]; got \[2, 5\]"),
        ({"boxes": torch.zeros(2, 4), "labels": torch.zeros(2)}, "labels must be a tensor of whole numbers"),
        ({"boxes": torch.zeros(2, 4), "labels": torch.zeros(3).long()}, r"labels must be int64 \[2\]; got int64 \[3\]"),
        ({"boxes": [["a"] * 4], "labels": [1]}, "boxes must be a tensor of numbers"),
        (
            {"boxes": torch.zeros(1, 4), "labels": [1], "masks": torch.zeros(1, 3, 3)},
            "masks must be a tensor of whole numbers",
        ),
        (voc(), "Pascal VOC annotations name their classes, and no class numbers were given"),
    ],
)
def test_what_is_wrong_is_said(value: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        annotation_from(value)


def test_what_is_wrong_in_voc_is_said() -> None:
    with pytest.raises(TargetError, match="class 'dog' of object 0 is not among cat, cow"):
        annotation_from(voc(), classes={"cat": 1, "cow": 2})
    with pytest.raises(TargetError, match="ymax must be a finite number; got 'x' for object 0"):
        annotation_from(voc(bndbox={"xmin": 1, "ymin": 1, "xmax": 2, "ymax": "x"}), classes={"dog": 1})
    with pytest.raises(TargetError, match="no 'name' in object 0"):
        annotation_from({"annotation": {"object": [{}]}}, classes={})


@pytest.mark.skipif(not hasattr(tv_tensors.BoundingBoxFormat, "XYWHR"), reason="this torchvision has none")
def test_rotated_boxes_are_refused() -> None:
    boxes = tv_tensors.BoundingBoxes(torch.zeros(1, 5), format="XYWHR", canvas_size=(5, 5))  # type: ignore[call-overload]
    with pytest.raises(TargetError, match="boxes must be XYXY, XYWH, CXCYWH; got XYWHR"):
        annotation_from({"boxes": boxes, "labels": [1]})


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"{", r"objects must be JSON; got 1 bytes from b'{'"),
        (b"\xff\xfe", "objects must be JSON"),
        (b"[" * 100_000, "objects must be JSON"),
        (b'{"annotations": [{"bbox": [0, 0, 1, NaN], "category_id": 1}]}', r"4 finite numbers; got \[0, 0, 1, nan\]"),
        (b"3", "got int"),
    ],
)
def test_a_broken_member_is_refused(encoded: bytes, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        annotation_from_json(encoded)
