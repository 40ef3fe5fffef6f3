"""Images that EXIF turns: boxes lie on what they mark in the reading that is asked for, and no hint leads elsewhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

import resflow as rf
from resflow.errors import ConfigError, TargetError
from resflow.sources import Coco, MaskFolder, Voc, Yolo
from tests.sources.annotated_sets import mask

UPRIGHT = (160, 120)  # width and height
BOX = (20, 20, 60, 90)  # of the red part in the upright image
STORED = {  # how upright pixels are stored, so that EXIF's orientation turns them back
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photo(path: Path, orientation: int) -> tuple[int, int]:
    """A grey photograph with a red part; its stored width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    upright = Image.new("RGB", UPRIGHT, (90, 90, 90))
    ImageDraw.Draw(upright).rectangle([BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1], fill=(250, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(STORED[orientation])
    stored.save(path, quality=95, exif=exif)
    with Image.open(path) as again:
        assert ImageOps.exif_transpose(again).size == UPRIGHT
    return stored.size


def coco(root: Path, orientation: int, size: tuple[int, int] | None, box: Any = BOX, **options: Any) -> Coco:
    """The box is that of the upright image; `size` is what the file states."""
    photo(root / "p.jpg", orientation)
    record: dict[str, Any] = {"id": 1, "file_name": "p.jpg"}
    if size is not None:
        record |= {"width": size[0], "height": size[1]}
    bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox}
    data = {"images": [record], "annotations": [annotation], "categories": [{"id": 1, "name": "red"}]}
    (root / "c.json").write_text(json.dumps(data))
    return Coco(root, root / "c.json", **options)


def agrees(source: Any) -> bool:
    """Whether the box lies on the red pixels of the batch."""
    pipeline = rf.Pipeline(resolution=128, targets=rf.Targets())
    (batch,) = rf.DataLoader(source, batch_size=1, pipeline=pipeline)
    red = (batch.images[0, 0] > 150) & (batch.images[0, 1] < 80)
    y, x = torch.nonzero(red, as_tuple=True)
    found = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return bool((batch.targets[0]["boxes"][0] - found).abs().max() <= 2)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_upright_boxes_lie_where_they_should_whatever_the_size(tmp_path: Path, orientation: int) -> None:
    stored = photo(tmp_path / "p.jpg", orientation)
    for size in (UPRIGHT, stored, None):
        assert agrees(coco(tmp_path, orientation, size, upright="file"))
    for size in (UPRIGHT, None):
        assert agrees(coco(tmp_path, orientation, size, upright=True))
    assert not agrees(coco(tmp_path, orientation, None, upright=False))
    with pytest.raises(TargetError, match="stated 7 x 9"):
        coco(tmp_path, orientation, (9, 7), upright="file")


def test_hints_do_not_lead_to_wrong_boxes(tmp_path: Path) -> None:
    stored = photo(tmp_path / "p.jpg", 6)
    with pytest.raises(TargetError, match=r"pass upright=True\. "):
        coco(tmp_path, 6, UPRIGHT)
    with pytest.raises(
        TargetError, match=r"stored pixels.*\(upright=False\).*Label Studio.*\(upright='file'\).*preview"
    ):
        coco(tmp_path, 6, stored, upright=True)
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "p.jpg")
    record = {"id": 1, "file_name": "p.jpg", "width": 20, "height": 30}
    (tmp_path / "c.json").write_text(json.dumps({"images": [record], "annotations": [], "categories": []}))
    with pytest.raises(TargetError, match=r"the file has 20 x 30\. \("):  # nothing that EXIF could explain
        Coco(tmp_path, tmp_path / "c.json")


def test_images_that_exif_turns_are_counted_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = photo(tmp_path / "p.jpg", 6)
    caplog.set_level(logging.WARNING, "resflow")
    source = coco(tmp_path, 6, stored)
    (note,) = source.problems.notes
    assert note == (
        "1 of 1 images have an EXIF orientation (6: 1); coordinates are taken as those of the stored pixels; "
        "stated sizes are stored in 1"
    )
    assert note in caplog.text
    assert "upright='file'" in caplog.text
    caplog.clear()
    low = (130, 30, 150, 90)  # right of what the stored image shows
    with pytest.raises(TargetError, match="out of bounds"):
        coco(tmp_path, 6, stored, low)
    assert "objects fit only upright in 1" in caplog.text
    caplog.clear()
    for upright in (True, False, "file"):
        options: Any = {"upright": upright, "on_error": "drop"}
        found = coco(tmp_path, 3, UPRIGHT, **options).problems.notes
        assert "(3: 1)" in found[0]
        assert "of 1 no size can tell" in found[0]
    assert not caplog.text
    (tmp_path / "plain").mkdir()
    Image.new("RGB", UPRIGHT).save(tmp_path / "plain" / "p.jpg")
    assert not Coco(tmp_path / "plain", tmp_path / "c.json").problems.notes


def test_other_formats_count_them_too(tmp_path: Path) -> None:
    width, height = photo(tmp_path / "voc" / "JPEGImages" / "a.jpg", 6)
    (tmp_path / "voc" / "Annotations").mkdir()
    xml = (
        f"<annotation><size><width>{width}</width><height>{height}</height></size><object><name>red</name><bndbox>"
        f"<xmin>{BOX[0] + 1}</xmin><ymin>{BOX[1] + 1}</ymin><xmax>{BOX[2]}</xmax><ymax>{BOX[3]}</ymax></bndbox>"
        "</object></annotation>"
    )
    (tmp_path / "voc" / "Annotations" / "a.xml").write_text(xml)
    source = Voc(tmp_path / "voc", None, upright="file")
    assert agrees(source)
    assert "stated sizes are stored in 1" in source.problems.notes[0]
    with pytest.raises(TargetError, match=r"upright='file'"):
        Voc(tmp_path / "voc", None, upright=True)
    photo(tmp_path / "images" / "a.jpg", 6)
    (tmp_path / "labels").mkdir()
    middle, sides = np.add(BOX[:2], BOX[2:]) / 2, np.subtract(BOX[2:], BOX[:2])
    shares = " ".join(map(str, np.concatenate([middle / UPRIGHT, sides / UPRIGHT]).tolist()))
    (tmp_path / "labels" / "a.txt").write_text(f"0 {shares}\n")
    yolo = Yolo(tmp_path / "images", tmp_path / "labels")
    assert agrees(yolo)
    assert "(6: 1); coordinates are taken as those of the upright" in yolo.problems.notes[0]
    mask(tmp_path / "masks" / "a.png", np.zeros(UPRIGHT[::-1], np.uint8))
    assert "(6: 1)" in MaskFolder(tmp_path / "images", tmp_path / "masks", upright=True).problems.notes[0]


def test_other_readings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="upright must be True, False or 'file'; got 'yes'"):
        coco(tmp_path, 6, None, upright="yes")
