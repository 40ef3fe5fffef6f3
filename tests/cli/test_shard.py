"""`resflow shard` as it is run from a shell: what is read back from the shards is what went in."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resflow.cli.dataset import plural
from resflow.cli.main import main
from resflow.sources import AnnotatedSource, Coco, CocoPanoptic, MaskFolder, ShardSource, Voc, Yolo
from resflow.sources.writer import label_map_bytes
from resflow.targets import Annotation, LabelMap
from resflow.targets.label_maps import decode_label_map
from resflow.targets.read import annotation_from_json
from tests.conftest import Command
from tests.data import real
from tests.sources.annotated_sets import check_same_target, coco_set, picture


def opened(out: str) -> ShardSource:
    return ShardSource(out.rpartition('shards: "')[2].strip().rstrip('"'))


def check_reads_back(shards: ShardSource, source: AnnotatedSource) -> None:
    numbers = np.arange(len(source))
    assert len(shards) == len(source)
    assert np.array_equal(shards.index.size, source.index.size)
    for read, went in zip(shards.read(numbers), source.read(numbers), strict=True):
        assert read.key == went.key.rpartition(".")[0].replace(".", "_")
        assert bytes(read.image) == bytes(went.image)
        assert isinstance(went.target, Annotation | LabelMap)
        if isinstance(went.target, Annotation):
            check_same_target(annotation_from_json(bytes(read.members["json"])), went.target)
        else:
            check_same_target(LabelMap(read.members["seg.png"]), LabelMap(label_map_bytes(went.target)))


Case = Callable[[Path], tuple[list[object], AnnotatedSource]]


def coco_mini(_: Path) -> tuple[list[object], AnnotatedSource]:
    root = real("coco-mini")
    files = [root / "annotations" / f"{kind}_train2017.json" for kind in ("instances", "person_keypoints")]
    return ["--format", "coco", root / "train2017", *files], Coco(root / "train2017", files)


def bccd(_: Path) -> tuple[list[object], AnnotatedSource]:
    return ["--format", "voc", real("bccd"), "val"], Voc(real("bccd"), "val")


def camvid(_: Path) -> tuple[list[object], AnnotatedSource]:
    places = [real("camvid") / name for name in ("images", "masks")]
    return ["--format", "masks", *places], MaskFolder(*places)


def coco(tmp_path: Path) -> tuple[list[object], AnnotatedSource]:
    images, path = coco_set(tmp_path)
    picture(images / "3.jpg", 50, 50, orientation=8)
    return ["--format", "coco", images, path], Coco(images, path)


def yolo(tmp_path: Path) -> tuple[list[object], AnnotatedSource]:
    rng = np.random.default_rng(1)
    (tmp_path / "labels").mkdir()
    for number in range(20):
        picture(tmp_path / "images" / f"v1.{number:02d}.{'jpg' if number % 2 else 'png'}", 30 + number, 77)
        rows = rng.uniform(0.2, 0.8, (number % 4, 6))
        lines = [f"{place} " + " ".join(map(repr, row)) for place, row in enumerate(rows.tolist())]
        (tmp_path / "labels" / f"v1.{number:02d}.txt").write_text("\n".join(lines))
    (tmp_path / "names.txt").write_text("a\nb\n\nc\n")
    places = (tmp_path / "images", tmp_path / "labels")
    source = Yolo(*places, ["a", "b", "c"], first_label=0)
    return ["--format", "yolo", *places, "--classes", tmp_path / "names.txt", "--first-label", 0], source


def wide_masks(tmp_path: Path) -> tuple[list[object], AnnotatedSource]:
    picture(tmp_path / "i" / "sub" / "x.png", 20, 30)
    (tmp_path / "m" / "sub").mkdir(parents=True)
    values = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(values).save(tmp_path / "m" / "sub" / "x.png")
    return ["--format", "masks", tmp_path / "i", tmp_path / "m"], MaskFolder(tmp_path / "i", tmp_path / "m")


@pytest.mark.parametrize("case", [coco_mini, bccd, camvid, coco, yolo, wide_masks])
def test_what_is_read_back_is_what_went_in(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    arguments, source = case(tmp_path)
    assert command("shard", *arguments, tmp_path / "out" / "x-%04d.tar", "--max-samples", 30) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"{plural(len(source), 'image')} in {plural(-(-len(source) // 30), 'shard')} (")
    shards = opened(out)
    check_reads_back(shards, source)
    tars = sorted((tmp_path / "out").glob("*.tar"))
    first = [path.read_bytes() for path in tars]
    assert command("shard", *arguments, tmp_path / "out" / "x-%04d.tar", "--max-samples", 30) == 1
    assert "exists. Remove it" in capsys.readouterr().err
    assert command("shard", *arguments, tmp_path / "out" / "x-%04d.tar", "--max-samples", 30, "--overwrite") == 0
    assert [path.read_bytes() for path in tars] == first


def test_the_check_can_fail(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, _ = coco(tmp_path)
    assert command("shard", *arguments, tmp_path / "out") == 0
    shards = opened(capsys.readouterr().out)
    images, path = tmp_path / "images", tmp_path / "instances.json"
    check_reads_back(shards, Coco(images, path))
    data = json.loads(path.read_text())
    for field, value in (("bbox", [1.5, 2.25, 10, 20.500000001]), ("category_id", 1), ("iscrowd", 1), ("area", 99.4)):
        changed = json.loads(json.dumps(data))
        changed["annotations"][0][field] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(AssertionError):
            check_reads_back(shards, Coco(images, path))
    path.write_text(json.dumps(data))
    picture(images / "1.jpg", 40, 60, orientation=3)
    with pytest.raises(AssertionError):
        check_reads_back(shards, Coco(images, path))


def test_pixels_lie_under_their_boxes_whatever_the_orientation(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    images, path = coco_set(tmp_path)
    for suffix in ("jpg", "png"):
        for number in (1, 2, 3):
            (images / f"{number}.jpg").unlink(missing_ok=True)
        data = json.loads(path.read_text())
        for number, (height, width) in enumerate([(40, 60), (30, 20), (50, 50)], 1):
            picture(images / f"{number}.{suffix}", height, width, orientation=number + 4)
            next(image for image in data["images"] if image["id"] == number)["file_name"] = f"{number}.{suffix}"
        path.write_text(json.dumps(data))
        assert command("shard", "--format", "coco", images, path, tmp_path / suffix) == 0
        shards = opened(capsys.readouterr().out)
        assert shards.index.size.tolist() == [[40, 60], [30, 20], [50, 50]]  # as stored
        for number, sample in enumerate(shards.read(np.arange(3)), 1):
            with Image.open(io.BytesIO(bytes(sample.image))) as read, Image.open(images / f"{number}.{suffix}") as file:
                assert read.getexif().get(0x0112, 1) == 1
                assert np.array_equal(np.array(read), np.array(file))


def test_panoptic_label_maps(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.sources.test_mask_folder import panoptic_set

    places = panoptic_set(tmp_path)
    assert command("shard", "--format", "coco", *places, tmp_path / "out") == 0
    (sample,) = opened(capsys.readouterr().out).read(np.array([0]))
    assert sorted(sample.members) == ["jpg", "seg.png"]
    classes = CocoPanoptic(*places).target(0)
    assert isinstance(classes, LabelMap)
    assert np.array_equal(decode_label_map(sample.members["seg.png"]), np.asarray(classes.encoded))


def test_class_folders_and_names_beside(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "data" / "dog" / "1.jpg", 10, 12)
    picture(tmp_path / "data" / "cat" / "2.png", 10, 12)
    assert command("shard", "--format", "folder", tmp_path / "data", tmp_path / "out", "--no-index") == 0
    assert capsys.readouterr().out.splitlines()[1] == f"{tmp_path}/out/classes.txt"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.tar", "classes.txt"]
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"
    assert command("shard", "--format", "folder", tmp_path / "data", tmp_path / "out", "--overwrite") == 0
    read = opened(capsys.readouterr().out).read(np.arange(2))
    assert [(sample.key, bytes(sample.members["cls"])) for sample in read] == [("cat/2", b"0"), ("dog/1", b"1")]
    (tmp_path / "data" / "dog").rename(tmp_path / "data" / "ape")
    assert command("shard", "--format", "folder", tmp_path / "data", tmp_path / "out" / "val-%d.tar") == 1
    assert "classes.txt is there and names other classes" in capsys.readouterr().err


def test_categories_beside(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    categories = [
        {"id": 7, "name": "ü", "keypoints": ["left_a", "right_a"], "skeleton": [[1, 2]]},
        {"id": 1, "name": "one"},
    ]
    images, path = coco_set(tmp_path, categories=categories)
    assert command("shard", "--format", "coco", images, path, tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "categories.json").read_text(encoding="utf-8")) == {
        "categories": [{"id": 1, "name": "one"}, {"id": 7, "name": "ü"}],
        "keypoints": ["left_a", "right_a"],
        "skeleton": [[1, 2]],
    }
    check_reads_back(opened(capsys.readouterr().out), Coco(images, path))


def test_problems_are_refused_or_left_out(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    images, path = coco_set(tmp_path)
    (images / "2.jpg").unlink()
    assert command("shard", "--format", "coco", images, path, tmp_path / "out") == 1
    assert "1 problem in 3 images and 3 objects (1 missing file)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command("shard", "--format", "coco", images, path, tmp_path / "out", "--on-error", "drop") == 0
    out, err = capsys.readouterr()
    assert out.startswith("2 images in 1 shard (")
    assert "left out: missing file: " in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "coco", "a", "out"], "--format coco takes IMAGES ANNOTATIONS.json..., "),
        (["--format", "voc", "out"], "--format voc takes ROOT SPLIT, then OUT; got OUT alone"),
        (
            ["--format", "yolo", "a", "b", "c", "out"],
            "--format yolo takes IMAGES LABELS, or data.yaml, then OUT; got a b c",
        ),
        (["--format", "folder", "a", "out", "--upright"], "--upright means nothing for images"),
        (["--format", "coco", "a", "b", "out", "--zero-based"], "--zero-based means nothing with --format coco"),
        (["--format", "voc", ".", "b", "out", "--classes", "no.txt"], "class names in no.txt cannot be read"),
        (["--format", "masks", "a", "b", "out"], "there is nothing at a. Check the path."),
    ],
)
def test_wrong_use(command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert command("shard", *arguments) == 1
    assert words in capsys.readouterr().err
    assert command("shard", "--format", "tfrecord", "a", "b") == 2
    assert command("shard", "a", "b") == 1


def test_a_bar_shows_on_a_terminal_once_it_takes_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os
    import pty

    images, path = coco_set(tmp_path)
    for patience, expected in ((0.0, True), (100.0, False)):
        monkeypatch.setattr("resflow.progress.PATIENCE", patience)
        out = str(tmp_path / str(patience))
        monkeypatch.setattr(sys, "argv", ["resflow", "shard", "--format", "coco", str(images), str(path), out])
        main_end, terminal = pty.openpty()
        with os.fdopen(terminal, "w") as written, monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", written)
            with contextlib.suppress(SystemExit):
                main()
            written.write("end")
            written.flush()
            shown = os.read(main_end, 100_000)
        os.close(main_end)
        assert (b"writing" in shown) is expected
        assert capsys.readouterr().out.startswith("3 images in 1 shard (")
