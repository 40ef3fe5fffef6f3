"""Shards in moto's S3, behind a door that turns requests away; and in fsspec's other stores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import resflow as rf
from resflow.errors import ConfigError, ShardError
from resflow.sources import ShardSource, ShardStream, Store
from resflow.storage import fetch, fsspec_store
from tests.servers import Door, s3_server
from tests.storage.remote_sets import check_equal, fails_within, make_served, plain

pytest.importorskip("moto")
s3fs = pytest.importorskip("s3fs")

NAME = "train-{0000..0002}.tar"
URL = f"s3://bucket/set/{NAME}"
ALL = np.arange(12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("s3")
    make_served(path)
    return path


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Door, str]]:
    with s3_server() as found:
        yield found


@pytest.fixture
def door(running: tuple[Door, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    door, address = running
    files = s3fs.S3FileSystem(**options(address), skip_instance_cache=True)
    if not files.exists("bucket"):
        files.mkdir("bucket")
    for path in folder.iterdir():
        files.pipe(f"bucket/set/{path.name}", path.read_bytes())
    door.slow = door.seen = 0
    return door


def options(address: str, key: str = "SECRETKEY") -> dict[str, object]:
    return {"key": key, "secret": "SECRETword", "client_kwargs": {"endpoint_url": address}}


@pytest.fixture
def store(running: tuple[Door, str]) -> Store:
    return Store(deadline=30, stall=10, options=options(running[1]))  # on a busy machine a worker needs its time


def test_reads_and_streams_are_equal_to_local_ones(door: Door, store: Store, local: ShardSource) -> None:
    remote = ShardSource(URL, store=store)
    door.seen = 0
    remote.read(ALL)
    assert door.seen == 3
    check_equal(remote, local)
    assert plain(list(ShardStream(URL, store=store))) == plain(local.read(ALL))
    remote.close()
    check_equal(remote, local, rounds=1)
    remote.close()


def test_the_comparison_catches_another_object(door: Door, store: Store, local: ShardSource, folder: Path) -> None:
    data = bytearray((folder / "train-0000.tar").read_bytes())
    data[20_000] ^= 1
    s3fs.S3FileSystem(**store.options, skip_instance_cache=True).pipe("bucket/set/train-0000.tar", bytes(data))
    remote = ShardSource(URL, store=store)
    with pytest.raises(AssertionError):
        check_equal(remote, local)
    remote.close()


def test_slow_down_is_waited_out(door: Door, store: Store, local: ShardSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST", 0.02)
    remote = ShardSource(URL, store=store)
    door.slow = 6
    check_equal(remote, local)
    assert door.slow == 0
    remote.close()


def test_slow_down_without_end_is_a_typed_error(door: Door, running: tuple[Door, str]) -> None:
    store = Store(deadline=8, retries=50, options=options(running[1]))  # enough for an answer from a busy machine
    remote = ShardSource(URL, store=store)
    door.slow = 1000
    with fails_within(
        8, r"^s3://bucket/set/train-0000\.tar at byte \d+: .*HTTP status 503 \(SlowDown\).*deadline of 8 s"
    ):
        remote.read(np.array([0]))
    remote.close()


def test_expired_credentials_are_a_typed_error_at_once(door: Door, running: tuple[Door, str]) -> None:
    store = Store(options=options(running[1], "EXPIREDKEYSECRET"))
    began = time.monotonic()
    stream = ShardStream(URL, store=store)
    with fails_within(4, r"HTTP status 400 \(ExpiredToken\): credentials are missing, wrong or expired\. Renew them"):
        list(stream)
    with fails_within(4, "ExpiredToken"):
        ShardSource(URL, store=store).read(np.array([0]))
    assert time.monotonic() - began < 5
    assert "SECRET" not in repr(store)


def test_an_object_that_changes_in_mid_epoch_is_noticed(door: Door, store: Store, folder: Path) -> None:
    remote = ShardSource(URL, store=store)
    remote.read(np.array([0]))
    files = s3fs.S3FileSystem(**store.options, skip_instance_cache=True)
    data = bytearray((folder / "train-0000.tar").read_bytes())
    data[20_000] ^= 1
    files.pipe("bucket/set/train-0000.tar", bytes(data))
    with fails_within(2, 'its ETag is "[0-9a-f]+", "[0-9a-f]+" when it was first read: the shard changed'):
        remote.read(np.array([1]))
    files.rm("bucket/set/train-0000.tar")
    with fails_within(2, "there is no such file"):
        remote.read(np.array([1]))
    remote.close()


def test_shards_in_s3_are_kept_in_the_cache(
    door: Door, running: tuple[Door, str], local: ShardSource, tmp_path: Path
) -> None:
    store = Store(cache=tmp_path, options=options(running[1]))
    remote = ShardSource(URL, store=store)
    check_equal(remote, local)
    remote.fill_cache(10)
    count = door.seen
    check_equal(remote, local)
    assert door.seen == count
    remote.close()


def test_worker_processes_read_s3(door: Door, store: Store, folder: Path) -> None:
    def keys(dataset: object) -> list[str]:
        pipeline = rf.Pipeline(resolution=64, buckets=1, stride=32)
        loader = rf.DataLoader(dataset, batch_size=3, num_workers=2, pipeline=pipeline, shuffle=True, seed=4)
        return [key for batch in loader for key in batch.keys]

    remote = ShardSource(URL, store=store)
    remote.read(np.array([0]))  # so that there is something to fork
    assert keys(remote) == keys(f"{folder}/{NAME}")


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_any_store_of_fsspec_serves(
    kind: str, folder: Path, local: ShardSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setattr(fsspec_store, "_LOOK", 0.0)
    files = fsspec.filesystem(kind)
    place = f"/remote{tmp_path}" if kind == "memory" else str(tmp_path)
    for path in folder.iterdir():
        files.pipe_file(f"{place}/{path.name}", path.read_bytes())
    url = f"{kind}://{place}/{NAME}"
    remote = ShardSource(url)
    check_equal(remote, local)
    assert plain(list(ShardStream(url))) == plain(local.read(ALL))
    time.sleep(0.02)
    files.pipe_file(f"{place}/train-0000.tar", (folder / "train-0000.tar").read_bytes())
    with pytest.raises(ShardError, match="when it was first read: the shard changed"):
        remote.read(np.array([0]))
    files.rm(f"{place}/train-0001.tar")
    with pytest.raises(ShardError, match="there is no such file"):
        remote.read(np.array([5]))
    remote.close()


def test_a_store_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.implementations.memory

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "info", lambda *_, **__: time.sleep(1.5))
    with fails_within(0.3, r"^memory://x/a\.tar at byte 0: .*the store did not answer .*deadline of 0\.3 s"):
        list(ShardStream("memory://x/a.tar", store=Store(deadline=0.3)))


def test_errors_of_a_store_are_shown_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.implementations.memory

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no entry for SECRETkey at https://host/a?X-Amz-Signature=SECRETsig&b=SECRETother")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "info", fail)
    store = Store(options={"nested": {"headers": ["SECRETkey"]}})
    with fails_within(0.5, r"no entry for \*\*\* at https://host/a\?\*\*\* \(RuntimeError\)"):
        list(ShardStream("memory://x/a.tar", store=store))


def test_a_package_that_is_missing_and_options_that_are_wrong_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"needs a package that is not installed: .*pip install 'resflow\[gs\]'"):
        list(ShardStream("gs://bucket/a.tar"))
