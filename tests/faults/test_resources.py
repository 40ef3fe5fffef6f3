"""Too little disk, shared memory or file descriptors: a typed error, or a loader that works; nothing left behind.

`make test-slow` goes through 50 epochs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.faults.resources import may_mount, run

needs_mounts = pytest.mark.skipif(not may_mount(), reason="needs the right to mount memory (unshare -m as root)")
MAKE_ROOM = "No space left on device. Make room"
SHARDS = 260

Found = dict[str, tuple[Any, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resources")


@pytest.fixture(scope="module")
def all_found(folder: Path) -> Found:
    """All programs by one process, which imports everything once."""
    (folder / "disk").mkdir()
    programs: dict[str, list[Any]] = {"descriptors": ["few_descriptors", str(folder / "shards"), SHARDS]}
    mounts = {"/dev/shm": "64m", str(folder / "disk"): "512k"} if may_mount() else None
    programs["at exit"] = ["stopped_at_exit"]
    for workers in (0, 2):
        programs[f"epochs {workers}"] = ["many_epochs", str(folder / f"few{workers}"), workers, 16, 48]
    if mounts is not None:
        programs["disk"] = ["full_disk", str(folder / "disk")]
        programs["many batches"] = ["shared_memory", 2, 64]
        programs["one larger than all"] = ["shared_memory", 1, 512]
    return dict(zip(programs, run(list(programs.values()), mounts), strict=True))


@needs_mounts
def test_a_full_disk_is_named_and_leaves_what_was_there(all_found: Found, folder: Path) -> None:
    found, place = all_found["disk"][0], folder / "disk"
    said = {name: error for name, (kind, error) in found.items() if kind != "left"}
    assert list(said) == list(found), found
    for name in ("shards", "end of a shard", "new folder"):
        assert said[name].startswith(f"shard {place}/new"), said[name]
        assert f"cannot be written: {MAKE_ROOM}, or choose another folder; no shard was put in place." in said[name]
    for name in ("tiers", "end of a tier"):
        assert said[name].startswith(f"tier {place}/s/tier-32/train-000000.tar cannot be written: {MAKE_ROOM}")
    assert said["index"].startswith(f"{place}/s/train-000000..000001.")
    assert f"the index cannot be written: {MAKE_ROOM} on its disk" in said["index"]
    assert said["index"].endswith("what was there before is as it was.")
    assert said["sizes"].startswith(f"the sizes cannot be kept in {place}/sizes: No space left on device. Name a")
    assert f"cannot be kept in the cache folder {place}/resflow-" in said["cache"]
    assert "Free some, or lower Store(cache_bytes=...)" in said["cache"]
    kinds = {name: kind for name, (kind, _) in found.items()}
    assert set(kinds.values()) == {"ConfigError", "IndexFileError", "ShardError"}


@needs_mounts
@pytest.mark.parametrize(("name", "workers"), [("many batches", 2), ("one larger than all", 1)])
def test_with_64_mb_of_shared_memory_batches_go_through_the_pipe(all_found: Found, name: str, workers: int) -> None:
    found, said = all_found[name]
    assert found["bytes"] == 64 << 20
    assert found["kept"] > found["bytes"]
    assert found["samples"] == list(range(1024))
    assert found["same"]
    assert found["strides"] == [1]  # channels_last
    assert found["left"] == []
    assert found["processes"] == 0
    lines = [line for line in said.splitlines() if line.startswith("shared memory has no room for a batch (")]
    assert 1 <= len(lines) <= workers
    assert "No space left on device" in lines[0]
    assert lines[0].endswith(
        "so batches go through a pipe, which takes longer. Give /dev/shm more (docker run --shm-size=2g), or lower "
        "num_workers, prefetch_factor or batch_size."
    )


def test_with_256_file_descriptors_more_shards_are_read_and_batches_kept_are_an_error(all_found: Found) -> None:
    found, _ = all_found["descriptors"]
    assert found["0"]
    assert found["2"]
    assert found["most"] < 256
    assert found["error"].startswith(
        "WorkerError: no file descriptors are left to receive a batch from a worker: each tensor of more than 32 KB "
        "that is kept holds one. Keep fewer batches (clone what you keep), raise the limit (ulimit -n 65536), or call "
        "torch.multiprocessing.set_sharing_strategy('file_system') first."
    )
    assert found["after"] == SHARDS
    assert found["left"] < 256
    assert found["processes"] == 0


def test_workers_that_are_stopped_do_not_outlive_the_program(all_found: Found) -> None:
    workers, _ = all_found["at exit"]
    assert len(workers) == 2
    deadline = time.monotonic() + 5
    while any(psutil.pid_exists(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [worker for worker in workers if psutil.pid_exists(worker)] == []


def check_flat(rows: list[list[int]], slope: float = 0.001) -> float:
    """Check what was measured after each epoch, from the fifth on.

    Args:
        rows: memory in bytes, file descriptors and entries of shared memory after each epoch.
        slope: most growth of memory an epoch, as a share of its mean.

    Returns:
        The growth of memory an epoch.
    """
    memory, descriptors, shared = np.array(rows[5:]).T
    grown = float(np.polyfit(np.arange(len(memory)), memory, 1)[0] / memory.mean())
    if grown > slope:
        raise AssertionError(f"memory grows by {grown:.3%} an epoch: {memory.tolist()}")
    for name, counts in (("file descriptors", descriptors), ("entries of shared memory", shared)):
        if counts.max() > counts[0]:
            raise AssertionError(f"{name} grow: {counts.tolist()}")
    return grown


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_take_no_more_memory_descriptors_or_shared_memory(all_found: Found, workers: int) -> None:
    check_flat(all_found[f"epochs {workers}"][0], slope=0.003)  # of few epochs it is not known better


def test_the_check_sees_what_grows() -> None:
    flat = [[400_000_000 + 100_000 * (epoch % 3), 40, 0] for epoch in range(50)]
    assert check_flat(flat) < 0.0001
    for column, step, said in (
        (0, 500_000, "memory grows by 0.12"),
        (1, 1, "file descriptors grow"),
        (2, 1, "entries of shared memory grow"),
    ):
        grown = [[*row] for row in flat]
        for epoch, row in enumerate(grown):
            row[column] += step * epoch
        with pytest.raises(AssertionError, match=said):
            check_flat(grown)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_fifty_epochs_take_no_more(tmp_path: Path, workers: int) -> None:
    [(rows, _)] = run([["many_epochs", str(tmp_path), workers, 50, 200]])
    print(f"{workers} workers: {check_flat(rows):.4%} an epoch of {rows[-1][0] / 1e6:.0f} MB")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leak", "said"),
    [("memory", "memory grows"), ("descriptors", "file descriptors grow"), ("shared", "entries of shared memory grow")],
)
def test_what_is_lost_in_each_epoch_is_seen(tmp_path: Path, leak: str, said: str) -> None:
    [(rows, _)] = run([["many_epochs", str(tmp_path), 0, 16, 48, leak]])
    with pytest.raises(AssertionError, match=said):
        check_flat(rows)
