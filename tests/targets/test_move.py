from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from resflow.errors import TargetError
from resflow.geometry import Geometry
from resflow.targets import Instances, Targets, move_instances, place_annotations
from resflow.targets.draw import Lookup, bounds
from tests.targets.scenes import PAIRS, annotation, mirror, placed, random_boxes, single, turned

EVERYTHING = Targets(masks=True, keypoints=True)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def check_kinds(instances: Instances, *, batch: int, objects: int, shape: tuple[int, int], keypoints: int) -> None:
    assert (len(instances), len(instances.boxes)) == (batch, objects)
    kinds = {
        "counts": (torch.int64, (batch,)),
        "boxes": (torch.float32, (objects, 4)),
        "labels": (torch.int64, (objects,)),
        "area": (torch.float32, (objects,)),
        "iscrowd": (torch.int64, (objects,)),
        "image_id": (torch.int64, (batch,)),
        "visible": (torch.float32, (objects,)),
        "masks": (torch.uint8, (objects, *shape)),
        "keypoints": (torch.float32, (objects, keypoints, 3)),
    }
    for name, (dtype, size) in kinds.items():
        part = getattr(instances, name)
        assert (part.dtype, tuple(part.shape)) == (dtype, size), name
    assert int(instances.counts.sum()) == objects


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_no_objects(batch: int) -> None:
    geometry = placed([(20, 30)] * batch, (16, 24))
    for given in ([None] * batch, [annotation([], image_id=4)] * batch):
        instances = place_annotations(given, geometry, EVERYTHING)
        check_kinds(instances, batch=batch, objects=0, shape=(16, 24), keypoints=0)
        matrix = torch.from_numpy(mirror(0, 24)).expand(batch, 3, 3)
        moved = move_instances(instances, matrix, (16, 24), EVERYTHING)
        check_kinds(moved, batch=batch, objects=0, shape=(16, 24), keypoints=0)
        assert instances.image_id.tolist() == [-1 if one is None else 4 for one in given]


def test_objects_of_some_images() -> None:
    first = annotation(
        [[1, 2, 5, 6], [3, 3, 9, 9]], masks=[rectangle(1, 2, 5, 6), rectangle(3, 3, 9, 9)], keypoints=np.ones((2, 4, 3))
    )
    geometry = placed([(20, 30)] * 4, (20, 30))
    instances = place_annotations([None, first, annotation([]), first], geometry, EVERYTHING)
    check_kinds(instances, batch=4, objects=4, shape=(20, 30), keypoints=4)
    assert instances.counts.tolist() == [0, 2, 0, 2]
    assert instances.image.tolist() == [1, 1, 3, 3]
    assert instances.boxes[:2].tolist() == first.boxes.tolist()
    assert instances.area[:2].tolist() == first.area.tolist()
    assert instances.visible.tolist() == [1, 1, 1, 1]
    plain = place_annotations([first], placed([(20, 30)], (20, 30)), Targets())
    assert plain.masks is plain.keypoints is None


def test_a_box_is_cut_and_area_goes_with_it() -> None:
    matrix = np.array([[2.0, 0, -10], [0, 3, 0], [0, 0, 1]])
    got = place_annotations([annotation([[0, 0, 10, 5], [0, 0, 4, 4]])], single(matrix, (20, 30), (60, 50)), Targets())
    assert got.labels.tolist() == [0]
    assert got.boxes.tolist() == [[0, 0, 10, 15]]
    assert got.visible.tolist() == [0.5]
    assert got.area.tolist() == [25 * 6 / 2]


def test_a_box_is_cut_at_its_image() -> None:
    got = place_annotations([annotation([[-5, 10, 5, 25]])], placed([(20, 30)], (40, 60)), Targets())
    assert got.boxes.tolist() == [[0, 20, 10, 40]]
    assert got.visible[0] == pytest.approx(1 / 3)


