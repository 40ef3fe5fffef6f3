"""Yes and no are read alike in every format; what is neither is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resflow.errors import TargetError
from resflow.sources import Coco, Voc
from resflow.targets import annotation_from
from resflow.targets.flags import read_flag
from tests.sources.annotated_sets import coco_set, picture

YES = [True, 1, 1.0, "1", " 1 ", "1.0", "true", "True", "TRUE", "yes", "Yes", "y", "on", np.int64(1), torch.tensor(1)]
NO = [False, 0, 0.0, "0", "0.0", "false", "False", "no", "No", "n", "off", "", None, "Unspecified", np.bool_(False)]
NEITHER = ["maybe", "2", 2, -1, 0.5, "yes!", [1], float("nan")]
XML = """<annotation><size><width>60</width><height>40</height></size><object><name>dog</name>{}
<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>"""


def coco(root: Path, value: Any) -> Coco:
    images, path = coco_set(root)
    data = json.loads(path.read_text())
    data["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": value}]
    path.write_text(json.dumps(data))
    return Coco(images, path)


def voc(root: Path, value: Any, **options: Any) -> Voc:
    picture(root / "JPEGImages" / "a.jpg", 40, 60)
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / "a.xml").write_text(XML.format(f"<difficult>{value}</difficult>"))
    return Voc(root, None, **options)


@pytest.mark.parametrize("value", [*YES, *NO], ids=repr)
def test_yes_and_no(tmp_path: Path, value: Any) -> None:
    expected = any(value is one for one in YES)
    assert read_flag(value) is expected
    record = {"category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": value}
    assert annotation_from([record]).iscrowd.tolist() == [expected]
    tensors = {"boxes": torch.ones(1, 4), "labels": torch.ones(1, dtype=torch.int64), "iscrowd": [value]}
    assert annotation_from(tensors).iscrowd.tolist() == [expected]
    if isinstance(value, str | int | float | None):
        assert coco(tmp_path, value).target(0).iscrowd.tolist() == [expected]  # type: ignore[union-attr]
        text = "" if value is None else value
        assert voc(tmp_path, text).target(0).iscrowd.tolist() == [expected]  # type: ignore[union-attr]
        box = dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), "3")
        parsed = {"annotation": {"object": [{"name": "dog", "bndbox": box, "difficult": value}]}}
        assert annotation_from(parsed, classes={"dog": 1}).iscrowd.tolist() == [expected]


@pytest.mark.parametrize("value", NEITHER, ids=repr)
def test_what_is_neither_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match="expected 0 or 1, true or false, yes or no"):
        read_flag(value)
    with pytest.raises(TargetError, match="iscrowd: got"):
        annotation_from([{"category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": value}])
    with pytest.raises(TargetError, match=r"unreadable annotation: iscrowd: got .*annotation 1"):
        coco(tmp_path, value)
    with pytest.raises(TargetError, match=r"unreadable annotation: object 1: difficult: got .*a\.xml"):
        voc(tmp_path, value)
    assert voc(tmp_path, value, classes=["dog"], on_error="drop").problems.counts == {"unreadable annotation": 1}


def test_tensors_are_read_too() -> None:
    tensors = {"boxes": torch.ones(2, 4), "labels": torch.ones(2, dtype=torch.int64)}
    for crowd in (torch.tensor([0, 1]), torch.tensor([False, True]), np.array([0.0, 1.0])):
        assert annotation_from(tensors | {"iscrowd": crowd}).iscrowd.tolist() == [False, True]
    with pytest.raises(TargetError, match="iscrowd: got 3"):
        annotation_from(tensors | {"iscrowd": torch.tensor([0, 3])})
