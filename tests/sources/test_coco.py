"""COCO's files give what pycocotools reads in them; what is wrong in them is named."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from resflow.errors import ConfigError, TargetError
from resflow.sources import Coco, Source
from resflow.sources.annotations.run_lengths import compressed_counts
from resflow.targets import Annotation
from resflow.targets.masks import decode_mask
from tests.data import real
from tests.sources.annotated_sets import coco_set, picture

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")


def target(source: Coco, number: int) -> Annotation:
    found = source.read(np.array([number]))[0].target
    assert isinstance(found, Annotation)
    return found


def check_against_pycocotools(source: Coco, path: Path, images: Path) -> None:
    reference = COCO(str(path))
    numbers = sorted(reference.imgs)
    assert len(source) == len(numbers)
    assert source.categories == {number: record["name"] for number, record in sorted(reference.cats.items())}
    for place, number in enumerate(numbers):
        record, objects = reference.imgs[number], reference.loadAnns(reference.getAnnIds(number))
        (sample,) = source.read(np.array([place]))
        assert bytes(sample.image) == (images / record["file_name"]).read_bytes()
        assert source.index.size[place].tolist() == [record["height"], record["width"]]
        found = target(source, place)
        assert found.image_id == number
        expected = np.array([item["bbox"] for item in objects], np.float64).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        limits = [record["width"], record["height"]] * 2
        assert np.array_equal(found.boxes, np.clip(expected, 0, limits))
        assert found.labels.tolist() == [item["category_id"] for item in objects]
        assert found.area.tolist() == [item["area"] for item in objects]
        assert found.iscrowd.tolist() == [bool(item["iscrowd"]) for item in objects]
        size = (record["height"], record["width"])
        assert found.masks is not None
        for mask, item in zip(found.masks, objects, strict=True):
            assert np.array_equal(decode_mask(mask, size), reference.annToMask(item))
        if any("keypoints" in item for item in objects):
            assert found.keypoints is not None
            assert found.keypoints.reshape(len(objects), -1).tolist() == [item["keypoints"] for item in objects]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", ["instances", "person_keypoints"])
def test_coco_mini_is_what_pycocotools_reads(split: str, kind: str) -> None:
    root = real("coco-mini")
    images, path = root / f"{split}2017", root / "annotations" / f"{kind}_{split}2017.json"
    source = Coco(images, path)
    assert isinstance(source, Source)
    assert len(source.problems) == 0
    check_against_pycocotools(source, path, images)


def test_the_check_against_pycocotools_can_fail(tmp_path: Path) -> None:
    root = real("coco-mini")
    images, path = root / "val2017", root / "annotations" / "instances_val2017.json"
    data = json.loads(path.read_text())
    for plant in ("bbox", "category_id", "segmentation", "iscrowd"):
        changed = copy.deepcopy(data)
        record = next(item for item in changed["annotations"] if not item["iscrowd"])
        other: dict[str, Any] = {
            "bbox": [record["bbox"][0] + 0.01, *record["bbox"][1:]],
            "category_id": 2 if record["category_id"] == 1 else 1,
            "segmentation": [[1, 1, 9, 1, 9, 9]],
            "iscrowd": 1,
        }
        record[plant] = other[plant]
        planted = tmp_path / "planted.json"
        planted.write_text(json.dumps(changed))
        with pytest.raises(AssertionError):
            check_against_pycocotools(Coco(images, planted), path, images)


def test_instances_and_keypoints_of_the_same_images_are_joined() -> None:
    root = real("coco-mini")
    files = [root / "annotations" / f"{kind}_val2017.json" for kind in ("instances", "person_keypoints")]
    joined, alone, persons = (Coco(root / "val2017", which) for which in (files, files[0], files[1]))
    assert joined.categories == alone.categories
    assert joined.keypoint_names == persons.keypoint_names
    assert joined.keypoint_pairs == ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
    assert joined.skeleton[0] == (15, 13)
    for number in range(len(joined)):
        both, boxes, points = target(joined, number), target(alone, number), target(persons, number)
        assert np.array_equal(both.boxes, boxes.boxes)
        assert both.masks == boxes.masks
        assert both.keypoints is not None
        assert points.keypoints is not None
        assert np.array_equal(both.keypoints[both.labels == 1], points.keypoints)
        assert not both.keypoints[both.labels != 1].any()


def test_boxes_are_edges_clipped_by_rounding_only(tmp_path: Path) -> None:
    source = Coco(*coco_set(tmp_path))
    assert [source.name(number)[1] for number in range(3)] == ["1.jpg", "2.jpg", "3.jpg"]
    assert source.index.size.tolist() == [[40, 60], [30, 20], [50, 50]]
    assert source.classes == ("one", "seven")
    assert target(source, 0).boxes.tolist() == [[0.1, 0.2, 60.0, 40.0]]
    assert target(source, 0).area.tolist() == [(60 - 0.1) * (40 - 0.2)]
    assert target(source, 1).boxes.tolist() == [[1.5, 2.25, 11.5, 22.75], [0, 3, 20, 7]]
    assert target(source, 1).area.tolist() == [99.5, 80]
    assert target(source, 1).masks is None
    assert len(target(source, 2)) == 0
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(target(again, 1).boxes, target(source, 1).boxes)
    assert again.index.fingerprint == source.index.fingerprint


def test_the_fingerprint_follows_what_matters(tmp_path: Path) -> None:
    images, path = coco_set(tmp_path)
    data = json.loads(path.read_text())
    prints = [Coco(images, path).index.fingerprint]
    assert Coco(images, path).index.fingerprint == prints[0]
    for part, key, value in (
        ("annotations", "bbox", [1, 1, 2, 2]),
        ("categories", "name", "x"),
        ("annotations", "area", 1),
    ):
        changed = copy.deepcopy(data)
        changed[part][0][key] = value
        path.write_text(json.dumps(changed))
        prints.append(Coco(images, path).index.fingerprint)
    assert len(set(prints)) == len(prints)


GOOD = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}


@pytest.mark.parametrize(
    ("record", "kind", "words"),
    [
        ({"bbox": [55, 5, 7, 5]}, "out of bounds", r"box \[55.0, 5.0, 62.0, 10.0\] .* leaves its image of 40 x 60"),
        ({"bbox": [-1.5, 5, 7, 5]}, "out of bounds", "leaves its image"),
        ({"bbox": [5, 5, 0, 5]}, "zero area", "has no width or no height"),
        ({"bbox": [5, 5, 5, -1]}, "zero area", "has no width or no height"),
        ({"bbox": [60.5, 5, 0.4, 5]}, "zero area", "has no width or no height"),
        ({"bbox": [5, float("nan"), 5, 5]}, "not finite", r"box \[5.0, nan, 10.0, nan\]"),
        ({"bbox": [5, 5, float("inf"), 5]}, "not finite", "expected numbers"),
        ({"bbox": [5, 5, 5]}, "unreadable annotation", "not enough values to unpack"),
        ({"bbox": None}, "unreadable annotation", "expected image_id, category_id and bbox"),
        ({"area": float("nan")}, "not finite", "area nan"),
        ({"area": "much"}, "unreadable annotation", "could not convert string"),
        ({"category_id": 99}, "unknown category", "category 99 is not among the 2"),
        ({"category_id": "cat"}, "unknown category", "category 'cat' is neither an id nor a name"),
        ({"image_id": 99}, "unknown image", "image 99 is not in the list"),
        ({"segmentation": [[1, 1, 2, 2]]}, "mask", "a polygon of 4 coordinates"),
        ({"segmentation": [[1, 1, 2, 2, 3]]}, "mask", "a polygon of 5 coordinates"),
        ({"segmentation": [[1, 1, 2, 2, 3, float("nan")]]}, "not finite", "a polygon has NaN"),
        ({"segmentation": [[1, 1, 62, 2, 3, 3]]}, "out of bounds", "a polygon leaves its image of 40 x 60"),
        ({"segmentation": ["abcdef"]}, "mask", "not lists of numbers"),
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "mask", r"for an image of \[60, 40\]"),
        ({"segmentation": {"size": [40, 60], "counts": [2399]}}, "mask", "add up to 2399; expected 2400"),
        ({"segmentation": {"size": [40, 60], "counts": "P"}}, "mask", "they end within a number"),
        ({"segmentation": {"size": [40, 60]}}, "mask", "add up to 0"),
        ({"keypoints": [1, 1, 2]}, "keypoints", "3 numbers; expected x, y and visibility of 2 keypoints"),
        ({"keypoints": [1, 1, 2, 1, 1, 3]}, "keypoints", "expected 0, 1 or 2"),
        ({"keypoints": [1, 1, 2, 1, float("nan"), 1]}, "not finite", "keypoints have NaN"),
        ({"keypoints": [1, 1, 2, 62, 1, 1]}, "out of bounds", r"keypoint \(62, 1\) leaves"),
    ],
)
def test_what_is_wrong_with_an_object_is_named_or_left_out(
    tmp_path: Path, record: dict[str, Any], kind: str, words: str
) -> None:
    categories = [{"id": 1, "name": "one", "keypoints": ["left_x", "right_x"]}, {"id": 7, "name": "seven"}]
    good = {**GOOD, "id": 2, "keypoints": [1, 2, 2, 0, 0, 0], "segmentation": [[1, 1, 9, 1, 9, 9]]}
    images, path = coco_set(tmp_path, annotations=[good, {**GOOD, **record}], categories=categories)
    with pytest.raises(TargetError, match=rf"(?s)1 problem in 3 images.*\(1 {kind}\):.*{words}.*on_error='drop'"):
        Coco(images, path)
    source = Coco(images, path, on_error="drop")
    assert source.problems.counts == {kind: 1}
    assert len(source) == 3
    part = kind != "unreadable annotation" and record.keys() & {
        "segmentation",
        "keypoints",
        "area",
    }  # what is left out of an object, else the whole
    assert target(source, 0).boxes.tolist() == [[1, 1, 10, 10]] * (1 + bool(part))
    assert source.keypoint_pairs == ((0, 1),)


def test_images_that_cannot_be_used_are_left_out_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, path = coco_set(tmp_path)
    data = json.loads(path.read_text())
    data["images"] += [
        {"id": 4, "file_name": "missing.jpg", "height": 5, "width": 5},
        {"id": 5, "file_name": "broken.jpg"},
        {"id": 6, "file_name": "turned.jpg", "height": 60, "width": 40},
        {"id": 6, "file_name": "again.jpg"},
    ]
    (images / "broken.jpg").write_bytes(b"no image at all")
    picture(images / "turned.jpg", 40, 60, orientation=6)
    data["annotations"] += [{**GOOD, "id": 20 + number, "image_id": number} for number in (4, 5, 6)]
    path.write_text(json.dumps(data))
    expected = {"missing file": 1, "unreadable image": 1, "size mismatch": 1, "duplicate": 1}
    with pytest.raises(TargetError, match=r"(?s)stated 60 x 40 \(H x W\), the file has 40 x 60. .*pass upright=True"):
        Coco(images, path)
    with caplog.at_level(logging.WARNING, "resflow"):
        source = Coco(images, path, on_error="drop")
    assert source.problems.counts == expected
    assert caplog.messages[-1:] == [
        "instances.json: 4 problems in 6 images and 6 objects (1 missing file, 1 unreadable image, 1 size mismatch, "
        "1 duplicate); left out, see the source's .problems"
    ]
    assert [target(source, number).image_id for number in range(len(source))] == [1, 2, 3]
    assert target(source, 1).boxes.tolist() == [[1.5, 2.25, 11.5, 22.75], [0, 3, 20, 7]]
    data["images"][-2]["id"] = 7
    upright = Coco(images, path, upright=True, on_error="drop")
    assert upright.index.size.tolist()[-1] == [60, 40]
    assert bytes(upright.read(np.array([3]))[0].image) == (images / "turned.jpg").read_bytes()


def test_stored_pixels_are_those_that_pil_opens(tmp_path: Path) -> None:
    images, path = coco_set(tmp_path, annotations=[GOOD])
    picture(images / "1.jpg", 40, 60, orientation=6)
    (sample,) = Coco(images, path).read(np.array([0]))
    found = Image.open(io.BytesIO(bytes(sample.image)))
    assert (found.height, found.width) == (40, 60)
    assert found.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", r"is not a COCO annotation file: expected lists images, annotations, categories; got a list"),
        ('{"images": []}', r"got keys \['images'\]"),
        ('{"images": [], "annotations": [], "categories": []}', "no problems in 0 images: no image is left"),
        (
            '{"images": [], "annotations": [{"segments_info": []}], "categories": []}',
            r"is a panoptic file. Open it as CocoPanoptic",
        ),
    ],
)
def test_files_that_are_none_of_cocos(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        Coco(tmp_path, path)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on_error must be 'raise', 'drop' or 'clip'; got 'skip'"):
        Coco(tmp_path, tmp_path / "x.json", on_error="skip")
    with pytest.raises(ConfigError, match=r"x.json cannot be read: No such file"):
        Coco(tmp_path, tmp_path / "x.json")
    with pytest.raises(ConfigError, match="no annotation file was named"):
        Coco(tmp_path, [])


def test_run_lengths_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for density in (0, 0.01, 0.5, 0.99, 1):
        for _ in range(20):
            height, width = rng.integers(1, 80, 2)
            pixels = np.asfortranarray(rng.random((height, width)) < density, np.uint8)
            text = coco_masks.encode(pixels)["counts"].decode()
            flat = np.concatenate([[0], pixels.T.ravel(), [2]])
            edges = np.flatnonzero(np.diff(flat.astype(int)))
            runs = np.diff(np.concatenate([[0], edges])).tolist()
            assert compressed_counts(text) == runs
            assert compressed_counts(text[:-1] + "0") != runs or text[-1] == "0"


@pytest.mark.parametrize(
    "ids",
    [
        lambda place: {"id": f"ann_{place}"},
        lambda place: {},
        lambda place: {"id": None},
        lambda place: {"id": 0},
        lambda place: {"id": place % 2},
        lambda place: {"id": str(place)},
        lambda place: {"id": place, "image_id": "0001"},
        lambda place: {"id": place, "image_id": 1.0, "category_id": "7"},
    ],
    ids=["text", "missing", "null", "all 0", "repeated", "digits", "image as text", "float and text"],
)
def test_annotations_need_no_ids_of_their_own(tmp_path: Path, ids: Callable[[int], dict[str, Any]]) -> None:
    plain = {name: value for name, value in GOOD.items() if name != "id"}
    records = [{**plain, "bbox": [1 + place, 1, 9, 9], **ids(place)} for place in range(4)]
    images, path = coco_set(tmp_path, annotations=records, categories=[{"id": "1", "name": "one"}, {"id": 7.0}])
    source = Coco(images, path)
    assert target(source, 0).boxes[:, 0].tolist() == [1, 2, 3, 4]
    assert list(source.categories) == [1, 7]


def test_an_annotation_that_is_repeated_word_for_word_counts_once(tmp_path: Path) -> None:
    images, path = coco_set(tmp_path, annotations=[GOOD, GOOD, {**GOOD, "id": 1, "bbox": [2, 2, 9, 9]}])
    source = Coco(images, path, on_error="drop")
    assert source.problems.counts == {"duplicate": 1}
    assert target(source, 0).boxes[:, 0].tolist() == [1, 2]


def test_annotations_without_ids_of_their_own_are_not_joined(tmp_path: Path) -> None:
    images, path = coco_set(tmp_path, annotations=[{**GOOD, "id": None}])
    with pytest.raises(ConfigError, match=r"cannot be joined .* some have no whole number as id\. Open it alone"):
        Coco(images, [path, path])


@pytest.mark.parametrize("box", [{}, {"bbox": None}, {"bbox": []}], ids=["missing", "null", "empty"])
def test_an_object_without_a_box_has_the_box_of_its_polygons(tmp_path: Path, box: dict[str, Any]) -> None:
    plain = {name: value for name, value in GOOD.items() if name != "bbox"}
    polygons = [[3, 4, 9, 4, 9, 8], [5, 2, 7.5, 2, 7.5, 6]]
    images, path = coco_set(tmp_path, annotations=[{**plain, "segmentation": polygons, **box}])
    assert target(Coco(images, path), 0).boxes.tolist() == [[3, 2, 9, 8]]


def test_keypoints_without_names_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    face = [float(number % 30) + 1 if number % 3 < 2 else 2 for number in range(68 * 3)]
    categories = [{"id": 1, "name": "face"}]
    images, path = coco_set(tmp_path, annotations=[{**GOOD, "keypoints": face}], categories=categories)
    source = Coco(images, path, keypoint_pairs=[(0, 16)])
    assert source.keypoint_names == tuple(map(str, range(68)))
    assert source.keypoint_pairs == ((0, 16),)
    found = target(source, 0).keypoints
    assert found is not None
    assert found.ravel().tolist() == face

    images, path = coco_set(
        tmp_path,
        annotations=[{**GOOD, "keypoints": face}, {**GOOD, "id": 2, "keypoints": face[:6]}],
        categories=categories,
    )
    source = Coco(images, path)
    assert target(source, 0).boxes.shape == (2, 4)
    assert "objects of 2, 68 keypoints, which its categories do not name" in caplog.text


def small_set(tmp_path: Path, records: list[dict[str, Any]], categories: list[dict[str, Any]] | None) -> Coco:
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png", 40, 50)
    data: dict[str, Any] = {
        "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("ab")],
        "annotations": records,
    }
    if categories is not None:
        data["categories"] = categories
    path = tmp_path / "file.json"
    path.write_text(json.dumps(data))
    return Coco(tmp_path, path)


def box_of(category: object, image: int = 0) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [1, 2, 10, 10]}


@pytest.mark.parametrize(
    ("used", "categories", "names", "labels"),
    [
        ([3, "3", 7.0], None, {3: "3", 7: "7"}, [3, 3, 7]),
        (["dog", "cat", "dog"], None, {1: "cat", 2: "dog"}, [2, 1, 2]),
        (["b", "a"], [{"id": "b", "name": "bee"}, {"id": "a", "name": "ant"}], {1: "bee", 2: "ant"}, [1, 2]),
        (["bee", 1], [{"id": 4, "name": "bee"}, {"id": 1, "name": "ant"}], {1: "ant", 4: "bee"}, [4, 1]),
    ],
    ids=["no categories", "no categories, words", "words as ids", "names as ids"],
)
def test_categories_of_every_spelling(
    tmp_path: Path, used: list[Any], categories: list[dict[str, Any]] | None, names: dict[int, str], labels: list[int]
) -> None:
    source = small_set(tmp_path, [box_of(one) | {"bbox": [n, 2, 10, 10]} for n, one in enumerate(used)], categories)
    assert source.categories == names
    assert target(source, 0).labels.tolist() == labels


def test_a_name_that_two_categories_have_is_nobodys(tmp_path: Path) -> None:
    twice = [{"id": 1, "name": "bee"}, {"id": 2, "name": "bee"}]
    with pytest.raises(TargetError, match="category 'bee' is neither an id nor a name"):
        small_set(tmp_path, [box_of("bee")], twice)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("compressed", [True, False])
def test_a_box_is_derived_from_run_lengths_as_pycocotools_does(tmp_path: Path, seed: int, compressed: bool) -> None:
    rng = np.random.default_rng(seed)
    shown = np.zeros((40, 50), np.uint8)
    for _ in range(rng.integers(1, 4)):
        top, left = int(rng.integers(0, 36)), int(rng.integers(0, 46))
        shown[top : top + int(rng.integers(1, 30)), left : left + int(rng.integers(1, 30))] = 1
    if seed == 0:
        shown[:] = 0
        shown[39, 4] = shown[0:3, 5] = 1  # one run over two columns
    if seed == 1:
        shown[:] = 1
    packed = coco_masks.encode(np.asfortranarray(shown))
    left, top, width, height = coco_masks.toBbox(packed).tolist()
    counts = packed["counts"].decode() if compressed else compressed_counts(packed["counts"].decode())
    record = {"image_id": 1, "category_id": 1, "segmentation": {"size": [40, 50], "counts": counts}, "iscrowd": 1}
    source = small_set(tmp_path, [record], [{"id": 1, "name": "x"}])
    assert target(source, 1).boxes.tolist() == [[left, top, left + width, top + height]]


@pytest.mark.parametrize("counts", [[5, 5], [2001, 0, -1], [], "~~~"])
def test_run_lengths_that_fill_no_image_give_no_box(tmp_path: Path, counts: object) -> None:
    record = {"image_id": 1, "category_id": 1, "segmentation": {"size": [40, 50], "counts": counts}}
    with pytest.raises(TargetError, match="1 problem"):
        small_set(tmp_path, [record], [{"id": 1, "name": "x"}])
