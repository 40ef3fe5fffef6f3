"""Folders as they are found on disks: links, loops, pipes, names of all kinds, folders that may not be read."""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder
from typer.testing import CliRunner

import resflow as rf
from resflow.cli.main import app
from resflow.errors import ConfigError, ShardError
from resflow.sources import ShardSource, build_index, class_folder_samples, dataset_source, labelled_files, write_shards
from resflow.sources.dataset_sizes import find_sizes
from resflow.sources.folders import check_keys, check_place, image_files, unique_keys
from resflow.sources.images import Images
from tests.shards import jpeg


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "in" / f"c{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(20, 30, number))
    return tmp_path / "in"


@pytest.mark.parametrize(
    "links", [{"again": "."}, {"a": ".", "b": "."}, {"up": ".."}, {"top": "../.."}, {"deep/x": "../.."}]
)
def test_links_that_lead_back_are_not_followed(
    root: Path, links: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for name, target in links.items():
        (root / "c0" / name).parent.mkdir(exist_ok=True)
        (root / "c0" / name).symlink_to(target)
    with caplog.at_level(logging.WARNING, "resflow"):
        found = class_folder_samples(root)
    assert [path.name for path in found.paths] == ["0.jpg", "2.jpg", "4.jpg", "1.jpg", "3.jpg", "5.jpg"]
    (record,) = caplog.records
    assert next(iter(links)) in record.getMessage()
    assert len(image_files(root)) == 6


def test_a_class_that_is_a_link_to_all_is_none(root: Path) -> None:
    (root / "all").symlink_to(".")
    assert class_folder_samples(root).classes == ("c0", "c1")


def test_links_elsewhere_are_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "9.jpg").write_bytes(jpeg(20, 30, 9))
    (root / "c0" / "more").symlink_to(tmp_path / "more")
    (root / "c1" / "more").symlink_to(tmp_path / "more")
    (root / "c1" / "8.jpg").symlink_to(tmp_path / "more" / "9.jpg")
    found = class_folder_samples(root)
    assert [str(path.relative_to(root)) for path in found.paths] == [
        str(Path(path).relative_to(root)) for path, _ in ImageFolder(root).samples
    ]


def test_what_is_no_file_is_named_before_any_work(root: Path) -> None:
    (root / "c0" / "gone.jpg").symlink_to("/nowhere.jpg")
    os.mkfifo(root / "c1" / "pipe.jpg")
    for read in (lambda: list(class_folder_samples(root)), lambda: list(labelled_files(root, r"(\w+)"))):
        with pytest.raises(
            ConfigError, match=r"2 files are no image.*gone.jpg \(a link to nothing, /nowhere.jpg\)"
        ) as error:
            read()
        assert "pipe.jpg (a FIFO)" in str(error.value)
    with pytest.raises(ShardError, match=r"(gone|pipe)\.jpg"):
        dataset_source(ImageFolder(root))
    loader = rf.DataLoader(
        ImageFolder(root), 8, pipeline=rf.Pipeline(resolution=64, buckets=1, on_error=rf.Skip(budget=1.0))
    )
    (batch,) = loader
    assert sorted(Path(one.key).name for one in batch.skipped) == ["gone.jpg", "pipe.jpg"]
    assert len(Images(root, on_error="drop")) == 6


def _listed_by_nobody(root: str, results: multiprocessing.Queue[str]) -> None:
    os.setuid(65534)
    try:
        results.put(f"read {len(class_folder_samples(root).paths)}")
    except ShardError as error:
        results.put(str(error))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user who may not read a folder")
def test_a_folder_that_cannot_be_listed_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for name in ("a", "b/hidden"):
            (root / name).mkdir(parents=True)
            (root / name / "1.jpg").write_bytes(jpeg(20, 30))
        (root / "b" / "2.jpg").write_bytes(jpeg(20, 30))
        (root / "b" / "hidden").chmod(0o700)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        process = context.Process(target=_listed_by_nobody, args=(folder, results))
        process.start()
        assert "b/hidden: the folder cannot be listed: Permission denied" in results.get(timeout=60)
        process.join()


def test_names_of_all_kinds_go_into_shards_and_back(tmp_path: Path) -> None:
    names = [b"plain", b"a b\n c", b"x" * 200, b"100%", b"{1..3}", b"-rf", b"a.b", b"a_b", b"caf\xe9", "é".encode()]
    for label in (b"cat", b"h\xf6lle"):
        folder = tmp_path / "in" / os.fsdecode(label)
        folder.mkdir(parents=True)
        for number, name in enumerate(names):
            (folder / os.fsdecode(name + b".jpg")).write_bytes(jpeg(20, 30, number))
    found = class_folder_samples(tmp_path / "in")
    assert found.classes == ("cat", "hölle")
    (path,) = write_shards(found, str(tmp_path / "out-%d.tar"))
    source = ShardSource(build_index(str(path), workers=1))
    assert len(source) == 20
    assert {"cat/café", "hölle/café", "cat/é"} <= {source.name(number)[1] for number in range(20)}


def test_names_that_cannot_be_keys_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'__x__/a' cannot be a key"):
        check_keys(unique_keys(Path(), [Path("b.jpg"), Path("__x__/a.jpg")]))
    with pytest.raises(ConfigError, match=r"'../a' cannot be a key"):
        check_keys(unique_keys(Path(), [Path("../a.jpg")]))
    (tmp_path / "a\nb").mkdir()
    with pytest.raises(ConfigError, match="line break"):
        class_folder_samples(tmp_path)


def test_a_place_that_cannot_be_written_is_seen_before_the_work(tmp_path: Path) -> None:
    def measure(_: int) -> tuple[int, int]:
        raise AssertionError("measured before")

    (tmp_path / "file").write_text("")
    for place, why in (
        ("missing/sizes", "is missing"),
        ("file/sizes", "is no folder"),
        ("/proc/1/sizes", "written to"),
    ):
        with pytest.raises(ConfigError, match=rf"cannot be written: the folder .* {why}.* choose another"):
            find_sizes(tmp_path / place, measure, 3, identity="", name="Own", how="")
    check_place(tmp_path / "new" / "deeper" / "out.tar", makes=True)
    with pytest.raises(ConfigError, match="file is no folder"):
        check_place(tmp_path / "file" / "deeper" / "out.tar", makes=True)


def test_resflow_shard_looks_at_its_output_first(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (root / "c0" / "broken.jpg").write_bytes(b"seen later")
    result = CliRunner().invoke(app, ["shard", str(root), str(tmp_path / "file" / "out")])
    assert result.exit_code != 0
    assert isinstance(result.exception, ConfigError)
    assert "file is no folder" in str(result.exception)
