"""Pieces of shards on a local disk: stretch after stretch of a dataset that is larger than the cache."""

from __future__ import annotations

import io
import multiprocessing
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from resflow.errors import ConfigError, ShardError
from resflow.sources import ShardSource, Store, build_index, index_path, write_index
from resflow.storage.cache import ShardCache
from tests.servers import HostileServer

SHARDS, SAMPLES, PIECE = 3, 40, 1 << 16
NAME = "train-{0000..0002}.tar"

# Forks beside threads are what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served")
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        with tarfile.open(path / f"train-{shard:04d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(SAMPLES):
                pixels, content = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), io.BytesIO()
                Image.fromarray(pixels).save(content, "JPEG", quality=95)
                member = tarfile.TarInfo(f"{shard * SAMPLES + number:04d}.jpg")
                member.size = content.tell()
                content.seek(0)
                tar.addfile(member, content)
    write_index(build_index(str(path / NAME)), index_path(str(path / NAME)))
    return path


def pieces(folder: Path) -> set[tuple[str, str]]:
    """Name and range of all pieces there are."""
    found = set()
    for shard in sorted(folder.glob("*.tar")):
        size = shard.stat().st_size
        found |= {(shard.name, f"bytes={first}-{min(first + PIECE, size) - 1}") for first in range(0, size, PIECE)}
    return found


def asked(server: HostileServer) -> Counter[tuple[str, str]]:
    """How often each range of a shard was asked for, but for the single bytes that tell its state."""
    return Counter(
        (name, part) for _, name, part, *_ in server.requests if name.endswith(".tar") and part != "bytes=0-0"
    )


def same(remote: ShardSource, local: ShardSource, wanted: npt.NDArray[np.int64]) -> None:
    for got, expected in zip(remote.read(wanted), local.read(wanted), strict=True):
        assert (got.key, bytes(got.image)) == (expected.key, bytes(expected.image))


def stretches(seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """What a host's ranks read: the shards one after the other, batches shuffled within each."""
    rng = np.random.default_rng(seed)
    for shard in rng.permutation(SHARDS):
        yield from (shard * SAMPLES + rng.permutation(SAMPLES)).reshape(-1, 8)


def kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("resflow-*/*"))


@pytest.mark.parametrize("how", ["plain", "drop"])
def test_each_piece_is_asked_for_once_and_then_read_from_the_disk(
    how: str, folder: Path, server: HostileServer, local: ShardSource, tmp_path: Path
) -> None:
    store = Store(cache=tmp_path, piece_bytes=PIECE, connections=1, deadline=5, stall=1)
    remote = ShardSource(server.address(how, NAME), store=store)
    for batch in np.random.default_rng(1).permutation(SHARDS * SAMPLES).reshape(-1, 8):
        same(remote, local, batch)
    whole = {key: count for key, count in asked(server).items() if key in pieces(folder)}
    assert whole == dict.fromkeys(pieces(folder), 1)
    if how == "plain":  # else what was left of an answer is asked for, too
        assert asked(server).keys() == whole.keys()
    before = len(server.requests)
    same(remote, local, np.arange(SHARDS * SAMPLES))
    assert len(server.requests) == before
    remote.close()


def test_a_dataset_larger_than_the_cache_costs_a_request_a_piece_in_the_order_of_a_plan(
    folder: Path, server: HostileServer, local: ShardSource, tmp_path: Path
) -> None:
    total = sum(shard.stat().st_size for shard in folder.glob("*.tar"))
    most = total // SHARDS + 2 * PIECE
    store = Store(cache=tmp_path, cache_bytes=most, piece_bytes=PIECE, connections=1)
    remote = ShardSource(server.address("plain", NAME), store=store)
    for epoch in (1, 2):
        for batch in stretches(epoch):
            same(remote, local, batch)
            assert kept(tmp_path) <= most
    check_requests(asked(server), len(pieces(folder)), epochs=2)
    remote.close()


def check_requests(found: Counter[tuple[str, str]], count: int, epochs: int) -> None:
    """Law: an epoch asks for no piece twice."""
    assert sum(found.values()) <= epochs * count, f"{sum(found.values())} requests for {count} pieces"


def test_the_law_of_requests_catches_a_cache_that_keeps_nothing(
    folder: Path, server: HostileServer, local: ShardSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardCache, "fill", lambda *_: False)
    store = Store(cache=tmp_path, piece_bytes=PIECE, connections=1)
    remote = ShardSource(server.address("plain", NAME), store=store)
    for batch in stretches(1):
        same(remote, local, batch)
    with pytest.raises(AssertionError, match="requests for"):
        check_requests(asked(server), len(pieces(folder)), epochs=1)
    remote.close()


def _rank(url: str, store: Store, seed: int, results: multiprocessing.SimpleQueue) -> None:
    remote = ShardSource(url, store=store)
    found = [(sample.key, bytes(sample.image)) for batch in stretches(seed) for sample in remote.read(batch)]
    remote.close()
    results.put(sorted(found))


def test_ranks_share_pieces(folder: Path, server: HostileServer, local: ShardSource, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    store = Store(cache=tmp_path, piece_bytes=PIECE)
    ranks = [
        context.Process(target=_rank, args=(server.address("plain", NAME), store, seed, results)) for seed in range(3)
    ]
    for rank in ranks:
        rank.start()
    expected = sorted((sample.key, bytes(sample.image)) for sample in local.read(np.arange(SHARDS * SAMPLES)))
    for _ in ranks:
        assert results.get() == expected
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    # Once each, and what another is bringing at the moment: that is read by itself.
    assert len(pieces(folder)) <= sum(asked(server).values()) < 2 * len(pieces(folder))
    assert kept(tmp_path) == sum(shard.stat().st_size for shard in folder.glob("*.tar"))


def test_a_shard_that_changed_is_refused(server: HostileServer, local: ShardSource, tmp_path: Path) -> None:
    remote = ShardSource(server.address("plain", NAME), store=Store(cache=tmp_path, piece_bytes=PIECE, deadline=2))
    same(remote, local, np.arange(2))
    server.etags["train-0000.tar"] = "another"
    with pytest.raises(ShardError, match='its ETag is "another", "one" when it was first read'):
        remote.read(np.array([SAMPLES - 1]))
    remote.close()


def test_values_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Store\.piece_bytes must be a whole number from 65536 on; got 100"):
        Store(cache=tmp_path, piece_bytes=100)
    with pytest.raises(ConfigError, match=r"there is none\. Name a folder: Store\(cache=\.\.\.\)"):
        Store(piece_bytes=PIECE)
