"""`info`, `plan`, `lint`, `bench`, `doctor` and the page of `preview`, as they are run from a shell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import resflow as rf
from resflow.cli import main as entry
from resflow.cli.bench import merged
from resflow.cli.doctor import DrawnImages, settings, takes_window
from resflow.cli.main import app
from resflow.cli.plan import planned_shares
from resflow.errors import ConfigError
from resflow.sources import ShardSource, Source, build_index, index_path, write_index, write_shards
from tests.figures import coco_folder
from tests.shards import jpeg, make_shards, samples

COUNT = 60
SMALL = """
resolution: {linear: {start: 64, stop: 96, epochs: 2}}
buckets: 3
stride: 16
fit: {max_crop: 0.1}
normalize: imagenet
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    (folder / "classes.txt").write_text("".join(f"class {n}\n" for n in range(7)))
    return make_shards(folder, COUNT)


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(part) for part in arguments])


def told(*arguments: object, code: int = 0) -> Any:
    """The one JSON document on stdout; nothing else may be there."""
    result = run(*arguments, "--json")
    assert result.exit_code == code, (result.output, result.exception)
    assert result.stderr == ""
    return json.loads(result.stdout)


# info


def test_info_counts_what_is_there(shards: str) -> None:
    found, source = told("info", shards), ShardSource(shards)
    size = source.index.size
    assert (found["images"], found["shards"]) == (COUNT, 3)
    assert found["bytes"] == sum(Path(path).stat().st_size for path in source.shard_index.shards)
    assert found["height"][0] == size[:, 0].min()
    assert found["width"][-1] == size[:, 1].max()
    assert found["aspect_ratio"][2] == pytest.approx(float(np.median(size[:, 1] / size[:, 0])), abs=1e-4)
    assert sum(found["aspect_ratios"]["images"]) == COUNT
    assert found["formats"] == {"jpeg": COUNT}
    expected = Counter(number % 7 for number in range(COUNT))
    assert {one["class"]: one["count"] for one in found["classes"]} == expected
    assert found["classes"][3]["name"] == "class 3"
    some = told("info", shards, "--samples", 10)
    assert (some["read"], sum(one["count"] for one in some["classes"])) == (10, 10)
    text = run("info", Path(shards).parent).stdout
    assert f"{COUNT} images in 3 shards" in text
    assert "ratio W/H" in text
    assert "0 class 0" in text
    assert f"formats: {COUNT} jpeg" in text


def test_info_counts_objects(tmp_path: Path) -> None:
    images, annotations = coco_folder(tmp_path)
    records = json.loads(annotations.read_text())
    found = told("info", images, annotations, "--format", "coco")
    expected = Counter(one["category_id"] for one in records["annotations"])
    assert {one["class"]: one["count"] for one in found["classes"]} == expected
    assert [one["name"] for one in found["classes"]] == ["red", "green", "blue"]
    assert (found["shards"], found["formats"]) == (None, {"png": 12})


# plan


def test_plan_tells_what_the_loader_does(shards: str, small: str, tmp_path: Path) -> None:
    out = tmp_path / "plan.png"
    found = told("plan", small, "--data", shards, "--batch-size", 8, "--epochs", 2, "--seed", 3, "--out", out)
    loader: rf.DataLoader[rf.Batch] = rf.DataLoader(
        shards, batch_size=8, shuffle=True, seed=3, pipeline=rf.Pipeline.from_yaml(small)
    )
    for epoch in found["epochs"]:
        shapes = Counter(tuple(batch.images.shape[2:]) for batch in loader)
        stats = loader.stats()
        assert (epoch["epoch"], epoch["batches"], epoch["samples"]) == (stats.epoch, stats.batches, stats.images)
        assert epoch["padded"] == stats.padded
        assert epoch["cropped"] == pytest.approx(stats.cropped, abs=1e-12)
        assert {tuple(shape) for shape in found["shapes"]} >= set(shapes)
    assert sum(one["images"] for one in found["buckets"]) == COUNT
    assert sum(one["batches"] for one in found["buckets"]) == found["epochs"][0]["batches"]
    with Image.open(found["picture"]) as picture:
        assert picture.size[0] > 500
    assert Path(found["picture"]) == out
    text = run("plan", small, "--data", shards, "--batch-size", 8).stdout
    assert f"{COUNT} images, 3 buckets" in text
    assert "epoch 0: 8 batches of 8 (1 short)" in text


