"""ShardSource against webdataset's own reading, and what it says when shards change."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import webdataset

from resflow.errors import ConfigError, IndexFileError, ShardError
from resflow.sources import Sample, ShardSource, Source, build_index, index_path, local_shards, shards, write_index
from resflow.sources.paths import shell_words

MakeShards = Callable[..., list[Path]]


@pytest.fixture
def source(make_shards: MakeShards, tmp_path: Path) -> ShardSource:
    make_shards(3, 7)
    pattern = f"{tmp_path}/train-{{0000..0002}}.tar"
    write_index(build_index(pattern), index_path(pattern))
    return ShardSource(pattern)


def by_webdataset(paths: list[Path]) -> list[tuple[str, dict[str, bytes]]]:
    samples = []
    for path in paths:
        with path.open("rb") as stream:
            files = webdataset.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
            samples += list(webdataset.tariterators.group_by_keys(files))
    return [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in samples]


def plain(samples: list[Sample]) -> list[tuple[str, dict[str, bytes]]]:
    return [(s.key, {extension: bytes(data) for extension, data in s.members.items()}) for s in samples]


def ids(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def test_every_order_gives_what_webdataset_reads(source: ShardSource, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_webdataset(list(source.shard_index.shards))
    assert isinstance(source, Source)
    generator = np.random.default_rng(0)
    for gap, run in ((64 << 10, 8 << 20), (0, 0), (512, 4000)):
        monkeypatch.setattr(shards, "_GAP", gap)
        monkeypatch.setattr(shards, "_SPAN", run)
        for _ in range(20):
            wanted = generator.integers(0, 21, generator.integers(0, 30))
            got = source.read(wanted)
            assert plain(got) == [expected[i] for i in wanted]
            assert [bytes(s.image) for s in got] == [expected[i][1]["jpg"] for i in wanted]
            assert [(s.shard, s.key) for s in got] == [source.name(int(i)) for i in wanted]
            source.read_ahead(wanted)


def test_neighbours_are_read_at_once(source: ShardSource, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: (calls.append((n, at)), pread(fd, n, at))[1])
    source.read(ids(20, 3, 0, 14, 1))
    assert len(calls) == 2  # shard 0 and shard 2
    monkeypatch.setattr(shards, "_SPAN", 1)
    calls.clear()
    source.read(ids(0, 1, 2))
    assert len(calls) == 3


def test_few_descriptors_are_open(source: ShardSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_shards, "_OPEN_FILES", 1)

    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(5):
        source.read(ids(0, 7, 14))
    assert count() <= before + 1
    source.close()
    assert count() <= before
    assert len(source.read(ids(3))) == 1


def test_many_shards_under_a_low_limit_of_open_files(make_shards: MakeShards, tmp_path: Path) -> None:
    make_shards(150, 1)
    source = ShardSource(build_index(f"{tmp_path}/*.tar"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 80, hard))
    try:
        assert len(source.read(np.arange(150, dtype=np.int64))) == 150
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_share_a_source(source: ShardSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_shards, "_OPEN_FILES", 1)
    expected = plain(source.read(np.arange(21, dtype=np.int64)))
    wrong: list[int] = []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(30):
            wanted = generator.integers(0, 21, 5)
            if plain(source.read(wanted)) != [expected[i] for i in wanted]:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _keys(source: ShardSource) -> list[str]:
    return [sample.key for sample in source.read(np.arange(21, dtype=np.int64))]


def test_copies_read_in_other_processes(source: ShardSource) -> None:
    expected = _keys(source)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(ShardSource.name, source, 20).result() == source.name(20)
    assert _keys(pickle.loads(pickle.dumps(source))) == expected
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"1" if _keys(source) == expected else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("wanted", [ids(21), ids(-1), ids(0, 99)])
def test_numbers_outside_the_index(source: ShardSource, wanted: npt.NDArray[np.int64]) -> None:
    with pytest.raises(ConfigError, match=r"sample_ids must be in \[0, 21\); got "):
        source.read(wanted)


def test_wrong_dtype(source: ShardSource) -> None:
    with pytest.raises(ConfigError, match=r"sample_ids must be int64 \[B\]; got int32 \[2\]"):
        source.read(np.zeros(2, np.int32))  # type: ignore[arg-type]


def test_shard_that_changed_after_it_was_indexed(source: ShardSource) -> None:
    path = source.shard_index.shards[1]
    data = path.read_bytes()
    first = int(source.index.offset[7])

    def message(changed: bytes | None) -> str:
        source.close()
        path.unlink(missing_ok=True)
        if changed is not None:
            path.write_bytes(changed)
        with pytest.raises(ShardError) as caught:
            source.read(ids(0, 7, 8))
        return str(caught.value)

    assert message(data[:-512]) == (
        f"{path} at byte {len(data) - 512}: has {len(data) - 512} bytes, {len(data)} when it was indexed: "
        f"the shard changed. Run: resflow index {shell_words(source.shard_index.shards)}"
    )
    assert (
        message(None) == f"{path}: cannot be opened: No such file or directory. Put the shard back, or index the rest."
    )
    flipped = bytearray(data)
    flipped[first + 1] ^= 1
    assert f"{path} at byte {first}: damaged header" in message(bytes(flipped))
    other = data.replace(b"part1/s0000", b"part1/s9999")
    assert "checksum does not match" in message(other)
    shifted = data[int(source.index.offset[8]) :]
    assert "the shard changed" in message(shifted.ljust(len(data), b"\0"))


def test_file_cut_while_open(source: ShardSource) -> None:
    source.read(ids(14))
    path = source.shard_index.shards[2]
    os.truncate(path, 3000)
    with pytest.raises(ShardError, match=r"train-0002.tar at byte 3000: truncated: .* the file ends at 3000"):
        source.read(ids(20))


def test_source_of_shards_without_an_index(make_shards: MakeShards, tmp_path: Path) -> None:
    make_shards(1, 1)
    with pytest.raises(IndexFileError, match=r"there is no index of these shards\. Run: resflow index"):
        ShardSource(f"{tmp_path}/train-0000.tar")


def test_members_and_images_are_views_of_one_read(source: ShardSource) -> None:
    (sample,) = source.read(ids(5))
    assert isinstance(sample.image, memoryview)
    assert sample.image.obj is sample.members["cls"].obj
    assert list(sample.members) == ["cls", "jpg", "caption.txt"]