def test_an_uncut_box_keeps_its_place_and_a_cut_one_follows_its_mask() -> None:
    triangle = [[2.3, 2.4, 17.8, 2.4, 2.3, 12.9]]
    given = annotation([[2.3, 2.4, 17.8, 12.9]], masks=[triangle])
    whole = place_annotations([given], single(np.eye(3), (20, 30), (20, 30)), Targets(masks=True))
    np.testing.assert_allclose(whole.boxes[0], [2.3, 2.4, 17.8, 12.9], atol=1e-6)
    left = np.eye(3)
    left[0, 2] = -9  # cuts the tall side of the triangle off
    cut = place_annotations([given], single(left, (20, 30), (20, 30)), Targets(masks=True))
    assert cut.masks is not None
    assert torch.equal(bounds(cut.masks).float(), cut.boxes)
    plain = place_annotations([given], single(left, (20, 30), (20, 30)), Targets())
    assert cut.boxes[0, 3] < plain.boxes[0, 3] - 3
    assert cut.visible.tolist() == plain.visible.tolist()


def test_an_object_without_a_visible_pixel_goes_only_with_masks() -> None:
    corner = np.zeros((20, 30), np.uint8)
    corner[0, 0] = 1
    given = annotation([[0, 0, 20, 20]], masks=[corner])
    away = np.eye(3)
    away[0, 2] = -5
    assert len(place_annotations([given], single(away, (20, 30), (20, 30)), Targets(masks=True)).boxes) == 0
    assert len(place_annotations([given], single(away, (20, 30), (20, 30)), Targets()).boxes) == 1


def test_the_share_is_of_the_dataset_s_box_after_two_moves() -> None:
    half = np.eye(3)
    half[0, 2] = -10
    options = Targets(min_visible=0.4)
    first = place_annotations([annotation([[0, 0, 20, 20]])], single(half, (20, 40), (20, 40)), options)
    assert first.visible.tolist() == [0.5]
    less = np.eye(3)
    less[0, 2] = -4  # 6 of 10 columns stay: above the share of what was there, below that of the box
    assert len(move_instances(first, less[None], (20, 40), options).boxes) == 0
    assert len(move_instances(first, less[None], (20, 40), Targets(min_visible=0.3)).boxes) == 1


def test_keypoints_outside_are_not_labelled_and_borders_belong() -> None:
    points = [[[0, 0, 2], [30, 20, 1], [15, 10, 0], [5, 5, 2], [31, 5, 2]]]
    given = annotation([[0, 0, 30, 20]], keypoints=points)
    got = place_annotations([given], placed([(20, 30)], (40, 60), flip="x"), Targets(keypoints=True))
    assert got.keypoints is not None
    assert got.keypoints[0].tolist() == [[60, 0, 2], [0, 40, 1], [0, 0, 0], [50, 10, 2], [0, 0, 0]]


@pytest.mark.parametrize(
    ("flip", "order"), [("", [0, 1, 2, 3, 4]), ("x", [0, 2, 1, 4, 3]), ("y", [0, 2, 1, 4, 3]), ("xy", [0, 1, 2, 3, 4])]
)
def test_a_mirror_swaps_left_and_right(flip: str, order: list[int]) -> None:
    points = np.array([[[x, 3, 2] for x in (1, 4, 9, 16, 25)]], np.float64)
    given = annotation([[0, 0, 30, 20]], keypoints=points, pairs=PAIRS)
    got = place_annotations([given], placed([(20, 30)], (20, 30), flip=flip), Targets(keypoints=True))
    assert got.keypoints is not None
    right = points[0, order, 0]
    assert got.keypoints[0, :, 0].tolist() == (30 - right if "x" in flip else right).tolist()
    back = move_instances(got, mirror(0, 30)[None], (20, 30), Targets(keypoints=True))
    again = move_instances(back, torch.from_numpy(mirror(0, 30))[None], (20, 30), Targets(keypoints=True))
    assert again.keypoints is not None
    assert torch.equal(again.keypoints, got.keypoints)


def test_min_side_and_boxes_without_area() -> None:
    given = annotation([[1, 1, 1, 5], [1, 1, 2, 5], [1, 1, 3, 5]])
    geometry = placed([(20, 30)], (20, 30))
    assert place_annotations([given], geometry, Targets(min_side=0)).labels.tolist() == [1, 2]
    assert place_annotations([given], geometry, Targets()).labels.tolist() == [1, 2]
    assert place_annotations([given], geometry, Targets(min_side=2)).labels.tolist() == [2]