def test_planned_shares_notice_another_fit(shards: str, small: str) -> None:
    loader: rf.DataLoader[rf.Batch] = rf.DataLoader(shards, batch_size=8, pipeline=rf.Pipeline.from_yaml(small))
    size = ShardSource(shards).index.size
    padded, cropped = planned_shares(loader.plan(0), rf.Fit(max_crop=0.1), size)
    assert planned_shares(loader.plan(0), rf.Fit(), size)[0] > padded
    assert planned_shares(loader.plan(0), rf.Fit(max_crop=1), size)[1] > cropped > 0


def test_ranks_share_the_planned_batches(shards: str, small: str) -> None:
    one = told("plan", small, "--data", shards, "--batch-size", 16)
    two = told("plan", small, "--data", shards, "--batch-size", 8, "--ranks", 2)
    assert one["epochs"] == two["epochs"]
    assert one["global_batch_size"] == two["global_batch_size"] == 16


# lint


@pytest.fixture
def spoilt(tmp_path: Path) -> tuple[str, list[str]]:
    """Shards with a picture that is cut short and a class that is none; and the keys of both."""

    def planted() -> Any:
        for number, sample in enumerate(samples(24)):
            record = dict(sample)
            if number == 5:
                record["jpg"] = record["jpg"][: len(record["jpg"]) * 4 // 5]
            if number == 11:
                record["cls"] = "cat"
            yield record

    folder = tmp_path / "spoilt"
    folder.mkdir()
    paths = write_shards(planted(), str(folder / "%06d.tar"), max_samples=12, max_bytes=1 << 30)
    pattern = f"{folder}/{{000000..{len(paths) - 1:06d}}}.tar"
    write_index(build_index(pattern, workers=1), index_path(pattern))
    return pattern, ["00005", "00011"]


def test_lint_lists_bad_samples_and_says_so_by_its_exit_code(spoilt: tuple[str, list[str]], shards: str) -> None:
    pattern, keys = spoilt
    found = told("lint", pattern, "--workers", 0, code=3)
    assert (found["samples"], [one["key"] for one in found["bad"]]) == (24, keys)
    assert "expected a complete image. Replace the file or leave it out." in found["bad"][0]["reason"]
    assert "a class must be a decimal number" in found["bad"][1]["reason"]
    assert found["bad"][0]["shard"].endswith("000000.tar")
    assert found["bad"][0]["offset"] > 0
    result = run("lint", pattern, "--workers", 1)
    assert result.exit_code == 3
    assert result.stdout.splitlines()[-1].startswith("2 bad of 24 samples")
    assert "/00011 at byte" in result.stdout
    sound = {"samples": COUNT, "bad": [], "tolerated": [], "notes": [], "remarks": {}, "lacking": None, "seconds": 0}
    assert told("lint", shards, "--workers", 0) | {"seconds": 0} == sound


def test_lint_reads_targets_as_a_pipeline_does(spoilt: tuple[str, list[str]], tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text(SMALL + "targets: null\n")
    found = told("lint", spoilt[0], "--workers", 0, "--pipeline", path, code=3)
    assert [one["key"] for one in found["bad"]] == ["00005"]


def test_lint_lists_what_is_wrong_with_annotations(tmp_path: Path) -> None:
    images, annotations = coco_folder(tmp_path)
    records = json.loads(annotations.read_text())
    records["annotations"][2]["bbox"][2] = 0
    annotations.write_text(json.dumps(records))
    found = told("lint", images, annotations, "--format", "coco", "--workers", 0, code=3)
    assert ["zero area" in one["reason"] for one in found["bad"]] == [True]


# bench


def test_bench_measures_both_and_says_what_bounds(shards: str, small: str) -> None:
    found = told("bench", small, "--data", shards, "--seconds", 0.3, "--rounds", 1, "--batch-size", 8, "--workers", 0)
    assert found["ratio"] == pytest.approx(found["rate"] / found["torch"], abs=0.02)
    assert found["rate"] > 0 < found["torch"]
    assert found["resolution"] == 96
    assert found["stats"]["seconds"]["decode"] > 0
    assert found["stats"]["advice"]
    arguments = ("--seconds", 0.2, "--rounds", 1, "--batch-size", 8, "--workers", 1, "--no-torch", "--step", 20)
    text = run("bench", small, "--data", shards, *arguments).stdout
    assert "resolution 96, 8 images per batch, 1 worker on" in text
    assert "torch DataLoader" not in text
    assert re.search(r"decode +\d", text)


def test_passes_add_up_to_one(shards: str, small: str) -> None:
    loader: rf.DataLoader[rf.Batch] = rf.DataLoader(shards, batch_size=8, pipeline=rf.Pipeline.from_yaml(small))
    passes = []
    for _ in range(2):
        for _ in loader:
            pass
        passes.append(loader.stats())
    whole = merged(passes)
    assert (whole.images, whole.batches) == (2 * COUNT, 16)
    assert whole.bytes_read == 2 * passes[0].bytes_read
    assert whole.wall == pytest.approx(sum(one.wall for one in passes))
    assert min(one.padded for one in passes) <= whole.padded <= max(one.padded for one in passes)


# doctor


def test_doctor_tells_what_is_there() -> None:
    found = told("doctor", "--no-calibrate")
    import torch

    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["engines"]["turbo"] == {"there": True, "why": ""}
    assert found["auto"]["cpu"].startswith("turbo")
    formats = {one["format"]: one for one in found["formats"]}
    assert formats["jpeg, 4:2:0"]["turbo"] == "window"
    assert formats["jpeg, progressive"]["turbo"] == "libjpeg-turbo"
    assert formats["jpeg, CMYK"]["turbo"] == formats["png"]["turbo"] == "pillow"
    assert all(one["right"] for one in found["formats"] if one["turbo"])
    text = run("doctor", "--no-calibrate").stdout
    assert 'what engine="auto" takes' in text
    assert "WRONG" not in text
    assert found["kornia"] == ""
    assert "kornia's coordinates\n  pixel centres, as expected" in text


def test_the_window_decoder_is_asked_itself() -> None:
    whole = jpeg(60, 80)
    assert takes_window(whole)
    assert not takes_window(whole[: len(whole) // 2])


def test_calibration_names_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    from resflow.cli import doctor

    rates = {("turbo", 0): 100.0, ("turbo", 2): 300.0, ("pillow", 2): 20.0}
    monkeypatch.setattr(doctor, "settings", lambda cpus, engines: list(rates))
    monkeypatch.setattr(doctor, "_rate", lambda source, engine, workers, seconds: rates[engine, workers])
    result = run("doctor").stdout
    assert 'Best here: num_workers=2, Pipeline(engine="turbo").' in result
    assert settings(4, {"turbo": {"there": True}, "dali": {"there": True}}) == [
        ("turbo", 0), ("turbo", 1), ("turbo", 2), ("turbo", 4), ("dali", 0), ("pillow", 4),
    ]  # fmt: skip
    assert ("dali", 0) not in settings(4, {"turbo": {"there": True}, "dali": {"there": False}})
    assert settings(4, {"turbo": {"there": False}, "dali": {"there": False}}) == [("pillow", 4)]


def test_doctor_lists_formats_of_engines_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from resflow.cli import doctor

    for missing in ({"dali"}, {"dali", "turbo"}):
        found = {name: {"there": name not in missing, "why": "none"} for name in ("turbo", "dali", "pillow")}
        monkeypatch.setattr(doctor, "_engines", lambda found=found: found)
        text = run("doctor", "--no-calibrate").stdout
        formats = text.partition("\nformats")[2]
        assert "dali" not in formats
        assert ("window" in formats) is ("turbo" not in missing)
        assert "pillow" in formats


def test_a_setting_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from resflow.cli import doctor

    source = DrawnImages(160)
    assert isinstance(source, Source)
    assert doctor._rate(source, "turbo", 0, 0.05) > 0
    with pytest.raises(ConfigError, match=r"engine turbo with 0 workers could not be measured. Pass --no-calibrate"):
        doctor._rate(DrawnImages(8), "turbo", 0, 0.05)


# preview --html


class Page(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_holds_each_sample_with_its_source_and_transform(tmp_path: Path, small: str) -> None:
    images, annotations = coco_folder(tmp_path)
    path = tmp_path / "objects.yaml"
    path.write_text(SMALL + "views: [horizontal_flip]\ntargets: {}\n")
    out = tmp_path / "page.html"
    arguments = ("--data", images, annotations, "--format", "coco", "--out", out, "--batch-size", 4, "--batches", 2)
    found = told("preview", path, *arguments)
    assert found["picture"] == str(out)
    text = out.read_text()
    page, shown = Page(text), sum(one["images"] for one in found["batches"])
    tiles = [one for one in page.all("button") if one.get("class") == "tile"]
    assert len(tiles) == len(page.all("dialog")) == shown == 8
    assert [one["data-zoom"] for one in tiles] == [one["id"] for one in page.all("dialog")]
    sources = [str(one["src"]) for one in page.all("img")]
    assert len(sources) == 2 * shown
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)  # it needs nothing but itself
    assert "http" not in text
    assert len(page.all("rect")) == sum(one["objects"] for one in found["batches"])
    assert len(page.all("polygon")) == shown
    assert text.count("<td>transform</td>") == text.count("<td>matrix</td>") == shown


def test_names_on_the_page_are_text(tmp_path: Path, small: str) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    named = ({**sample, "__key__": f"<b onclick=x>{number}"} for number, sample in enumerate(samples(4)))
    write_shards(named, str(folder / "%06d.tar"), max_samples=10, max_bytes=1 << 30)
    pattern = f"{folder}/000000.tar"
    write_index(build_index(pattern, workers=1), index_path(pattern))
    out = tmp_path / "page.html"
    assert run("preview", small, "--data", pattern, "--html", "--out", out).exit_code == 0
    assert "<b onclick" not in out.read_text()
    assert "&lt;b onclick" in out.read_text()
    missing = tmp_path / "no" / "page.html"
    result = run("preview", small, "--data", pattern, "--html", "--out", missing)
    assert isinstance(result.exception, ConfigError)
    assert "cannot be written: No such file or directory. Choose another path." in str(result.exception)


# all of them


@pytest.mark.parametrize("name", [command.callback.__name__ for command in app.registered_commands if command.callback])
def test_each_command_has_an_example_and_json(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    resflow {name} " in result.stdout + " "
    assert "--json" in result.stdout


def test_the_examples_name_options_that_exist() -> None:
    for name, example in ((one.callback.__name__, one.epilog) for one in app.registered_commands if one.callback):
        helped = run(name, "--help").stdout.partition("Example:")[0]
        for option in re.findall(r"--[a-z-]+", str(example)):
            assert option in helped


def test_help_tells_the_exit_codes_and_completion_is_offered() -> None:
    result = " ".join(run("--help").stdout.split())
    for part in ("Exit codes", "0 done", "1 an error", "2 wrong usage", "3 `resflow lint`", "130 interrupted"):
        assert part in result
    assert "--install-completion" in result
    assert "--show-completion" in result


def test_completion_errors_and_usage_from_a_shell(tmp_path: Path) -> None:
    program = "import sys; sys.argv[0] = 'resflow'; from resflow.cli.main import main; main()"

    def shell(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **env}, check=False
        )

    completed = shell(_RESFLOW_COMPLETE="complete_bash", COMP_WORDS="resflow l", COMP_CWORD="1")
    assert completed.stdout.split() == ["lint"]
    wrong = shell("info", str(tmp_path / "nothing"))
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("resflow: ConfigError\n  there is nothing at")
    assert shell("info").returncode == 2


def test_shard_and_demo_print_json(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "images" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / str(number % 2) / f"{number}.jpg").write_bytes(jpeg(40, 50, number))
    found = told("shard", "--format", "folder", tmp_path / "images", tmp_path / "out")
    assert found["samples"] == 4
    assert found["bytes"] == sum(Path(path).stat().st_size for path in found["files"])
    assert Path(found["index"]).is_file()
    assert told("info", found["shards"])["images"] == 4


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch, shards: str) -> None:
    from resflow.cli import info

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "_sizes", interrupted)
    monkeypatch.setattr(sys, "argv", ["resflow", "info", shards])
    with pytest.raises(SystemExit) as end:
        entry.main()
    assert end.value.code == 130
