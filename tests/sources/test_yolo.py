"""YOLO's lines become boxes, polygons and keypoints in pixels; what is wrong in them is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resflow.errors import ConfigError, TargetError
from resflow.sources import Source, Yolo
from resflow.targets import Annotation
from tests.sources.annotated_sets import picture


def target(source: Yolo, number: int) -> Annotation:
    found = source.read(np.array([number]))[0].target
    assert isinstance(found, Annotation)
    return found


def yolo_set(root: Path, text: str | None) -> tuple[Path, Path]:
    """Two images of 40 x 60 pixels (H x W), the second in a sub-folder and without a label file."""
    picture(root / "images" / "a.jpg", 40, 60)
    picture(root / "images" / "sub" / "b.jpg", 40, 60)
    (root / "labels" / "sub").mkdir(parents=True, exist_ok=True)
    if text is not None:
        (root / "labels" / "a.txt").write_text(text)
    return root / "images", root / "labels"


def test_boxes_come_back_from_shares(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (200, 2, 2)), axis=1).reshape(-1, 4)  # left, top, right, bottom
    middle, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    rows = [f"{n % 5} {x!r} {y!r} {w!r} {h!r}" for n, (x, y, w, h) in enumerate(np.hstack([middle, sides]).tolist())]
    source = Yolo(*yolo_set(tmp_path, "\n".join(rows) + "\n"))
    assert isinstance(source, Source)
    found = target(source, 0)
    assert np.abs(found.boxes - corners * [60, 40, 60, 40]).max() < 1e-10
    assert found.labels.tolist() == [n % 5 + 1 for n in range(200)]
    assert source.categories == {1: "0", 2: "1", 3: "2", 4: "3", 5: "4"}
    assert found.masks is None
    assert len(target(source, 1)) == 0
    assert source.name(1)[1] == "sub/b.jpg"
    named = Yolo(*yolo_set(tmp_path, None), ["p", "q", "r", "s", "t"], first_label=0)
    assert named.classes == ("p", "q", "r", "s", "t")
    assert target(named, 0).labels.tolist() == [n % 5 for n in range(200)]
    assert pickle.loads(pickle.dumps(source)).index.fingerprint == source.index.fingerprint


def test_polygons_and_keypoints(tmp_path: Path) -> None:
    source = Yolo(*yolo_set(tmp_path, "0 0.1 0.1 0.5 0.25 0.25 0.5\n0 0.5 0.5 0.5 0.5\n"))
    found = target(source, 0)
    assert np.allclose(found.boxes, [[6, 4, 30, 20], [15, 10, 45, 30]])
    assert found.masks is not None
    assert np.allclose(np.array(found.masks[0]), [[6, 4, 30, 10, 15, 20]])
    assert found.masks[1] is None
    folders = yolo_set(tmp_path, "0 0.5 0.5 0.5 0.5 0.25 0.5 2 0 0 0\n")
    source = Yolo(*folders, keypoints=(2, 3), keypoint_pairs=((0, 1),))
    points = target(source, 0).keypoints
    assert points is not None
    assert points.tolist() == [[[15, 20, 2], [0, 0, 0]]]
    assert target(source, 0).keypoint_pairs == ((0, 1),)
    folders = yolo_set(tmp_path, "0 0.5 0.5 0.5 0.5 0.25 0.5 0 0\n")
    points = target(Yolo(*folders, keypoints=(2, 2)), 0).keypoints
    assert points is not None
    assert points.tolist() == [[[15, 20, 2], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("0 0.5 0.5 1.2 0.5", "out of bounds", "leaves its image of 40 x 60"),
        ("0 0.5 0.5 0 0.5", "zero area", "has no width or no height"),
        ("0 0.5 nan 0.1 0.5", "not finite", "expected numbers"),
        ("0 0.1 0.1 0.5 nan 0.25 0.5", "not finite", "NaN"),
        ("0 0.5 0.5 0.5", "unreadable annotation", "4 numbers; expected 'class cx cy w h'"),
        ("0 0.1 0.1 0.5 0.2 0.3 0.3 0.4", "unreadable annotation", "8 numbers"),
        ("cat 0.5 0.5 0.5 0.5", "unreadable annotation", "not numbers"),
        ("0.5 0.5 0.5 0.5 0.5", "unreadable annotation", "class 0.5 is not a whole number"),
        ("nan 0.5 0.5 0.5 0.5", "unreadable annotation", "class nan is not a whole number"),
        ("-1 0.5 0.5 0.5 0.5", "unreadable annotation", "class -1 is not a whole number"),
        ("3 0.5 0.5 0.5 0.5", "unknown category", "category 4 is not among the 2"),
        ("1 0.5 0.5 0.25 0.25", "duplicate", "this line came before"),
    ],
)
def test_what_is_wrong_is_named_or_left_out(tmp_path: Path, line: str, kind: str, words: str) -> None:
    folders = yolo_set(tmp_path, f"1 0.5 0.5 0.25 0.25\n{line}\n")
    with pytest.raises(TargetError, match=rf"(?s)1 problem in 2 images.*\(1 {kind}\):.*{words}.*a.txt:2"):
        Yolo(*folders, ["cat", "dog"])
    source = Yolo(*folders, ["cat", "dog"], on_error="drop")
    assert source.problems.counts == {kind: 1}
    assert target(source, 0).boxes.tolist() == [[22.5, 15, 37.5, 25]]


def test_images_follow_exif_unless_told(tmp_path: Path) -> None:
    folders = yolo_set(tmp_path, "0 0.5 0.5 1 1\n")
    picture(tmp_path / "images" / "a.jpg", 40, 60, orientation=6)
    source = Yolo(*folders)
    assert source.index.size[0].tolist() == [60, 40]
    assert target(source, 0).boxes.tolist() == [[0, 0, 40, 60]]
    stored = Yolo(*folders, upright=False)
    assert stored.index.size[0].tolist() == [40, 60]
    assert target(stored, 0).boxes.tolist() == [[0, 0, 60, 40]]


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        Yolo(tmp_path / "no", tmp_path)
    with pytest.raises(ConfigError, match="no image is left"):
        Yolo(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"keypoints must be \(K, 2\) or \(K, 3\)"):
        Yolo(tmp_path, tmp_path, keypoints=(17, 4))
    folders = yolo_set(tmp_path, None)
    (tmp_path / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match="expected lines of text"):
        Yolo(*folders)
    assert len(Yolo(*folders, on_error="drop")) == 1


def test_a_folder_without_a_single_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "a.png")
    with pytest.raises(ConfigError, match=r"a text file for none of the 1 images .*expected a\.txt .*Check the folder"):
        Yolo(tmp_path / "images", tmp_path / "labels")


ROW = "0 0.5 0.5 0.2 0.2\n"


def names_set(root: Path, images: list[str], labels: list[str]) -> tuple[Path, Path]:
    for name in images:
        picture(root / "images" / name, 40, 60)
    for name in labels:
        (root / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "labels" / name).write_text(ROW)
    return root / "images", root / "labels"


@pytest.mark.parametrize(
    ("images", "labels", "lost"),
    [
        (["d\u00e9cran 1.jpg", "plain.jpg"], ["d%C3%A9cran 1.txt", "plain.txt"], "d%C3%A9cran 1.txt"),
        (["cam1/0.jpg", "x.jpg"], ["0.txt", "x.txt"], "0.txt"),
        (["0.jpg", "x.jpg"], ["0.rf.123.txt", "x.txt"], "0.rf.123.txt"),
        (["A.jpg", "x.jpg"], ["a.txt", "x.txt"], "a.txt"),
    ],
)
def test_labels_that_meet_no_image_are_named(tmp_path: Path, images: list[str], labels: list[str], lost: str) -> None:
    folders = names_set(tmp_path, images, labels)
    bare = images[0].removesuffix(".jpg")
    with pytest.raises(TargetError, match=rf"1 unknown image.*\n.*1 images have no labels: {bare}.*{lost}"):
        Yolo(*folders)
    source = Yolo(*folders, on_error="drop")
    assert source.problems.counts == {"unknown image": 1}
    assert sorted(len(target(source, number)) for number in range(2)) == [0, 1]
    assert any(lost in note for note in source.problems.notes)
    assert any(f"no objects: {bare}" in note for note in source.problems.notes)


def test_a_split_beside_the_labels_of_all_is_no_problem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = names_set(tmp_path, ["a.jpg"], ["a.txt", "b.txt", "c.txt"])
    (folders[1] / "classes.txt").write_text("cat\ndog\n")
    source = Yolo(*folders)
    assert len(source.problems) == 0
    assert source.problems.notes == (f"2 files of labels in {folders[1]} have no image: b.txt, c.txt",)
    assert "2 files of labels" in caplog.text


def test_images_without_labels_are_counted(tmp_path: Path) -> None:
    source = Yolo(*names_set(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], ["a.txt"]))
    assert source.problems.notes == ("2 images have no file of labels, so no objects: b, c",)


def test_extensions_may_be_in_any_case(tmp_path: Path) -> None:
    source = Yolo(*names_set(tmp_path, ["a.JPG", "b.Png", "sub/c.jpeg"], ["a.TXT", "b.Txt", "sub/c.txt"]))
    assert [len(target(source, number)) for number in range(3)] == [1, 1, 1]
    assert not source.problems.notes


def test_a_folder_of_other_labels_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none of the 1 images.*a\.txt and the like; it has 1 others, such as b\.txt"
    ):
        Yolo(*names_set(tmp_path, ["a.jpg"], ["b.txt"]))
