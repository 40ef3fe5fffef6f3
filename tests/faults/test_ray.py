"""Shards and their index made on Ray: byte for byte what one machine makes, whatever dies. Skipped without Ray."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resflow.cli.main import main
from resflow.errors import ConfigError, ShardError, WorkerError
from resflow.sources import build_index, index_path, write_shards
from resflow.sources.ray_tasks import ray_cluster, ray_map, ray_write_shards
from tests.shards import jpeg, make_shards, samples

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'resflow[ray]'")
pytestmark = [
    pytest.mark.slow,  # a cluster takes its time to start
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One for all tests here, which `ray_cluster` finds."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def resflow(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["resflow", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    if end.value.code:
        raise RuntimeError("the command failed")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "limits", [["--max-samples", "7"], ["--max-samples", "100", "--max-bytes", "20000"], ["--max-bytes", "1"]]
)
def test_class_folders_become_the_same_shards_and_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: list[str]
) -> None:
    for number in range(40):
        path = tmp_path / "in" / f"class{number % 3}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(40 + number, 60, number))
    monkeypatch.chdir(tmp_path)
    for engine in ("local", "ray"):
        resflow(monkeypatch, "shard", "--format", "folder", "in", engine, *limits, "--engine", engine)
    assert files(tmp_path / "local") == files(tmp_path / "ray")
    assert len(files(tmp_path / "ray")) > 4


def test_the_index_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = make_shards(tmp_path, 61, per_shard=9)
    expected = index_path(pattern).read_bytes()
    index_path(pattern).unlink()
    monkeypatch.chdir(tmp_path.parent)
    resflow(monkeypatch, "index", pattern, "--engine", "ray")
    assert index_path(pattern).read_bytes() == expected


class Dying:
    """Ends its process the first time that it is asked for number 3."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, number: int) -> tuple[int, int]:
        if number == 3 and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number, os.getpid()


def test_what_a_killed_worker_was_doing_is_done_again(tmp_path: Path) -> None:
    with ray_cluster(None):
        results = list(ray_map(Dying(tmp_path), range(8)))
    assert (tmp_path / "died").exists()
    assert [number for number, _ in results] == list(range(8))


class DyingSamples:
    """Samples; the process ends the second time that it is asked for number 20: while a shard is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, start: int, end: int) -> Iterator[object]:
        for number, sample in enumerate(samples(61)):
            if start <= number < end:
                if number == 20:
                    marks = len(list(self.folder.glob("mark-*")))
                    (self.folder / f"mark-{marks}").touch()
                    if marks == 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                yield sample


def test_a_shard_whose_writer_is_killed_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    with ray_cluster(None):
        paths = ray_write_shards(DyingSamples(tmp_path / "marks"), 61, tmp_path / "out" / "s-%02d.tar", max_samples=9)
    assert len(list((tmp_path / "marks").iterdir())) == 3
    write_shards(samples(61), tmp_path / "same" / "s-%02d.tar", max_samples=9)
    assert files(tmp_path / "out") == files(tmp_path / "same")
    assert [path.name for path in paths] == sorted(files(tmp_path / "out"))


class Always:
    """Ends its process, each time."""

    def __call__(self, number: int) -> int:
        os._exit(7)


def test_errors_keep_their_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pattern = make_shards(tmp_path, 20, per_shard=5)
    shard = tmp_path / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with ray_cluster(None), pytest.raises(ShardError, match="truncated") as caught:
        build_index(pattern, workers=1, scans=lambda scan, paths: ray_map(scan, [path.absolute() for path in paths]))
    assert caught.value.shard == str(shard)
    with ray_cluster(None), pytest.raises(ConfigError, match=r"shard .*train-000000.tar exists"):
        ray_write_shards(DyingSamples(tmp_path), 5, tmp_path / "train-%06d.tar")
    for wrong, said in (
        (["--address", "auto"], "--address means nothing without --engine ray"),
        (["--engine", "ray", "--workers", "2"], "--workers means nothing with --engine ray"),
    ):
        with pytest.raises(RuntimeError):
            resflow(monkeypatch, "index", pattern, *wrong)
        assert said in capsys.readouterr().err


def test_a_task_that_always_dies_is_an_error() -> None:
    start = time.monotonic()
    with (
        ray_cluster(None),
        pytest.raises(WorkerError, match=r"a task on the Ray cluster failed: .*Look at the cluster"),
    ):
        list(ray_map(Always(), range(1)))
    assert time.monotonic() - start < 100
