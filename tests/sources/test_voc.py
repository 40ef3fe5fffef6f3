"""VOC's XML gives what ElementTree reads in it; what is wrong in it is named."""

from __future__ import annotations

import pickle
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from resflow.errors import ConfigError, TargetError
from resflow.sources import Source, Voc
from resflow.targets import Annotation
from tests.data import real
from tests.sources.annotated_sets import picture

CAT = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>"


def target(source: Voc, number: int) -> Annotation:
    found = source.read(np.array([number]))[0].target
    assert isinstance(found, Annotation)
    return found


def voc_set(root: Path, *objects: str, size: str = "<width>60</width><height>40</height>") -> Path:
    """Two images of 40 x 60 pixels (H x W): the first with these objects, the second with a dog."""
    dog = CAT.replace("cat", "dog").replace("</name>", "</name><difficult>1</difficult>")
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, inside in (("a", "".join(objects)), ("b", dog)):
        picture(root / "JPEGImages" / f"{name}.jpg", 40, 60)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation><size>{size}</size>{inside}</annotation>")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a  1\n\nb -1\n")
    return root


def check_against_xml(source: Voc, root: Path, names: list[str]) -> None:
    assert len(source) == len(names)
    for number, name in enumerate(names):
        page = ET.parse(root / "Annotations" / f"{name}.xml").getroot()
        found = target(source, number)
        objects = page.findall("object")
        sides = [
            [float(o.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")] for o in objects
        ]
        assert np.array_equal(found.boxes + np.array([1, 1, 0, 0]), np.array(sides).reshape(-1, 4))
        assert [source.categories[label] for label in found.labels.tolist()] == [o.findtext("name") for o in objects]
        assert (found.image_id, bool(found.iscrowd.any())) == (number, False)


@pytest.mark.parametrize(("split", "count"), [("train", 205), ("val", 87), ("test", 72)])
def test_bccd_is_what_its_xml_says(split: str, count: int) -> None:
    root = real("bccd")
    source = Voc(root, split)
    assert isinstance(source, Source)
    assert len(source) == count
    assert source.categories == {1: "Platelets", 2: "RBC", 3: "WBC"}
    assert len(source.problems) == 0
    names = (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
    check_against_xml(source, root, names)
    with pytest.raises(AssertionError):
        check_against_xml(source, root, [*names[1:], names[0]])
    with pytest.raises(AssertionError):
        check_against_xml(
            Voc(root, split, classes=["RBC", "WBC", "Platelets", "none"], one_based=False, on_error="drop"), root, names
        )


def test_bccd_has_two_boxes_without_area_if_its_numbers_are_edges() -> None:
    source = Voc(real("bccd"), None, one_based=False, on_error="drop")
    assert (len(source), source.problems.objects) == (364, 4888)
    assert [(problem.kind, problem.where) for problem in source.problems.problems] == [
        ("zero area", "Annotations/BloodImage_00338.xml object 13"),
        ("zero area", "Annotations/BloodImage_00343.xml object 4"),
    ]


def test_pixels_from_one_become_edges_and_difficult_is_as_asked(tmp_path: Path) -> None:
    root = voc_set(tmp_path, CAT)
    source = Voc(root, "train")
    assert source.categories == {1: "cat", 2: "dog"}
    assert target(source, 0).boxes.tolist() == [[0, 1, 60, 40]]
    assert target(source, 0).area.tolist() == [60 * 39]
    assert [target(source, number).iscrowd.tolist() for number in range(2)] == [[False], [True]]
    assert target(Voc(root, "train", difficult="keep"), 1).iscrowd.tolist() == [False]
    assert len(target(Voc(root, "train", difficult="drop"), 1)) == 0
    assert target(Voc(root, "train", one_based=False), 0).boxes.tolist() == [[1, 2, 60, 40]]
    numbered = Voc(root, None, classes=["bird", "dog", "cat"], first_label=0)
    assert [target(numbered, number).labels.tolist() for number in range(2)] == [[2], [1]]
    assert pickle.loads(pickle.dumps(source)).index.fingerprint == source.index.fingerprint
    assert numbered.index.fingerprint != source.index.fingerprint


@pytest.mark.parametrize(
    ("xml", "kind", "words", "left"),
    [
        (CAT.replace("60", "62"), "out of bounds", "leaves its image of 40 x 60", 2),
        (CAT.replace("60", "0"), "zero area", "a.xml object 1", 2),
        (CAT.replace("60", "nan"), "not finite", "expected numbers", 2),
        (CAT.replace("60", "wide"), "unreadable annotation", r"bndbox \['1', '2', 'wide', '40'\]", 2),
        (CAT.replace("<xmax>60</xmax>", ""), "unreadable annotation", "None", 2),
        (CAT.replace("cat", "cow"), "unknown category", "class 'cow' is not among 'cat', 'dog'", 2),
        (CAT + "<", "unreadable annotation", "expected XML", 1),
    ],
)
def test_what_is_wrong_is_named_or_left_out(tmp_path: Path, xml: str, kind: str, words: str, left: int) -> None:
    root = voc_set(tmp_path, xml)
    with pytest.raises(TargetError, match=rf"(?s)1 problem in 2 images.*\(1 {kind}\):.*{words}"):
        Voc(root, "train", classes=["cat", "dog"])
    source = Voc(root, "train", classes=["cat", "dog"], on_error="drop")
    assert source.problems.counts == {kind: 1}
    assert len(source) == left
    assert sum(len(target(source, number)) for number in range(left)) == 1


@pytest.mark.parametrize(
    "start",
    [
        '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]>',
        '<?xml version="1.0"?><!DOCTYPE a SYSTEM "file:///etc/passwd">',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp037"])
def test_no_document_type_is_taken(tmp_path: Path, start: str, encoding: str) -> None:
    root = voc_set(tmp_path, CAT)
    text = f"{start}<annotation>{CAT}</annotation>"
    (root / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    words = r"has a document type \(<!DOCTYPE>\), which is refused" if encoding == "utf-8" else "unreadable annotation"
    with pytest.raises(TargetError, match=words):
        Voc(root, "train")


def test_missing_files_and_other_sizes(tmp_path: Path) -> None:
    root = voc_set(tmp_path, CAT, size="<width>40</width><height>60</height>")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\nd\n")
    picture(root / "JPEGImages" / "c.jpg", 40, 60)
    (root / "Annotations" / "d.xml").write_text(f"<annotation>{CAT}</annotation>")
    with pytest.raises(ConfigError, match="no image is left"):
        Voc(root, "train", on_error="drop")
    (root / "Annotations" / "b.xml").write_text(f"<annotation>{CAT}</annotation>")
    source = Voc(root, "train", on_error="drop")
    assert [source.name(number)[1] for number in range(len(source))] == ["b.jpg"]
    assert source.problems.counts == {"missing file": 2, "size mismatch": 1}


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="JPEGImages is not a folder"):
        Voc(tmp_path, "train")
    root = voc_set(tmp_path, CAT)
    with pytest.raises(ConfigError, match=re.escape("no list of split 'val'") + r".*There are \['train'\]"):
        Voc(root, "val")
    with pytest.raises(ConfigError, match="difficult must be one of crowd, keep, drop; got 'skip'"):
        Voc(root, "train", difficult="skip")
    with pytest.raises(ConfigError, match="classes must be a sequence of different names"):
        Voc(root, "train", classes=["cat", "cat"])
    with pytest.raises(ConfigError, match="first_label must be a whole number"):
        Voc(root, "train", first_label=-1)
