"""Lists name files with spaces, too, in any encoding that says what it is; others are refused by name."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resflow.errors import ConfigError, TargetError
from resflow.sources import Coco, MaskFolder, Voc, Yolo
from tests.sources.annotated_sets import mask, picture

NAMES = ["WhatsApp Image 2021 at 10.15.32", "WhatsApp Image 2021 at 10.15.33", "WhatsApp", "plain", "d\u00e9j\u00e0 1"]
XML = "<annotation><object><name>d\u00f6g</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"  # noqa: E501


def encoded(text: str, mark: bytes) -> bytes:
    ways = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
    return mark + text.encode(ways.get(mark, "utf-8"))


def voc(root: Path, content: bytes) -> Path:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        picture(root / "JPEGImages" / f"{name}.jpeg", 20, 30)
        (root / "Annotations" / f"{name}.xml").write_text(XML, encoding="utf-8")
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(content)
    return root


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE], ids=repr)
@pytest.mark.parametrize("tail", ["", " -1", "  1", "\t0"])
def test_the_longest_name_that_exists_is_taken(tmp_path: Path, mark: bytes, tail: str) -> None:
    listed = "\r\n".join(f"{name}{tail}" for name in NAMES) + "\r\n\r\n"
    source = Voc(voc(tmp_path, encoded(listed, mark)), "train")
    assert [source.name(number)[1] for number in range(len(source))] == [f"{name}.jpeg" for name in NAMES]
    for name in NAMES:
        picture(tmp_path / "images" / f"{name}.png", 20, 30)
        mask(tmp_path / "masks" / f"{name}.png", np.zeros((20, 30), np.uint8))
    folder = MaskFolder(tmp_path / "images", tmp_path / "masks", names=tmp_path / "ImageSets" / "Main" / "train.txt")
    assert [folder.name(number)[1] for number in range(len(folder))] == [f"{name}.png" for name in NAMES]


def test_a_name_that_does_not_exist_is_named_whole(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"Annotations/my photo 2\.xml"):
        Voc(voc(tmp_path, b"plain\nmy photo 2 -1\n"), "train")


@pytest.mark.parametrize("content", ["d\u00e9j\u00e0 1".encode("latin-1"), "plain".encode("utf-16-le")])
def test_other_encodings_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"train\.txt: it .*save it as UTF-8"):
        Voc(voc(tmp_path, content), "train")
    folder = tmp_path / "JPEGImages"
    with pytest.raises(ConfigError, match=r"train\.txt cannot be read: it .*save it as UTF-8"):
        MaskFolder(folder, folder, names=tmp_path / "ImageSets" / "Main" / "train.txt")


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE], ids=repr)
def test_labels_may_have_a_mark(tmp_path: Path, mark: bytes) -> None:
    picture(tmp_path / "images" / "a.png", 20, 30)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_bytes(encoded("0 0.5 0.5 0.2 0.2\r\n1 0.2 0.2 0.2 0.2\r\n", mark))
    assert len(Yolo(tmp_path / "images", tmp_path / "labels").target(0)) == 2  # type: ignore[arg-type]
    root = voc(tmp_path, b"plain")
    (root / "Annotations" / "plain.xml").write_bytes(encoded(XML, mark))
    assert Voc(root, "train").classes == ("d\u00f6g",)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("gb2312", "gb18030"),
        ("GBK", "gb18030"),
        ("iso-8859-1", "latin-1"),
        ("windows-1252", "cp1252"),
        ("shift_jis", "shift_jis"),
        ("utf-8", "utf-8"),
        ("utf-16", "utf-8"),  # as .NET's StringWriter declares what is then saved as UTF-8
    ],
)
def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path: Path, name: str, codec: str) -> None:
    word = {"gb18030": "\u732b\u9f63", "shift_jis": "\u732b"}.get(codec, "d\u00f6g")  # of GBK, which GB2312 lacks
    root = voc(tmp_path, "\n".join(NAMES).encode())
    page_text = XML.replace("d\u00f6g", word)
    text = f'<?xml version="1.0" encoding="{name}"?>\n{page_text}'
    for page in (root / "Annotations").iterdir():
        page.write_bytes(text.encode(codec))
    assert list(Voc(root, "train").categories.values())[-1] == word


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "the encoding 'klingon', which is not known"),
        (b'<?xml version="1.0" encoding="ascii"?><annotation>\xff</annotation>', "'ascii', of which it is not"),
        (b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE a>', "not well-formed|document type"),
        (b"<html><body>404</body></html>", "its root is <html>, not <annotation>"),
    ],
)
def test_xml_that_is_none_of_vocs_is_named(tmp_path: Path, page: bytes, words: str) -> None:
    root = voc(tmp_path, b"plain\n")
    (root / "Annotations" / "plain.xml").write_bytes(page)
    with pytest.raises(TargetError, match=words):
        Voc(root, "train", classes=["d\u00f6g"])


def test_a_namespace_hides_no_object(tmp_path: Path) -> None:
    root = voc(tmp_path, b"plain\n")
    spaced = XML.replace("<annotation>", '<annotation xmlns="http://example.com/voc">')
    (root / "Annotations" / "plain.xml").write_text(spaced, encoding="utf-8")
    (sample,) = Voc(root, "train").read(np.array([0]))
    assert sample.target.boxes.tolist() == [[1, 1, 9, 9]]  # type: ignore[attr-defined]


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    root = voc(tmp_path, b"plain\n")
    opened: dict[Path, Callable[[], object]] = {
        root / "Annotations" / "plain.xml": lambda: Voc(root, "train", classes=["d\u00f6g"]),
        root / "coco.json": lambda: Coco(root / "JPEGImages", root / "coco.json"),
        root / "data.yaml": lambda: Yolo.from_yaml(root / "data.yaml"),
        root / "ImageSets" / "Main" / "train.txt": lambda: Voc(root, "train", classes=["d\u00f6g"]),
    }
    for path, use in opened.items():
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        with pytest.raises((ConfigError, TargetError), match="it is no regular file"):
            use()
    picture(tmp_path / "y" / "images" / "a.png", 20, 30)
    (tmp_path / "y" / "labels").mkdir()
    os.mkfifo(tmp_path / "y" / "labels" / "a.txt")
    with pytest.raises(TargetError, match="it is no regular file"):
        Yolo(tmp_path / "y" / "images")