def test_crowds_and_order_stay() -> None:
    boxes = random_boxes(30, (20, 30), 0)
    given = annotation(boxes, labels=range(30, 0, -1))
    given.iscrowd[[3, 9]] = True
    got = place_annotations([given], placed([(20, 30)], (200, 300)), Targets(min_side=0))
    assert got.labels.tolist() == list(range(30, 0, -1))
    assert got.iscrowd.nonzero()[:, 0].tolist() == [3, 9]


def test_one_by_one_on_the_cpu_is_all_at_once_on_a_device() -> None:
    rng = np.random.default_rng(0)
    masks = torch.from_numpy((rng.random((7, 20, 26)) < 0.1).astype(np.uint8))
    masks[2] = 0
    size = (20, 26)
    shift = np.eye(3)
    shift[:2, 2] = 4.3, -7
    for matrix in (mirror(0, 26), shift, turned(30, 1.2, size, size), np.diag([0.5, 2, 1.0])):
        lookup = Lookup(matrix, size, size)
        planes = lookup.sample(masks)
        boxes = torch.tensor([[0, 0, 26, 20.0]]).repeat(7, 1)
        ones = torch.ones(7)
        instances = Instances(torch.tensor([7]), boxes, ones.long(), ones, ones.long(), torch.tensor([1]), ones, masks)
        moved = move_instances(instances, matrix[None], size, Targets(masks=True, min_side=0))
        assert moved.masks is not None
        shown = planes.flatten(1).amax(1) > 0
        assert torch.equal(moved.masks, planes[shown])
        tight = bounds(planes[shown]).float()
        whole = (moved.boxes != tight).any(1)  # boxes that nothing cut or turned keep their exact place
        assert torch.equal(moved.boxes[~whole], tight[~whole])
        assert not whole.any() or (matrix == mirror(0, 26)).all()


@pytest.mark.parametrize(
    ("second", "options", "message"),
    [
        (annotation([[0, 0, 5, 5]]), Targets(masks=True), r"object 0 of image 7: no mask: masks were asked for"),
        (
            annotation([[0, 0, 5, 5]], masks=[[[1, 2, 3]]]),
            Targets(masks=True),
            "object 0 of image 7: a mask must be COCO polygons",
        ),
        (
            annotation([[0, 0, 5, 5]]),
            Targets(keypoints=True),
            r"no keypoints: keypoints were asked for; image 7 has 1 objects without. Set Targets\(keypoints=False\)",
        ),
        (
            annotation([[0, 0, 5, 5]], keypoints=np.ones((1, 5, 3))),
            Targets(keypoints=True),
            r"of one kind; got 5 keypoints with pairs \(\) beside 4 keypoints with pairs \(\). Use one skeleton",
        ),
    ],
)
def test_an_error_tells_the_image(second: Any, options: Targets, message: str) -> None:
    first = annotation([[0, 0, 5, 5]], masks=[rectangle(0, 0, 5, 5)], keypoints=np.ones((1, 4, 3)))
    with pytest.raises(TargetError, match=message) as caught:
        place_annotations([first, second], placed([(20, 30)] * 2, (20, 30)), options)
    assert caught.value.position == 1


def test_one_annotation_for_each_image() -> None:
    with pytest.raises(TargetError, match="annotations must be one for each image; got 1 for 2 images"):
        place_annotations([None], placed([(20, 30)] * 2, (20, 30)), Targets())


def test_masks_must_have_been_placed() -> None:
    instances = place_annotations([annotation([[0, 0, 5, 5]])], placed([(20, 30)], (20, 30)), Targets())
    with pytest.raises(TargetError, match="no masks: masks were asked for, and the instances have none"):
        move_instances(instances, np.eye(3)[None], (20, 30), Targets(masks=True))


def test_an_image_outside_of_the_frame_shows_nothing() -> None:
    away = np.eye(3)
    away[0, 2] = 100
    given = annotation([[0, 0, 5, 5]], masks=[rectangle(0, 0, 5, 5)], keypoints=np.ones((1, 4, 3)))
    geometry = Geometry(away[None], np.array([[20, 30]], np.int32), (20, 30))
    check_kinds(place_annotations([given], geometry, EVERYTHING), batch=1, objects=0, shape=(20, 30), keypoints=4)
