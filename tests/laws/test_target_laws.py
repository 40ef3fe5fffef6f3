"""Targets follow the pixels: they agree with each other, with other libraries, and with themselves there and back."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from resflow.geometry import Fit, Geometry
from resflow.targets import (
    KeypointPairs,
    LabelMap,
    Targets,
    annotation_from,
    decode_mask,
    hand_out,
    invert_boxes,
    invert_keypoints,
    invert_masks,
    invert_predictions,
    move_instances,
    move_label_maps,
    place_annotations,
    place_label_maps,
)
from tests.data import real
from tests.targets.scenes import (
    PAIRS,
    Array,
    annotation,
    mirror,
    nearest,
    nearest_fast,
    placed,
    random_boxes,
    random_keypoints,
    single,
    turned,
)

ALL = Targets(min_side=0.0)
SIZES = [(480, 640), (427, 640), (640, 425), (333, 500), (97, 1000), (3000, 2000)]
SHAPES = [(640, 640), (512, 768), (224, 160)]
FITS = [Fit(), Fit(max_upscale=1.0), Fit.stretch()]
FLIPS = ["", "x", "y", "xy"]


def shifted(geometry: Geometry, pixels: float) -> Geometry:
    """A fault to plant: everything lies `pixels` to the right of where it should."""
    matrix = geometry.matrix.copy()
    matrix[:, 0, 2] += pixels
    return Geometry(matrix, geometry.source_size, geometry.output_size)


def in_float32(geometry: Geometry) -> Geometry:
    """The geometry as a Batch keeps it."""
    return Geometry(geometry.matrix.astype(np.float32).astype(np.float64), geometry.source_size, geometry.output_size)


# There and back


def check_round_trip(geometry: Geometry, back: Geometry, pairs: KeypointPairs = PAIRS) -> None:
    """Boxes within 0.01 px and keypoints within 0.01 px, in float32, of sources up to 1000 px; else in proportion."""
    sizes = [(height, width) for height, width in geometry.source_size.tolist()]
    given = [
        annotation(random_boxes(9, size, n), keypoints=random_keypoints(9, 5, size, n), pairs=PAIRS)
        for n, size in enumerate(sizes)
    ]
    options = Targets(min_side=0.0, keypoints=True)
    dicts = hand_out(place_annotations(given, geometry, options), options, geometry.output_size)
    assert isinstance(dicts, list)
    boxes = invert_boxes([one["boxes"] for one in dicts], back)
    points = invert_keypoints([one["keypoints"] for one in dicts], back, pairs=pairs)
    together = invert_predictions(dicts, back, pairs=pairs)
    for one, box, point, size, both in zip(given, boxes, points, sizes, together, strict=True):
        allowed = 0.01 * max(1, max(size) / 1000)
        assert box.dtype == point.dtype == torch.float32
        assert np.abs(box.numpy() - one.boxes).max() <= allowed, "boxes do not come home"
        assert one.keypoints is not None
        assert np.abs(point.numpy() - one.keypoints).max() <= allowed, "keypoints do not come home"
        assert torch.equal(both["boxes"], box)
        assert torch.equal(both["keypoints"], point)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("fit", FITS, ids=["letterbox", "no upscale", "stretch"])
def test_boxes_and_keypoints_come_home(fit: Fit, flip: str) -> None:
    for shape in SHAPES:
        geometry = placed(SIZES, shape, fit, flip)
        check_round_trip(geometry, in_float32(geometry))


def test_the_round_trip_catches_pixel_centres_and_left_for_right() -> None:
    geometry = placed(SIZES, (640, 640))
    with pytest.raises(AssertionError, match="boxes do not come home"):
        check_round_trip(geometry, shifted(geometry, 0.5))
    geometry = placed(SIZES, (640, 640), flip="x")
    with pytest.raises(AssertionError, match="keypoints do not come home"):  # left and right forgotten
        check_round_trip(geometry, geometry, pairs=())


def test_enlarged_masks_and_label_maps_come_home_exactly() -> None:
    rng = np.random.default_rng(0)
    for size, shape, flip in itertools.product([(17, 23), (31, 9), (40, 40)], [(40, 40), (97, 64)], FLIPS):
        geometry = placed([size], shape, flip=flip)
        pixels = rng.integers(0, 2, size).astype(np.uint8)
        box = [0, 0, size[1], size[0]]
        instances = place_annotations([annotation([box], masks=[pixels])], geometry, Targets(masks=True))
        assert instances.masks is not None
        back = invert_masks([instances.masks], geometry)[0]
        np.testing.assert_array_equal(back[0].numpy(), pixels)
        classes = rng.integers(0, 12, size).astype(np.uint8)
        maps = place_label_maps([LabelMap.from_array(classes)], geometry, Targets())
        np.testing.assert_array_equal(invert_masks(maps, geometry, fill=255)[0].numpy(), classes)
        assert not np.array_equal(invert_masks(maps, shifted(geometry, 2.0), fill=255)[0].numpy(), classes)


# Masks and boxes


def outlines(size: tuple[int, int]) -> list[list[list[float]]]:
    """A rectangle, an ellipse, an L and two parts, as polygons."""
    height, width = size
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ellipse = np.stack([0.5 + 0.31 * np.cos(angle), 0.45 + 0.2 * np.sin(angle)], 1)
    shapes: list[list[Any]] = [
        [[(0.1, 0.2), (0.7, 0.2), (0.7, 0.9), (0.1, 0.9)]],
        [ellipse],
        [[(0.3, 0.1), (0.45, 0.1), (0.45, 0.7), (0.95, 0.7), (0.95, 0.85), (0.3, 0.85)]],
        [[(0.0, 0.0), (0.2, 0.0), (0.2, 0.2), (0.0, 0.2)], [(0.6, 0.5), (1.0, 0.5), (1.0, 1.0), (0.6, 1.0)]],
    ]
    return [[(np.array(part) * (width, height)).reshape(-1).tolist() for part in shape] for shape in shapes]


def edges_of(mask: Array) -> list[int]:
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1]


def placements(size: tuple[int, int], shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
    for degrees, scale, shift, flip in itertools.product(
        (0, 90, 17, -140), (0.31, 1.0, 2.3), ((0, 0), (9.4, -13)), ("", "x")
    ):
        matrix = turned(degrees, scale, size, shape, shift)
        yield f"{degrees} {scale} {shift} {flip}", mirror(0, shape[1]) @ matrix if flip else matrix


def check_masks_and_boxes(change: Callable[[Array], Array]) -> int:
    size, shape = (90, 120), (100, 84)
    polygons = outlines(size)
    boxes = [edges_of(decode_mask(one, size)) for one in polygons]
    compared = 0
    for name, matrix in placements(size, shape):
        options = Targets(masks=True)
        instances = place_annotations([annotation(boxes, masks=polygons)], single(matrix, size, shape), options)
        assert instances.masks is not None
        plain = place_annotations([annotation(boxes)], single(matrix, size, shape), Targets())
        by_label = dict(zip(plain.labels.tolist(), plain.boxes.numpy(), strict=True))
        for mask, box, label in zip(
            change(instances.masks.numpy()), instances.boxes.numpy(), instances.labels.tolist(), strict=True
        ):
            got = edges_of(mask)
            assert np.abs(got - box).max() <= 1, f"mask and box part: {got}, {box}, {name}"
            tight = by_label[label]
            outside = np.maximum(tight[:2] - got[:2], got[2:] - tight[2:]).max()
            assert outside <= 1, f"mask leaves its box: {got}, {tight}, {name}"
            right = nearest_fast(decode_mask(polygons[label], size), matrix, shape)
            np.testing.assert_array_equal(mask, right, err_msg=name)
            compared += 1
    return compared


def test_masks_and_boxes_agree() -> None:
    assert check_masks_and_boxes(lambda masks: masks) > 150


def test_the_agreement_catches_a_mask_moved_by_two_pixels() -> None:
    with pytest.raises(AssertionError, match="mask and box part"):
        check_masks_and_boxes(lambda masks: np.roll(masks, 2, axis=2))


def test_the_fast_reference_is_the_plain_one() -> None:
    pixels = np.random.default_rng(0).integers(1, 9, (13, 17)).astype(np.uint8)
    for _, matrix in itertools.islice(placements((13, 17), (20, 15)), 0, None, 5):
        np.testing.assert_array_equal(nearest(pixels, matrix, (20, 15)), nearest_fast(pixels, matrix, (20, 15)))


def test_moving_twice_is_moving_by_the_product() -> None:
    size, shape = (90, 120), (100, 84)
    polygons = outlines(size)
    given = annotation([edges_of(decode_mask(one, size)) for one in polygons], masks=polygons)
    classes = np.random.default_rng(3).integers(0, 9, size).astype(np.uint8)
    geometry = placed([size], shape)
    options = Targets(masks=True)
    first = place_annotations([given], geometry, options)
    maps = place_label_maps([LabelMap.from_array(classes)], geometry, options)
    shift = np.eye(3)
    shift[0, 2] = 11
    for second in (np.eye(3), mirror(0, shape[1]), mirror(1, shape[0]), shift @ mirror(0, shape[1])):
        matrix = torch.from_numpy(second)[None]
        both = Geometry(second @ geometry.matrix, geometry.source_size, shape)
        moved, right = move_instances(first, matrix, shape, options), place_annotations([given], both, options)
        assert moved.labels.tolist() == right.labels.tolist()
        assert moved.masks is not None and right.masks is not None  # noqa: PT018
        assert torch.equal(moved.masks, right.masks)
        for name in ("boxes", "area", "visible"):
            torch.testing.assert_close(getattr(moved, name), getattr(right, name), atol=1e-3, rtol=1e-5)
        assert torch.equal(
            move_label_maps(maps, matrix, shape, options),
            place_label_maps([LabelMap.from_array(classes)], both, options),
        )


# Clipping


def kept_by_hand(boxes: Array, matrix: Array, size: tuple[int, int], shape: tuple[int, int], least: float) -> list[int]:
    """Which boxes stay, by numbers alone, under a matrix that turns nothing."""
    kept = []
    for place, (left, top, right, bottom) in enumerate(boxes):
        xs = sorted(matrix[0, 0] * x + matrix[0, 2] for x in (left, right))
        ys = sorted(matrix[1, 1] * y + matrix[1, 2] for y in (top, bottom))
        image_x = sorted((matrix[0, 2], matrix[0, 0] * size[1] + matrix[0, 2]))
        image_y = sorted((matrix[1, 2], matrix[1, 1] * size[0] + matrix[1, 2]))
        wide = min(xs[1], image_x[1], shape[1]) - max(xs[0], image_x[0], 0)
        high = min(ys[1], image_y[1], shape[0]) - max(ys[0], image_y[0], 0)
        share = max(wide, 0) * max(high, 0) / ((xs[1] - xs[0]) * (ys[1] - ys[0]))
        if min(wide, high) >= 2 and share >= least:
            kept.append(place)
    return kept


def check_verdicts(planted: float = 0.0) -> None:
    rng = np.random.default_rng(0)
    size, shape = (90, 120), (100, 84)
    corners = np.sort(rng.integers(-10, 130, (60, 2, 2)), axis=1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1] + 3], axis=1).astype(float)
    masks = []
    for left, top, right, bottom in boxes.astype(int):
        mask = np.zeros(size, np.uint8)
        mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
        masks.append(mask)
    points = np.concatenate([(boxes[:, None, :2] + boxes[:, None, 2:]) / 2, np.full((60, 1, 1), 2.0)], axis=2)
    full = annotation(boxes, masks=masks, keypoints=points)
    for least, (_, matrix) in itertools.product((0.0, 0.3, 0.8), placements(size, shape)):
        if abs(matrix[0, 1]) > 1e-9:
            continue
        right = kept_by_hand(boxes, matrix, size, shape, least + planted)
        for asked in ({}, {"masks": True}, {"keypoints": True}, {"masks": True, "keypoints": True}):
            options = Targets(min_visible=least, min_side=2.0, **asked)
            got = place_annotations([full], single(matrix, size, shape), options)
            assert got.labels.tolist() == right, f"another verdict for {asked or 'boxes'}"
            assert got.masks is None or len(got.masks) == len(right)
            if got.keypoints is not None:
                x, y, seen = got.keypoints[:, 0].numpy().T
                centre = (matrix @ np.append(points[right, 0, :2], np.ones((len(right), 1)), axis=1).T)[:2]
                inside = (points[right, 0, :2] >= 0).all(1) & (points[right, 0, :2] <= (size[1], size[0])).all(1)
                inside &= (centre >= 0).all(0) & (centre <= np.array(shape[::-1])[:, None]).all(0)
                np.testing.assert_array_equal(seen > 0, inside)
                np.testing.assert_allclose(np.stack([x, y]), centre * inside, atol=1e-4)


def test_boxes_masks_and_keypoints_are_judged_alike() -> None:
    check_verdicts()


def test_the_verdicts_catch_another_share() -> None:
    with pytest.raises(AssertionError, match="another verdict"):
        check_verdicts(planted=0.05)


# Other libraries


def through_torchvision(boxes: Any, masks: Any, steps: list[tuple[str, Any]]) -> tuple[Any, Any]:
    calls: dict[str, Callable[[Any, Any], Any]] = {
        "crop": lambda target, box: v2.crop(target, *box),
        "pad": lambda target, sides: v2.pad(target, sides, fill=0),
        "flip": lambda target, _: v2.horizontal_flip(target),
        "resize": lambda target, size: v2.resize(target, size),
    }
    for name, value in steps:
        boxes = calls[name](boxes, value)
        # torchvision resizes masks by the nearest corner; the nearest centre is what an image asks for
        masks = (
            v2.resize_image(masks, list(value), interpolation=InterpolationMode.NEAREST_EXACT)
            if name == "resize"
            else calls[name](masks, value)
        )
        masks = tv_tensors.Mask(masks)
    return boxes, masks


def matrix_of(size: tuple[int, int], steps: list[tuple[str, Any]]) -> tuple[Array, tuple[int, int]]:
    matrix, (height, width) = np.eye(3), size
    for name, value in steps:
        step = np.eye(3)
        if name == "crop":
            step[:2, 2] = -value[1], -value[0]
            height, width = value[2], value[3]
        elif name == "pad":
            step[:2, 2] = value[0], value[1]
            height, width = height + value[1] + value[3], width + value[0] + value[2]
        elif name == "flip":
            step = mirror(0, width)
        else:
            step[0, 0], step[1, 1] = value[1] / width, value[0] / height
            height, width = value
        matrix = step @ matrix
    return matrix, (height, width)


@pytest.mark.parametrize(
    "steps",
    [
        [("resize", (123, 97))],
        [("resize", (45, 60)), ("pad", (3, 11, 9, 2))],
        [("crop", (11, 23, 60, 50)), ("resize", (133, 90))],
        [("resize", (200, 260)), ("crop", (31, 17, 128, 160)), ("flip", None)],
        [("flip", None), ("resize", (83, 141)), ("pad", (5, 0, 0, 20)), ("crop", (0, 2, 90, 100))],
    ],
    ids=lambda steps: " ".join(name for name, _ in steps),
)
def test_torchvision_agrees(steps: list[tuple[str, Any]]) -> None:
    size = (90, 120)
    polygons = outlines(size)
    given = annotation([edges_of(decode_mask(one, size)) for one in polygons], masks=polygons)
    matrix, shape = matrix_of(size, steps)
    boxes, masks = through_torchvision(
        tv_tensors.BoundingBoxes(torch.from_numpy(given.boxes).float(), format="XYXY", canvas_size=size),  # type: ignore[call-overload]
        tv_tensors.Mask(torch.from_numpy(np.stack([decode_mask(one, size) for one in polygons]))),
        steps,
    )
    assert tuple(boxes.canvas_size) == shape
    plain = place_annotations([given], single(matrix, size, shape), Targets(min_side=0.0))
    np.testing.assert_allclose(plain.boxes.numpy(), boxes[plain.labels].numpy(), atol=1e-3)
    got = place_annotations([given], single(matrix, size, shape), Targets(masks=True))
    assert got.masks is not None
    np.testing.assert_array_equal(got.masks.numpy(), masks[got.labels].numpy())
    assert len(got.labels) >= 3
    other = place_annotations([given], single(np.diag([1, 1.02, 1]) @ matrix, size, shape), Targets(masks=True))
    assert not torch.equal(other.boxes, got.boxes)


@pytest.mark.parametrize("flip", ["", "x"])
@pytest.mark.parametrize("size", SIZES)
def test_detectron2_shortest_edge_agrees(size: tuple[int, int], flip: str) -> None:
    """ResizeShortestEdge: scale the short side to 800, the long to 1333 at most, round each; boxes by what came out."""
    height, width = size
    scale = 800 / min(size)
    new = (800, scale * width) if height < width else (scale * height, 800)
    if max(new) > 1333:
        new = (new[0] * 1333 / max(new), new[1] * 1333 / max(new))
    shape = (int(new[0] + 0.5), int(new[1] + 0.5))
    boxes = random_boxes(20, size, 1)
    right = boxes * np.tile([shape[1] / width, shape[0] / height], 2)
    if flip:
        right = np.stack([shape[1] - right[:, 2], right[:, 1], shape[1] - right[:, 0], right[:, 3]], axis=1)
    got = place_annotations([annotation(boxes)], placed([size], shape, Fit.stretch(), flip), ALL)
    np.testing.assert_allclose(got.boxes.numpy(), right, atol=1e-3)
    assert np.abs(got.boxes.numpy() - right - 0.5).max() > 0.4


@pytest.mark.parametrize("shape", [(640, 640), (480, 640), (384, 672)])
@pytest.mark.parametrize("size", SIZES)
def test_ultralytics_letterbox_agrees(size: tuple[int, int], shape: tuple[int, int]) -> None:
    """LetterBox: one ratio for both sides, rounded sides, half the padding rounded down on the left and at the top.

    Its boxes take the ratio before rounding, ours the pixels that the image got: the two part by the rounding at most.
    """
    height, width = size
    ratio = min(shape[0] / height, shape[1] / width)
    new = (round(height * ratio), round(width * ratio))
    top, left = (round((side - inner) / 2 - 0.1) for side, inner in zip(shape, new, strict=True))
    boxes = random_boxes(20, size, 1)
    theirs = boxes * ratio + [left, top, left, top]
    exact = boxes * np.tile([new[1] / width, new[0] / height], 2) + [left, top, left, top]
    got = place_annotations([annotation(boxes)], placed([size], shape), ALL).boxes.numpy()
    np.testing.assert_allclose(got, exact, atol=1e-3)
    np.testing.assert_allclose(got, theirs, atol=0.5 + 1e-3)
    assert np.abs(got - exact - 1).max() > 0.9


# Real annotations


def coco(name: str) -> tuple[COCO, list[dict[str, Any]], dict[int, list[dict[str, Any]]]]:
    path = real(f"coco-mini/annotations/{name}.json")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    by_image = defaultdict(list)
    for record in json.loads(path.read_text())["annotations"]:
        by_image[record["image_id"]].append(record)
    return truth, truth.dataset["images"], by_image


def average_precision(truth: COCO, found: list[dict[str, Any]], kind: str) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def sent_through(
    name: str, shape: tuple[int, int], options: Targets, fault: float = 0.0
) -> tuple[COCO, list[dict[str, Any]]]:
    """Ground truth of coco-mini placed into batches of 16 and taken back, as results for pycocotools."""
    truth, images, by_image = coco(name)
    found = []
    for start in range(0, len(images), 16):
        chosen = images[start : start + 16]
        given = [annotation_from(by_image[one["id"]], image_id=one["id"]) for one in chosen]
        geometry = placed([(one["height"], one["width"]) for one in chosen], shape, flip="x" if start % 32 else "")
        dicts = hand_out(place_annotations(given, geometry, options), options, shape)
        assert isinstance(dicts, list)
        for one, size in zip(
            invert_predictions(dicts, shifted(geometry, fault)), geometry.source_size.tolist(), strict=True
        ):
            left, top, right, bottom = one["boxes"].double().T
            for place, box in enumerate(torch.stack([left, top, right - left, bottom - top], 1).tolist()):
                label = int(one["labels"][place])
                result = {"image_id": one["image_id"], "category_id": label, "bbox": box, "score": 1.0}
                if options.masks:
                    assert list(one["masks"].shape[1:]) == size
                    result["segmentation"] = coco_mask.encode(np.asfortranarray(one["masks"][place].numpy()))
                    del result["bbox"]
                if options.keypoints:
                    points = one["keypoints"][place]
                    if not (points[:, 2] > 0).any():
                        continue  # evaluation passes over people without a point
                    result["keypoints"] = points.reshape(-1).tolist()
                    del result["bbox"]
                found.append(result)
    return truth, found


@pytest.mark.parametrize("name", ["instances_train2017", "instances_val2017", "person_keypoints_val2017"])
def test_ground_truth_comes_home_with_average_precision_1(name: str) -> None:
    truth, found = sent_through(name, (640, 640), ALL)
    assert len(found) == len(truth.dataset["annotations"])
    assert average_precision(truth, found, "bbox") == 1.0
    truth, found = sent_through(name, (640, 640), ALL, fault=3.0)
    assert average_precision(truth, found, "bbox") < 0.98


def test_masks_come_home_with_average_precision_1() -> None:
    truth, found = sent_through("instances_val2017", (640, 640), Targets(masks=True, min_side=0.0))
    assert average_precision(truth, found, "segm") == 1.0


def test_keypoints_come_home_with_average_precision_1() -> None:
    for name in ("person_keypoints_train2017", "person_keypoints_val2017"):
        truth, found = sent_through(name, (640, 640), Targets(keypoints=True, min_side=0.0))
        assert average_precision(truth, found, "keypoints") == 1.0
        truth, found = sent_through(name, (640, 640), Targets(keypoints=True, min_side=0.0), fault=20.0)
        assert average_precision(truth, found, "keypoints") < 0.98


def camvid() -> list[Path]:
    return sorted(real("camvid/masks").glob("*.png"))


def test_street_scenes_lie_as_the_reference_says() -> None:
    paths = camvid()[::5]
    maps = [LabelMap(path.read_bytes()) for path in paths]
    pixels = [np.array(Image.open(path)) for path in paths]
    sizes = [one.shape for one in pixels]
    for shape, fit, flip in [
        ((224, 320), Fit(max_crop=0.2), "x"),
        ((256, 256), Fit(), ""),
        ((300, 500), Fit.stretch(), "y"),
    ]:
        geometry = placed(sizes, shape, fit, flip)  # type: ignore[arg-type]
        got = place_label_maps(maps, geometry, Targets())
        assert got.dtype == torch.uint8
        for one, source, matrix in zip(got.numpy(), pixels, geometry.matrix, strict=True):
            np.testing.assert_array_equal(one, nearest_fast(source, matrix, shape, 255))
    matrix = np.stack([turned(12, 0.7, size, (200, 300)) for size in sizes])  # type: ignore[arg-type]
    geometry = Geometry(matrix, np.array(sizes, np.int32), (200, 300))
    for one, source, each in zip(place_label_maps(maps, geometry, Targets()).numpy(), pixels, matrix, strict=True):
        np.testing.assert_array_equal(one, nearest_fast(source, each, (200, 300), 255))
        half = np.eye(3)
        half[0, 2] = 0.5  # pixel centres taken for edges
        assert (one != nearest_fast(source, half @ each, (200, 300), 255)).any()
