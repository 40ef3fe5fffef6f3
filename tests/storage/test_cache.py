"""Whole shards on a local disk: shared, bounded, whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from resflow.errors import ConfigError, ShardError
from resflow.sources import ShardSource, ShardStream, Store
from resflow.storage import cache
from resflow.storage.cache import ShardCache
from resflow.storage.transport import Stamp
from tests.servers import HostileServer
from tests.storage.remote_sets import check_equal, make_served, plain

NAME = "train-{0000..0002}.tar"
ALL = np.arange(12)

# Forks beside threads are what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cached")
    make_served(path)
    return path


def store(folder: Path, **arguments) -> Store:
    return Store(cache=folder, **({"deadline": 5, "stall": 1} | arguments))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("resflow-*/*") if path.name != "lock")


def downloads(server: HostileServer) -> list[str]:
    return [request[1] for request in server.requests if request[1].endswith(".tar") and not request[2]]


def blob(cached: ShardCache, name: str, size: int = 1000, etag: str | None = "e") -> bool:
    return cached.fill(f"s3://b/{name}", Stamp(size, etag), [bytes([len(name)]) * size])


def held(cached: ShardCache, name: str, size: int = 1000, etag: str | None = "e") -> bytes | None:
    descriptor = cached.open(f"s3://b/{name}", Stamp(size, etag))
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def check_bounded(folder: Path, most: int) -> None:
    """Law: never more bytes than allowed."""
    total = sum(path.stat().st_size for path in files(folder))
    assert total <= most, f"{total} of {most} bytes"


@pytest.mark.parametrize("how", ["plain", "drop"])
def test_shards_are_downloaded_once_and_then_read_from_the_disk(
    how: str, server: HostileServer, local: ShardSource, tmp_path: Path
) -> None:
    remote = ShardSource(server.address(how, NAME), store=store(tmp_path))
    check_equal(remote, local)  # by ranges and from the disk, as it comes
    remote.fill_cache(10)
    assert sorted(path.read_bytes() for path in files(tmp_path)) == sorted(
        path.read_bytes() for path in local.shard_index.shards
    )
    count = len(server.requests)
    check_equal(remote, local)
    assert len(server.requests) == count
    again = ShardSource(server.address(how, NAME), store=store(tmp_path))
    check_equal(again, local)
    assert len(server.requests) - count == 1 + 3  # the index; the state of each shard
    remote.close()
    again.close()


def test_the_folder_is_its_users_alone_and_tells_no_addresses(server: HostileServer, tmp_path: Path) -> None:
    list(ShardStream(server.address("plain", NAME) + "?sig=SECRET", store=store(tmp_path)))
    [folder] = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(files(tmp_path)) == 3
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.name == "lock" or (len(path.name) == 64 and int(path.name, 16))


def test_a_folder_that_others_may_enter_or_that_is_a_link_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / f"resflow-{os.getuid()}"
    folder.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match=r"must be a folder of user \d+ with mode 0700; got user \d+, mode 0755"):
        ShardCache(tmp_path, 1000)
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="must be a folder of user"):
        ShardCache(tmp_path, 1000)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        ShardCache(tmp_path / "file" / "cache", 1000)


def test_streams_come_from_the_cache_in_later_epochs(server: HostileServer, local: ShardSource, tmp_path: Path) -> None:
    stream = ShardStream(server.address("drop", NAME), store=store(tmp_path))
    for _ in range(2):
        assert plain(list(stream)) == plain(local.read(ALL))
    server.etags["train-0001.tar"] = "two"
    count = len(downloads(server))
    assert plain(list(stream)) == plain(local.read(ALL))
    assert set(downloads(server)[count:]) <= {"train-0001.tar"}
    assert downloads(server)[count:]
    assert len(files(tmp_path)) == 4


def test_a_shard_that_changed_is_refused_in_mid_epoch(server: HostileServer, tmp_path: Path) -> None:
    remote = ShardSource(server.address("plain", NAME), store=store(tmp_path, cache_bytes=1000))
    remote.read(np.array([0]))
    server.etags["train-0000.tar"] = "two"
    with pytest.raises(ShardError, match="the shard changed"):
        remote.read(np.array([1]))
    assert files(tmp_path) == []
    remote.close()


def test_what_does_not_fit_is_read_by_ranges_and_the_rest_stays(
    server: HostileServer, local: ShardSource, tmp_path: Path
) -> None:
    sizes = local.shard_index.shard_sizes
    most = sizes[0] + sizes[1] + 10
    remote = ShardSource(server.address("plain", NAME), store=store(tmp_path, cache_bytes=most))
    for seed in range(3):
        check_equal(remote, local, seed=seed)
        remote.fill_cache(10)
        check_bounded(tmp_path, most)
    assert sorted(downloads(server)) == ["train-0000.tar", "train-0001.tar"]
    remote.close()


def test_the_least_recently_used_go_first_and_those_in_use_stay(tmp_path: Path) -> None:
    cached = ShardCache(tmp_path, 3000)
    for place, name in enumerate(["a", "bb", "ccc"]):
        assert blob(cached, name)
        os.utime(cached._path(f"s3://b/{name}", Stamp(1000, "e")), (place, place))
    assert held(cached, "a") == b"\1" * 1000  # used just now
    assert blob(cached, "dddd")
    check_bounded(tmp_path, 3000)
    assert held(cached, "bb") is None
    assert held(cached, "ccc", etag="another") is None
    assert held(cached, "a") is not None
    using = cached.open("s3://b/ccc", Stamp(1000, "e"))
    assert using is not None
    os.utime(using, (1, 1))
    assert blob(cached, "eeeee", 2000)
    check_bounded(tmp_path, 3000)
    assert held(cached, "ccc") is not None
    assert not blob(cached, "f", 2001)  # what is in use leaves no room for it
    assert not blob(cached, "g", 3001)
    os.close(using)
    assert blob(cached, "f", 3000)
    assert len(files(tmp_path)) == 1


def test_the_law_of_bounds_catches_an_eviction_that_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = ShardCache(tmp_path, 1500)
    monkeypatch.setattr(cache.Path, "unlink", lambda *_, **__: None)
    assert blob(cached, "a")
    assert blob(cached, "bb")
    with pytest.raises(AssertionError, match="2000 of 1500 bytes"):
        check_bounded(tmp_path, 1500)


def test_what_comes_too_short_too_long_or_not_at_all_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = ShardCache(tmp_path, 3000)
    for count in (0, 999, 1001, 5000):
        with pytest.raises(ShardError, match=r"^s3://b/a at byte \d+: .*bytes came, 1000 were announced"):
            cached.fill("s3://b/a?sig=SECRET", Stamp(1000, "e"), [b"x" * count])
        assert files(tmp_path) == []

    def broken() -> Iterator[bytes]:
        yield b"x" * 500
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached.fill("s3://b/a", Stamp(1000, "e"), broken())
    assert files(tmp_path) == []
    assert not cached.fill("s3://b/a", Stamp(None, "e"), [b"x"])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "write", full)
    with pytest.raises(ShardError, match=r"No space left on device\. Free some, or lower Store\(cache_bytes=\.\.\.\)"):
        blob(cached, "a")
    assert files(tmp_path) == []


def test_a_failed_download_is_told_at_a_later_read(
    server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = ShardSource(server.address("plain", NAME), store=store(tmp_path))
    monkeypatch.setattr(cache.os, "fsync", _no_disk)
    remote.read(np.array([0]))
    remote.fill_cache(10)
    with pytest.raises(ShardError, match="cannot be kept in the cache folder"):
        remote.read(np.array([5]))
    remote.close()


def _no_disk(_: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_nobody_sees_half_a_shard(tmp_path: Path) -> None:
    cached = ShardCache(tmp_path, 3000)
    seen: list[bytes | None] = []

    def pieces() -> Iterator[bytes]:
        for _ in range(10):
            seen.append(held(cached, "a"))
            assert not blob(cached, "a")  # another process leaves it to the first
            check_bounded(tmp_path, 1000)
            yield b"\1" * 100

    assert cached.fill("s3://b/a", Stamp(1000, "e"), pieces())
    assert seen == [None] * 10
    assert held(cached, "a") == b"\1" * 1000


def test_a_process_that_is_killed_leaves_room_for_others(tmp_path: Path) -> None:
    cached = ShardCache(tmp_path, 1000)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:

        def stuck() -> Iterator[bytes]:
            yield b"x" * 500
            os.write(writing, b"!")
            threading.Event().wait(60)

        try:
            cached.fill("s3://b/a", Stamp(1000, "e"), stuck())
        finally:
            os._exit(1)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    assert not blob(cached, "bb")  # the first one has the room
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert blob(cached, "bb")
    assert [path.stat().st_size for path in files(tmp_path)] == [1000]


def _rank(url: str, folder: Path, seed: int, results: multiprocessing.SimpleQueue) -> None:
    remote = ShardSource(url, store=store(folder))
    wanted = np.random.default_rng(seed).permutation(12)
    found = plain(remote.read(wanted))
    remote.fill_cache(10)
    remote.close()
    results.put((wanted, found))


def test_a_shard_that_is_done_while_another_looks_for_it_is_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = ShardCache(tmp_path, 10_000)
    looking, done, lock = threading.Event(), threading.Event(), cache._lock

    def content() -> Iterator[bytes]:
        yield b"a" * 1000
        looking.wait(10)

    def download() -> None:
        cached.fill("s3://b/a", Stamp(1000, "e"), content())
        done.set()

    def late_lock(descriptor: int, kind: int) -> bool:
        if looking.is_set():
            return lock(descriptor, kind)
        looking.set()  # the second process missed the shard and has opened the file on its way: now the first is done
        done.wait(0.5)
        return lock(descriptor, kind)

    def refused() -> Iterator[bytes]:
        raise AssertionError("downloaded again")
        yield b""

    first = threading.Thread(target=download)
    first.start()
    while not files(tmp_path):
        time.sleep(0.001)
    with monkeypatch.context() as patched:
        patched.setattr(cache, "_lock", late_lock)
        cached.fill("s3://b/a", Stamp(1000, "e"), refused())
    first.join()
    assert held(cached, "a") == b"a" * 1000


def test_processes_share_one_download(server: HostileServer, local: ShardSource, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    arguments = (server.address("plain", NAME), tmp_path)
    ranks = [context.Process(target=_rank, args=(*arguments, seed, results)) for seed in range(4)]
    for rank in ranks:
        rank.start()
    for _ in ranks:
        wanted, found = results.get()
        assert found == plain(local.read(wanted))
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    assert len(files(tmp_path)) == 3
    assert sorted(downloads(server)) == [f"train-{number:04d}.tar" for number in range(3)]
