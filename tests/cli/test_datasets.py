"""How a dataset may be named on the command line, by each command; and that what a message proposes runs as printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import resflow as rf
from resflow.cli.dataset import plural
from resflow.cli.help import in_options
from resflow.errors import ConfigError, TargetError
from resflow.sources import Images, Voc, Yolo, index_path
from resflow.sources.layout import guess_layout
from tests.figures import coco_folder
from tests.shards import jpeg, make_shards
from tests.sources.annotated_sets import picture

SMALL = "resolution: 64\nbuckets: 2\nstride: 16\n"
BASH = shutil.which("bash") or "sh"
BIN = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def shell(line: str, folder: Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line as a shell does, with its expansion of patterns."""
    env = {**os.environ, "PATH": BIN, **env}
    done = subprocess.run([BASH, "-c", line], cwd=folder, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == code, (line, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    from resflow.cli.main import main

    before, sys.argv = sys.argv, ["resflow", *map(str, words)]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return (code, *capsys.readouterr())


def typed(capsys: pytest.CaptureFixture[str], line: str, code: int = 0) -> tuple[str, str]:
    """Stdout and stderr of a line that a shell expands and this process runs."""
    expand = f"resflow() {{ printf '%s\\0' \"$@\"; }}; {line}"
    words = subprocess.run([BASH, "-c", expand], capture_output=True, text=True, check=True).stdout.split("\0")
    found, out, err = call(capsys, *words[:-1])
    assert found == code, (line, out, err)
    return out, err


def told(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    code, out, err = call(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    make_shards(tmp_path / "shards", 60)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "shards"


SPELLED: Sequence[Sequence[str]] = (
    ["shards/{}.tar"], ["shards/*.tar"], ["shards"], ["one", "two", "three"], ["one,two,three"], ["shards/*"],
)  # fmt: skip


def spelled(shards: Path, words: Sequence[str]) -> list[str]:
    paths = sorted(f"shards/{path.name}" for path in shards.glob("*.tar"))
    names = dict(zip(("one", "two", "three"), paths, strict=True))
    stems = ",".join(Path(path).stem for path in paths)
    return [re.sub(r"one|two|three", lambda m: names[m[0]], word).replace("{}", f"{{{stems}}}") for word in words]


@pytest.mark.parametrize("words", SPELLED)
def test_each_command_takes_each_spelling(shards: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    places = spelled(shards, words)
    assert told(capsys, "index", *places)["samples"] == 60
    assert len(list(shards.glob("*.index.arrow"))) == 1  # a new scan replaces the file that lists these shards
    assert told(capsys, "info", *places)["images"] == 60
    assert told(capsys, "lint", *places, "--workers", 0)["samples"] == 60
    for command in ("plan", "preview", "bench"):
        options = {"plan": [], "preview": ["--batches", 1], "bench": ["--seconds", 0.1, "--rounds", 1, "--no-torch"]}
        options["bench"] += ["--workers", 0]
        for order in ([command, "small.yaml", "--data", *places], [command, "--data", *places, "small.yaml"]):
            assert told(capsys, *order, *options[command])
    assert told(capsys, "plan", "small.yaml", "--data", *places)["images"] == 60
    assert told(capsys, "tiers", *places, "--tiers", 20, "--workers", 1)["samples"] == 60
    assert told(capsys, "info", *places)["tiers"]["20"] > 0
    assert told(capsys, "info", *places[:1])["images"] in (60, len(rf.sources.ShardSource(places[0])))


def test_what_the_shell_expands_is_taken(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards.parent
    for path in shards.glob("*.arrow"):
        path.unlink()
    assert "60 images in 3 shards" in shell("resflow index shards/*.tar", folder).stdout
    names = ",".join(path.stem for path in sorted(shards.glob("*.tar")))
    assert "60 images in 3 shards" in typed(capsys, f"resflow info shards/{{{names}}}.tar")[0]
    assert "60 images" in typed(capsys, "resflow plan small.yaml --data shards/*.tar")[0]


def test_the_command_that_a_missing_index_proposes_runs(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shards.parent / "with space").mkdir()
    for path in shards.glob("*.tar"):
        shutil.copy(path, shards.parent / "with space")
    (shards.parent / "other").mkdir()
    for number in range(9):
        shutil.copy(next(shards.glob("*.tar")), shards.parent / "other" / f"x{number}.tar")
    some = " ".join(f"other/x{number}.tar" for number in (0, 2, 4, 6, 8))
    for places in ("shards", "shards/*.tar", '"shards/*.tar"', "'with space'/*", some, "other/x{0..4}.tar"):
        for path in shards.parent.glob("*/*.arrow"):
            path.unlink()
        _, failed = typed(capsys, f"resflow info {places}", 1)
        command = failed.rpartition("Run: ")[2].strip()
        assert "..." not in command
        typed(capsys, command)
        typed(capsys, f"resflow info {places}")


def test_missing_shards_are_no_missing_index(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = min(shards.glob("*.tar"))
    first.unlink()
    for words in (["info"], ["lint"], ["plan", "small.yaml", "--data"], ["index"]):
        code, _, err = call(capsys, *words, first, *sorted(shards.glob("*.tar")))
        assert code == 1
        assert f"{first}: the shard is missing: 1 of 3" in err


def test_an_index_elsewhere(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index_path(["shards/" + path.name for path in sorted(shards.glob("*.tar"))]).unlink()
    assert told(capsys, "index", "shards", "--index", "my.arrow")["index"] == "my.arrow"
    assert not list(shards.glob("*.arrow"))
    assert call(capsys, "info", "shards")[0] == 1
    assert told(capsys, "info", "shards", "--index", "my.arrow")["images"] == 60
    assert told(capsys, "plan", "small.yaml", "--data", "shards", "--index", "my.arrow")["images"] == 60
    code, _, err = call(capsys, "index", "shards", "--index", "nowhere/my.arrow")
    assert (code, "nowhere/my.arrow cannot be written: No such file" in err) == (1, True)


def test_a_folder_that_is_missing_is_told_before_the_work(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["plan", "small.yaml", "--out", "no/a.png"], ["preview", "small.yaml", "--out", "no/a.png"]):
        code, _, err = call(capsys, *words, "--data", "not-looked-at.tar")
        assert (code, "a.png cannot be written: No such file or directory. Choose another path." in err) == (1, True)


# folders of images


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    for number in range(12):
        picture(tmp_path / "photos" / f"{'cat' if number % 3 else 'dog'}_{number:02d}.JPG", 40 + number, 60)
        picture(tmp_path / "classes" / ("cat" if number % 3 else "dog") / f"{number:02d}.jpg", 40 + number, 60)
    return tmp_path


def labels(loader: Any) -> Counter[int]:
    return Counter(int(label) for _, targets in loader for label in targets)


def test_folders_and_lists_of_images_are_datasets(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = rf.Pipeline(resolution=64, stride=16, buckets=2)
    unlabelled = rf.Pipeline(resolution=64, stride=16, buckets=2, targets=None)
    files = sorted((photos / "photos").glob("*.JPG"))
    for dataset in ("photos", photos / "photos", files, list(map(str, files)), "photos/*.JPG"):
        loader = rf.DataLoader(dataset, batch_size=4, pipeline=unlabelled)
        assert sum(len(batch) for batch in loader) == 12
    assert labels(rf.DataLoader("classes", batch_size=4, pipeline=pipeline)) == {0: 8, 1: 4}
    pattern = r"^([a-z]+)_"
    assert labels(rf.DataLoader(Images("photos", pattern), batch_size=4, pipeline=pipeline)) == {0: 8, 1: 4}
    assert told(capsys, "info", "photos")["classes"] == []
    assert told(capsys, "info", *files)["images"] == 12
    named = [{"class": 0, "name": "cat", "count": 8}, {"class": 1, "name": "dog", "count": 4}]
    assert told(capsys, "info", "classes")["classes"] == named
    assert told(capsys, "info", "photos", "--label-pattern", pattern)["classes"] == named
    for command in ("plan", "preview"):
        assert told(capsys, command, "small.yaml", "--data", "photos")
    assert told(capsys, "lint", "photos", "--workers", 0)["bad"] == []


def test_folders_of_images_become_shards(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [("photos", [], []), ("classes", [], [8, 4]), ("photos", ["--label-pattern", "^([a-z]+)_"], [8, 4])]
    for number, (folder, options, counts) in enumerate(cases):
        assert told(capsys, "shard", folder, f"out{number}", *options)["samples"] == 12
        found = told(capsys, "info", f"out{number}")
        assert (found["images"], [one["count"] for one in found["classes"]]) == (12, counts)
    assert told(capsys, "shard", *sorted((photos / "photos").glob("*.JPG"))[:5], "out9")["samples"] == 5
    code, _, err = call(capsys, "shard", "out0", "out10")
    assert code == 1
    assert "out0 are shards already. Index them: resflow index" in err
    code, _, err = call(capsys, "shard", "photos", "photos")
    assert (code, "which is the dataset itself" in err) == (1, True)
    for words in (
        ["index", "photos"],
        ["index", *(photos / "photos").glob("*.JPG")],
        ["tiers", "photos", "--tiers", 9],
    ):
        code, _, err = call(capsys, *words)
        assert (code, "images, not shards" in err) == (1, True)
    typed(capsys, err.rpartition("their index: ")[2].strip())  # it runs as printed
    assert told(capsys, "info", "shards")["images"] == 12
    code, _, err = call(capsys, "shard", "photos", "out0")
    assert code == 1
    assert "exists. Remove it, choose another name, or pass --overwrite." in err
    assert told(capsys, "shard", "photos", "out0", "--overwrite")["samples"] == 12


def test_a_class_that_no_name_tells_proposes_an_option_that_exists(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "shard", "photos", "out", "--label-pattern", "^([0-9]+)")
    assert code == 1
    assert "finds no class in the file name" in err
    (photos / "flat").mkdir()
    (photos / "flat" / "bad.jpg").write_bytes(b"none")
    code, _, err = call(capsys, "info", "flat")
    assert code == 1
    assert "pass --on-error drop to leave these out" in err


def test_images_are_upright_or_named_when_broken(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", 40, 60, orientation=6)
    (tmp_path / "b.jpg").write_bytes(jpeg(50, 70)[:40])
    with pytest.raises(TargetError, match=r"(?s)1 problem in 2 images .*unreadable image.*b.jpg"):
        Images(tmp_path)
    source = Images(tmp_path, on_error="drop")
    assert source.index.size.tolist() == [[60, 40]]
    assert len(source.problems) == 1
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=r"holds neither shards nor images"):
        Images(tmp_path / "none")


# formats that a folder tells


def voc(folder: Path) -> None:
    for number in range(4):
        picture(folder / "JPEGImages" / f"{number}.jpg", 40, 60)
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><size><width>60</width><height>40</height></size><object>"
            "<name>cat</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>"
            "</annotation>"
        )
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n2\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("3\n")


def yolo(folder: Path, **more: object) -> None:
    for split, count in (("train", 4), ("val", 2)):
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(count):
            picture(folder / "images" / split / f"{number}.jpg", 40, 60)
            (folder / "labels" / split / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.25 0.5\n")
    record = {"path": ".", "train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}, **more}
    (folder / "data.yaml").write_text(yaml.safe_dump(record))


def test_the_format_is_told_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    voc(tmp_path / "voc")
    yolo(tmp_path / "yolo")
    (tmp_path / "coco").mkdir()
    images, annotations = coco_folder(tmp_path / "coco")
    images.rename(tmp_path / "coco" / "val")
    (tmp_path / "coco" / "annotations").mkdir()
    annotations.rename(tmp_path / "coco" / "annotations" / "instances_val.json")
    assert [one["name"] for one in told(capsys, "info", "coco")["classes"]] == ["red", "green", "blue"]
    assert told(capsys, "info", "coco/val", "coco/annotations/instances_val.json")["images"] == 12
    code, _, err = call(capsys, "info", "voc")
    assert code == 1
    proposed = re.search(r"--split \w+", err)
    assert proposed is not None
    assert told(capsys, "info", "voc", *proposed[0].split())["images"] == 3
    assert told(capsys, "info", "voc", "val")["images"] == 1
    for places, count in ((["yolo"], 4), (["yolo/data.yaml"], 4), (["yolo", "--split", "val"], 2)):
        found = told(capsys, "info", *places)
        assert (found["images"], found["classes"][0]["name"]) == (count, "cat")
    assert told(capsys, "info", "yolo/images/val", "yolo/labels/val")["images"] == 2
    assert told(capsys, "shard", "yolo/data.yaml", "out")["samples"] == 4
    assert told(capsys, "preview", "detection", "--data", "yolo/data.yaml", "--batches", 1)["batches"][0]["objects"] > 0


@pytest.mark.parametrize("layout", ["voc", "yolo"])
def test_a_dataset_with_annotations_is_no_folder_of_images(layout: str, tmp_path: Path) -> None:
    {"voc": voc, "yolo": yolo}[layout](tmp_path / layout)
    places = [tmp_path / layout] if layout == "yolo" else [tmp_path / layout, "train"]
    with pytest.raises(ConfigError, match="has annotations") as caught:
        rf.DataLoader([str(place) for place in places], pipeline=rf.Pipeline(resolution=64))
    call_ = str(caught.value).partition("as the dataset: ")[2]
    assert isinstance(eval(call_, {"rf": rf}), Yolo | Voc)
    assert guess_layout([str(place) for place in places]).form == layout


def test_yolo_yaml_in_its_forms(tmp_path: Path) -> None:
    yolo(tmp_path / "a", kpt_shape=[3, 2], flip_idx=[1, 0, 2])
    for page in (tmp_path / "a" / "labels").rglob("*.txt"):
        page.write_text("0 0.5 0.5 0.25 0.5 0.4 0.4 0.6 0.4 0.5 0.6\n")
    source = Yolo.from_yaml(tmp_path / "a" / "data.yaml", "val")
    assert source.classes == ("cat", "dog")
    assert source.target(0).keypoints is not None
    yolo(tmp_path / "b", path=None, train="../images/train", names=["x", "y"])  # as Roboflow writes it
    assert Yolo.from_yaml(tmp_path / "b" / "data.yaml").classes == ("x", "y")
    with pytest.raises(ConfigError, match=r"has no split 'test'; expected one of train, val. Name one: split='train'"):
        Yolo.from_yaml(tmp_path / "b" / "data.yaml", "test")
    for more, words in (
        ({"train": "images/nowhere"}, r"there is no folder 'images/nowhere' of `train`; looked for"),
        ({"train": ["images/train", None]}, "`train` must be a folder of images"),
        ({"names": None}, "must have `names`"),
        ({"names": {1: "a"}}, "must have `names`"),
    ):
        record = {"path": ".", "train": "images/train", "names": ["x", "y"]} | more
        (tmp_path / "b" / "data.yaml").write_text(yaml.safe_dump(record))
        with pytest.raises(ConfigError, match=words):
            Yolo.from_yaml(tmp_path / "b" / "data.yaml")


# pipelines


def test_ready_pipelines_have_names(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rf.Pipeline.from_yaml("classification").describe()
    assert told(capsys, "plan", "classification", "--data", "shards")["images"] == 60
    code, _, err = call(capsys, "plan", "clasification", "--data", "shards")
    assert (code, "did you mean `classification`?" in err) == (1, True)
    code, _, err = call(capsys, "plan", "smal.yaml", "--data", "shards")
    assert (code, "did you mean `small.yaml`?" in err) == (1, True)
    program = (
        "import sys; sys.argv = ['resflow', 'preview', 'smal.yaml', '--data', 'shards']\n"
        "from resflow.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=shards.parent
    )
    assert done.stdout == "1 False\n"


def test_plan_tells_what_views_crop(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SMALL + "views: [{random_resized_crop: {scale: [0.2, 0.9]}}, horizontal_flip]\n"
    Path("views.yaml").write_text(text)
    found = told(capsys, "plan", "views.yaml", "--data", "shards", "--batch-size", 8, "--seed", 2)
    loader = rf.DataLoader("shards", batch_size=8, shuffle=True, seed=2, pipeline=rf.Pipeline.from_yaml("views.yaml"))
    for _ in loader:
        pass
    viewed, stats = found["epochs"][0]["viewed"], loader.stats()
    assert viewed["cropped"] == pytest.approx(stats.cropped, abs=1e-9)
    assert viewed["padded"] == pytest.approx(stats.padded, abs=1e-9)
    assert viewed["cropped"] > found["epochs"][0]["cropped"] + 0.2
    assert "with the views" in call(capsys, "plan", "views.yaml", "--data", "shards")[1]
    assert "with the views" not in call(capsys, "plan", "small.yaml", "--data", "shards")[1]


def test_targets_that_are_not_there_are_noticed(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("objects.yaml").write_text(SMALL + "targets: {member: json}\n")
    found = told(capsys, "plan", "objects.yaml", "--data", "shards")["lacking"]
    assert "wants objects or masks, which 60 of 60 samples looked at lack" in found
    assert "Pass --targets none to do without, or --targets cls" in found
    code, out, _ = call(capsys, "lint", "shards", "--pipeline", "objects.yaml", "--workers", 0)
    assert code == 3
    assert "which 60 of 60 samples looked at lack" in out
    code, _, err = call(capsys, "preview", "objects.yaml", "--data", "shards")
    assert code == 1
    assert "--targets" in err
    for targets in ("none", "cls"):
        for words in (["plan", "objects.yaml", "--data", "shards"], ["lint", "shards", "--pipeline", "objects.yaml"]):
            assert told(capsys, *words, "--targets", targets)["lacking"] is None
        assert told(capsys, "preview", "objects.yaml", "--data", "shards", "--batches", 1, "--targets", targets)


# words


def test_messages_speak_of_options() -> None:
    options = {
        "overwrite": ("--overwrite", None), "on_error": ("--on-error", None), "upright": ("--upright", "--stored"),
        "split": ("--split", None), "targets": ("--targets", None), "workers": ("--workers", None),
    }  # fmt: skip
    for said, expected in (
        ("or pass overwrite=True.", "or pass --overwrite."),
        ("pass on_error='drop' to", "pass --on-error drop to"),
        ("pass upright=False.", "pass --stored."),
        ("Pipeline(targets=None)", "--targets none"),
        ("Pipeline(targets=...), or", "--targets, or"),
        ("set Pipeline(tier_quality=None)", "set `tier_quality: null` in the pipeline's YAML"),
        ("or pass workers=1.", "or pass --workers 1."),
        ("Store(deadline=3)", "Store(deadline=3)"),
        ("x == 3 and a=b", "x == 3 and a=b"),
    ):
        assert in_options(said, options) == expected


def test_plurals() -> None:
    assert [plural(n, "batch") for n in (0, 1, 2)] == ["0 batches", "1 batch", "2 batches"]
    assert [plural(n, "image") for n in (1, 2000)] == ["1 image", "2,000 images"]


def test_version_and_short_help(tmp_path: Path) -> None:
    assert re.fullmatch(r"resflow \d+\.\d+.*\n", shell("resflow --version", tmp_path).stdout)
    assert shell("resflow -h", tmp_path).stdout == shell("resflow --help", tmp_path).stdout
    assert shell("resflow index -h", tmp_path).stdout == shell("resflow index --help", tmp_path).stdout


def test_help_is_whole_at_40_columns(tmp_path: Path) -> None:
    from resflow.cli.main import app

    wide = shell("resflow --help", tmp_path, COLUMNS="200").stdout
    narrow = shell("resflow --help", tmp_path, COLUMNS="40").stdout
    assert max(map(len, narrow.splitlines())) <= 40
    assert narrow.split() == wide.split()
    assert "write..." not in narrow
    for command in app.registered_commands:
        name = getattr(command.callback, "__name__", "")
        helped = shell(f"resflow {name} --help", tmp_path, COLUMNS="40").stdout.partition("Example:")[0]
        assert max(map(len, helped.splitlines())) <= 40, name


def test_upright_files_and_clipping_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "a.jpg", exif=exif)  # 40x60 upright
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 45, 30, 30]}  # upright, and over the border
    data = {"images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}], "annotations": [box]}
    (tmp_path / "a.json").write_text(json.dumps(data | {"categories": [{"id": 1, "name": "x"}]}))
    place = (str(tmp_path / "images"), str(tmp_path / "a.json"), "--format", "coco")
    assert call(capsys, "info", *place, "--upright-file")[0] == 1
    found = told(capsys, "info", *place, "--upright-file", "--on-error", "clip")
    assert found["classes"] == [{"class": 1, "name": "x", "count": 1}]
    code, _, err = call(capsys, "info", *place, "--upright-file", "--upright")
    assert (code, "exclude each other" in err) == (1, True)
