"""`resflow preview` as it is run from a shell."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resflow.batch import Batch
from resflow.cli.preview import spread_steps
from resflow.loader import DataLoader
from resflow.pipeline import Pipeline
from resflow.plan import EpochPlan, RandomMultiScale, group_samples, learn_buckets, plan_epoch
from tests.conftest import Command
from tests.data import real
from tests.shards import make_shards
from tests.sources.annotated_sets import coco_set, picture

PIPELINES = Path(__file__).parents[2] / "pipelines"

SMALL = """
resolution: {random_multi_scale: {resolutions: [64, 96], every: 12}}
buckets: 3
stride: 16
views: [horizontal_flip]
"""


def pipeline(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return path


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 20
        return image.size


def test_shards_are_pictured_and_told(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    shards = make_shards(tmp_path / "shards", 60)
    (tmp_path / "shards" / "classes.txt").write_text("".join(f"class {n}\n" for n in range(7)))
    written, out = pipeline(tmp_path, SMALL), tmp_path / "sheet.png"
    assert command("preview", written, "--data", shards, "--out", out, "--batches", 3, "--seed", 5, "--epoch", 2) == 0
    said, err = capsys.readouterr()
    lines = said.splitlines()
    assert err == ""
    assert lines[0] == str(out)
    assert len(lines) == 4
    assert all("resolution" in line and "6 images" in line and "% padded" in line for line in lines[1:])
    assert all("% cropped" in line and "objects" not in line for line in lines[1:])
    width, height = size_of(out)
    assert width == 1920
    assert height > 500
    arguments = ("--batches", 3, "--seed", 5, "--epoch", 2, "--json")
    assert command("preview", written, "--data", tmp_path / "shards", "--out", out, *arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["picture"], told["epoch"]) == (str(out), 2)

    loader: DataLoader[Batch] = DataLoader(
        shards, batch_size=6, shuffle=True, seed=5, pipeline=Pipeline.from_yaml(written)
    )
    loader.set_epoch(2)
    batches = dict(enumerate(loader))
    for one in told["batches"]:
        batch = batches[one["step"]]
        assert one["shape"] == list(batch.images.shape[2:])
        assert one["resolution"] == batch.resolution
        assert one["images"] == len(batch)
    assert len({tuple(one["shape"]) for one in told["batches"]}) == 3


def test_coco_with_masks_is_pictured_and_its_objects_counted(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    images, annotations = coco_set(tmp_path, annotations=[
        {"id": 10, "image_id": 2, "category_id": 7, "bbox": [1.5, 2.25, 10, 20.5], "area": 99.5, "iscrowd": 0},
        {"id": 12, "image_id": 2, "category_id": 1, "bbox": [4, 3, 1, 4], "area": 80},
    ])  # fmt: skip
    text = SMALL + "targets: {min_side: 4}\nnormalize: imagenet\naugment: [{color_jiggle: {brightness: 0.2}}]\n"
    written, out = pipeline(tmp_path, text), tmp_path / "sheet.png"
    data = ("--data", images, annotations, "--format", "coco", "--json", "--out", out, "--batch-size", 3)
    assert command("preview", written, *data) == 0
    (told,) = json.loads(capsys.readouterr().out)["batches"]
    assert (told["objects"], told["objects_in_source"]) == (1, 2)
    assert told["cropped"] == 0
    mixing = pipeline(tmp_path, text.replace("augment: [", "augment: [mosaic, "))
    assert command("preview", mixing, *data) == 0
    (told,) = json.loads(capsys.readouterr().out)["batches"]
    assert told["padded"] is told["cropped"] is told["objects_in_source"] is None
    written.write_text(text)
    assert command("preview", written, *data, "--masks") == 1
    assert "masks were asked for" in capsys.readouterr().err


def test_images_with_masks_are_pictured(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        picture(tmp_path / "images" / f"{number}.png", 40 + number, 60)
        values = np.random.default_rng(number).integers(0, 3, (40 + number, 60), dtype=np.uint8)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / "masks" / f"{number}.png")
    written = pipeline(tmp_path, SMALL + "targets: {ignore_index: 2}\n")
    names, out = tmp_path / "names.txt", tmp_path / "sheet.png"
    names.write_text("a\nb\nc\n")
    places = (tmp_path / "images", "--format", "masks", tmp_path / "masks", "--classes", names)
    assert command("preview", written, "--data", *places, "--out", out) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    size_of(out)


@pytest.mark.parametrize("named", [True, False])
def test_class_folders_are_pictured(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    for number in range(6):
        picture(tmp_path / "data" / "ab"[number % 2] / f"{number}.jpg", 40, 50 + number)
    out = tmp_path / "sheet.svg"
    form = ("--format", "folder") if named else ()
    assert command("preview", pipeline(tmp_path, SMALL), "--data", tmp_path / "data", *form, "--out", out) == 0
    assert "6 images" in capsys.readouterr().out
    assert out.stat().st_size > 1000


def test_coco_mini_is_pictured(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = real("coco-mini"), tmp_path / "sheet.png"
    files = [root / "annotations" / f"{kind}_val2017.json" for kind in ("instances", "person_keypoints")]
    places = (root / "val2017", *files, "--format", "coco", "--masks", "--keypoints")
    arguments = ("--batches", 2, "--batch-size", 3, "--json", "--out", out)
    assert command("preview", PIPELINES / "detection.yaml", "--data", *places, *arguments) == 0
    told = json.loads(capsys.readouterr().out)["batches"]
    assert len(told) == 2
    for one in told:
        assert one["cropped"] == 0
        assert 0 < one["objects"] <= one["objects_in_source"]
    size_of(out)


def test_a_page_shows_that_a_sample_was_skipped(tmp_path: Path, command: Command) -> None:
    shards = make_shards(tmp_path / "shards", 12)
    path = tmp_path / "shards" / "train-000000.tar"
    data = bytearray(path.read_bytes())
    for start in (data.index(b"\xff\xd8", data.index(b"00003.jpg")), data.index(b"00007.jpg") + 150):
        data[start : start + 100] = bytes(100)  # an image's header, a member's
    path.write_bytes(data)
    out, text = tmp_path / "page.html", "resolution: 64\nbuckets: 1\non_error: {skip: {budget: 0.5}}\n"
    assert command("preview", pipeline(tmp_path, text), "--data", shards, "--out", out) == 0
    page = out.read_text()
    assert page.count("DecodeError: turbo cannot decode the image") == 2 * page.count("00003</small>") == 2
    assert "ShardError: " in page


def plan_of(count: int, number: int, batch_size: int = 6) -> tuple[EpochPlan, object]:
    rng = np.random.default_rng(count)
    ratio = np.exp(rng.normal(0, 0.5, count))
    size = np.stack([np.round(300 / np.sqrt(ratio)), np.round(300 * np.sqrt(ratio))], axis=1).astype(np.int32)
    schedule = RandomMultiScale((64, 128, 192), every=12)
    buckets = learn_buckets(size, number, resolutions=schedule.resolutions, stride=16)
    return plan_epoch(group_samples(size, buckets), schedule, batch_size=batch_size, shuffle=True), buckets


@pytest.mark.parametrize("number", [1, 3, 8])
@pytest.mark.parametrize("samples", [5, 61, 400])
def test_chosen_batches_differ_as_much_as_they_can(samples: int, number: int) -> None:
    plan, buckets = plan_of(samples, number)
    level = np.searchsorted(buckets.resolutions, plan.resolutions)  # type: ignore[attr-defined]
    shapes = buckets.shapes[level]  # type: ignore[attr-defined]
    bucket = (shapes == plan.shapes[:, None]).all(axis=2).argmax(axis=1)
    for count in (1, 2, 4, 9, 1000):
        steps = spread_steps(plan, buckets, count)  # type: ignore[arg-type]
        assert steps == sorted(set(steps))
        assert len(steps) == min(count, len(plan))
        used = Counter(bucket.tolist())
        taken = Counter(bucket[steps].tolist())
        assert len(taken) == min(count, len(used))
        if count >= 2 and len(used) >= 2:
            assert {min(used), max(used)} <= set(taken)
        if count == 4 and number == 1 and samples == 400:
            assert set(plan.resolutions[steps].tolist()) == {64, 128, 192}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], "there is nothing at nowhere. Check the path."),
        (["--data", "a", "--format", "voc"], "--format voc takes ROOT SPLIT; got a"),
        (["--data", "a", "b", "--format", "folder"], "there is nothing at a. Check the path."),
        (["--data", "a", "--format", "folder", "--upright"], "--upright means nothing for images"),
        (["--data", "a", "--zero-based"], "--zero-based means nothing for shards"),
        (["--data", "a", "b", "--format", "coco", "--classes", "x"], "--classes means nothing with --format coco"),
        (["--data", "empty"], "empty holds neither shards nor images; expected files ending in tar, jpg"),
        (["--data", "shards"], "there is no index of these shards. Run: resflow index"),
        (["--data", "broken"], "categories.json must hold categories with id and name"),
    ],
)
def test_errors_are_readable(
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("shards", "broken"):
        make_shards(tmp_path / name, 1)
    for path in (tmp_path / "shards").glob("*.arrow"):
        path.unlink()
    (tmp_path / "broken" / "categories.json").write_text('{"categories": [{"name": "a"}]}')
    assert command("preview", pipeline(tmp_path, SMALL), *arguments) == 1
    assert words in capsys.readouterr().err


def test_a_wrong_pipeline_is_named_with_its_line(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("preview", pipeline(tmp_path, "resolution: 64\nbuckts: 3\n"), "--data", "x") == 1
    assert "pipeline.yaml:2: pipeline has no key `buckts`; did you mean `buckets`?" in capsys.readouterr().err
