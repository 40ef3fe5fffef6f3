"""Masks are found by name, are of their image's size, and come as they are; panoptic ones become classes or objects."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resflow.errors import ConfigError, TargetError
from resflow.sources import CocoPanoptic, MaskFolder, Source
from resflow.targets import Annotation, LabelMap
from tests.data import real
from tests.sources.annotated_sets import mask, picture


def label_map(source: MaskFolder | CocoPanoptic, number: int) -> LabelMap:
    found = source.read(np.array([number]))[0].target
    assert isinstance(found, LabelMap)
    return found


def test_camvid() -> None:
    root = real("camvid")
    source = MaskFolder(root / "images", root / "masks", values=range(12))
    assert isinstance(source, Source)
    assert (len(source), len(source.problems)) == (60, 0)
    for number in (0, 59):
        name = source.name(number)[1]
        assert bytes(source.read(np.array([number]))[0].image) == (root / "images" / name).read_bytes()
        assert label_map(source, number).encoded == (root / "masks" / name).read_bytes()
    with pytest.raises(TargetError, match=r"(?s)60 problems in 60 images \(60 unknown category\):.*values \[11\]"):
        MaskFolder(root / "images", root / "masks", values=range(11))


def mask_set(root: Path) -> tuple[Path, Path]:
    for number, (height, width) in enumerate([(4, 6), (5, 3)]):
        picture(root / "images" / f"{number}.jpg", height, width)
        mask(root / "masks" / f"{number}_L.png", np.arange(height * width).reshape(height, width), palette=number == 1)
    return root / "images", root / "masks"


def test_pairs_by_name_and_suffix(tmp_path: Path) -> None:
    images, masks = mask_set(tmp_path)
    source = MaskFolder(images, masks, suffix="_L", classes=["a", "b"])
    assert source.categories == {0: "a", 1: "b"}
    assert source.index.size.tolist() == [[4, 6], [5, 3]]
    assert label_map(source, 1).encoded == (masks / "1_L.png").read_bytes()
    assert pickle.loads(pickle.dumps(source)).index.fingerprint == source.index.fingerprint
    listed = tmp_path / "val.txt"
    listed.write_text("1\n")
    for names in (listed, str(listed), ["1"]):
        chosen = MaskFolder(images, masks, suffix="_L", names=names)
        assert [chosen.name(number)[1] for number in range(len(chosen))] == ["1.jpg"]
    assert chosen.index.fingerprint != source.index.fingerprint


@pytest.mark.parametrize(
    ("plant", "kind", "words"),
    [
        ("missing", "missing file", "no such mask; expected one for each image"),
        ("size", "size mismatch", r"a mask of 6 x 4 \(H x W\); expected 4 x 6"),
        ("colours", "mask", "a PNG of colour type 2; expected one of"),
        ("jpeg", "mask", "a jpeg file; expected PNG"),
        ("text", "mask", "no image header"),
        ("cut", "mask", "a PNG; got 60 bytes .*truncated"),
        ("value", "unknown category", r"values \[99\] are not among those allowed"),
        ("image", "unreadable image", "no image header"),
        ("name", "missing file", "2.jpg"),
    ],
)
def test_what_is_wrong_is_named_or_left_out(tmp_path: Path, plant: str, kind: str, words: str) -> None:
    images, masks = mask_set(tmp_path)
    path = masks / "0_L.png"
    names = ["0", "1"]
    if plant == "missing":
        path.unlink()
    elif plant == "size":
        mask(path, np.zeros((6, 4)))
    elif plant == "colours":
        Image.new("RGB", (6, 4)).save(path)
    elif plant == "jpeg":
        Image.new("L", (6, 4)).save(path, "JPEG")
    elif plant == "text":
        path.write_text("this is no image")
    elif plant == "cut":
        path.write_bytes(path.read_bytes()[:60])
    elif plant == "value":
        mask(path, np.full((4, 6), 99))
    elif plant == "image":
        (images / "0.jpg").write_text("this is no image")
    else:
        names = ["2", "1"]
    with pytest.raises(TargetError, match=rf"(?s)1 problem in 2 images \(1 {kind}\):.*{words}"):
        MaskFolder(images, masks, suffix="_L", names=names, values=range(24))
    source = MaskFolder(images, masks, suffix="_L", names=names, values=range(24), on_error="drop")
    assert source.problems.counts == {kind: 1}
    assert [source.name(number)[1] for number in range(len(source))] == ["1.jpg"]
    assert label_map(source, 0).encoded == (masks / "1_L.png").read_bytes()


def panoptic_set(root: Path, **changes: Any) -> tuple[Path, Path, Path]:
    """One image of 4 x 6 pixels (H x W): segments 70000 (category 3), 5 (category 200), then nothing."""
    picture(root / "images" / "1.jpg", 4, 6)
    numbers = np.repeat([[70000, 70000, 5, 5, 5, 0]], 4, axis=0)
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=2).astype(np.uint8)
    (root / "masks").mkdir(exist_ok=True)
    Image.fromarray(colours).save(root / "masks" / "1.png")
    segments = [
        {"id": 70000, "category_id": 3, "bbox": [0, 0, 2, 4], "area": 8, "iscrowd": 0},
        {"id": 5, "category_id": 200, "bbox": [2, 0, 3, 4], "area": 12, "iscrowd": 1},
    ]
    page = {"image_id": 1, "file_name": "1.png", "segments_info": segments, **changes}
    data = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 6}],
        "annotations": [page],
        "categories": [{"id": 3, "name": "cat", "isthing": 1}, {"id": 200, "name": "sky", "isthing": 0}],
    }
    (root / "panoptic.json").write_text(json.dumps(data))
    return root / "images", root / "panoptic.json", root / "masks"


def test_panoptic_masks_are_classes_or_objects(tmp_path: Path) -> None:
    places = panoptic_set(tmp_path)
    source = pickle.loads(pickle.dumps(CocoPanoptic(*places)))
    assert source.things == {3}
    classes = label_map(source, 0).encoded
    assert isinstance(classes, np.ndarray)
    assert classes.tolist() == [[3, 3, 200, 200, 200, 255]] * 4
    found = CocoPanoptic(*places, objects=True).target(0)
    assert isinstance(found, Annotation)
    assert found.boxes.tolist() == [[0, 0, 2, 4], [2, 0, 5, 4]]
    assert (found.labels.tolist(), found.iscrowd.tolist()) == ([3, 200], [False, True])
    assert found.masks is not None
    for one, place in zip(found.masks, ([1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0]), strict=True):
        assert isinstance(one, np.ndarray)
        assert one.tolist() == [place] * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file_name": "2.png"}, "missing file: no such mask"),
        ({"image_id": 9}, "unknown image: not in the list of images"),
        ({"segments_info": [{"id": 5}]}, "expected file_name and segments_info with id, category_id and bbox"),
        ({"segments_info": [{"id": 0, "category_id": 3, "bbox": [0, 0, 1, 1]}]}, "segment 0 is not a whole number"),
        ({"segments_info": [{"id": 5, "category_id": 4, "bbox": [0, 0, 1, 1]}]}, "category 4 is not among the 2"),
    ],
)
def test_what_is_wrong_in_panoptic_files_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        CocoPanoptic(*panoptic_set(tmp_path, **changes))


def test_damaged_panoptic_masks(tmp_path: Path) -> None:
    places = panoptic_set(tmp_path)
    source = CocoPanoptic(*places)
    path = places[2] / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(TargetError, match=r"panoptic mask .*1.png cannot be decoded: .*1.jpg\)"):
        source.read(np.array([0]))
    places[1].write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ConfigError, match=r"is not a panoptic file"):
        CocoPanoptic(*places)
