"""Programs that run short of something: `python -m tests.faults.resources PROGRAMS`, JSON: names and arguments.

One process imports everything once and forks them. What each found is printed as JSON, last line.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil
import torch
from torch.utils.data import Dataset

import resflow as rf
import resflow.decode.turbo  # once, before workers are forked
from resflow.errors import ResflowError
from resflow.session.workers import drop_shared_memory
from resflow.sources import build_index, index_path, write_index, write_shards
from resflow.sources.dataset_sizes import find_sizes
from resflow.sources.tier_writer import make_tiers
from resflow.storage.cache import ShardCache
from resflow.storage.transport import Stamp
from tests.data import answer
from tests.shards import make_shards, samples

ROOT = Path(__file__).parents[2]


@functools.cache
def may_mount() -> bool:
    """Whether this process may make a mount namespace of its own and mount memory in it."""
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


Program: TypeAlias = Sequence[Any]
"""The name of a function here, and its arguments."""


def run(programs: Sequence[Program], mounts: Mapping[str, str] | None = None) -> list[tuple[Any, str]]:
    """What each program found, and what it said on stderr.

    Args:
        programs: run one after the other.
        mounts: folders over which memory is mounted for the programs alone, and how much ("512k").
    """
    command = ["tests.faults.resources", json.dumps(programs)]
    if mounts is not None:
        mounted = "".join(f"mount -t tmpfs -o size={size} tmpfs '{folder}'; " for folder, size in mounts.items())
        command = ["unshare", "-m", "sh", "-ec", f'{mounted} exec "$@"', "sh", sys.executable, "-m", *command]
    results: list[tuple[Any, str]] = answer(*command)
    return results


def _one(program: Program) -> tuple[Any, str]:
    """A program in a fork of this process."""
    name, *arguments = program
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            here.close()
            os.dup2(said.fileno(), 2)
            try:
                there.send(globals()[name](*arguments))
                atexit._run_exitfuncs()
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(0)
        there.close()
        try:
            found = here.recv()
        except EOFError:
            said.seek(0)
            raise RuntimeError(f"{name} ended: {said.read()}") from None
        finally:
            here.close()
            os.waitpid(child, 0)
        said.seek(0)
        return found, said.read()


class Large(Dataset[Any]):
    """Batches of 9.6 MB each at 64 images of 224 x 224."""

    def __init__(self) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return 1024

    def get_height_and_width(self, number: int) -> tuple[int, int]:
        return 28, 28

    def __getitem__(self, number: int) -> tuple[object, object]:
        return self.pixels, number


def shared_memory(workers: int, batch_size: int) -> object:
    """Samples and shared memory left after an epoch whose batches are kept, so that shared memory fills up."""
    loader = rf.DataLoader(
        Large(),
        batch_size=batch_size,
        num_workers=workers,
        multiprocessing_context="fork",
        pipeline=rf.Pipeline(resolution=224, buckets=1, stride=8, memory_format=torch.channels_last),
    )
    batches = list(loader)
    room = os.statvfs("/dev/shm")
    found: dict[str, object] = {
        "samples": [number for batch in batches for number in batch.sample_ids.tolist()],
        "same": all(bool((batch.images == batches[0].images[:1]).all()) for batch in batches),
        "strides": sorted({batch.images.stride()[1] for batch in batches}),
        "bytes": room.f_blocks * room.f_frsize,
        "kept": sum(batch.images.nbytes for batch in batches),
    }
    batches.clear()
    return found | {
        "left": [path.name for path in Path("/dev/shm").iterdir()],
        "processes": len(psutil.Process().children()),
    }


def few_descriptors(folder: str, shards: int) -> object:
    """Samples and the most descriptors over 256 shards, with 0 and 2 workers, and what becomes of batches kept."""
    pattern = make_shards(Path(folder), shards, per_shard=1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    found: dict[str, Any] = {"most": 0}
    for workers in (0, 2):
        loader = rf.DataLoader(
            pattern,
            batch_size=1,
            shuffle=True,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            pipeline=rf.Pipeline(resolution=128, buckets=2, stride=16, memory_format=torch.channels_last),
        )
        seen = []
        for batch in loader:
            seen += batch.sample_ids.tolist()
            found["most"] = max(found["most"], _descriptors())
        found[str(workers)] = sorted(seen) == list(range(shards))
    kept: list[rf.Batch] = []
    try:
        kept.extend(loader)
    except ResflowError as error:
        found["error"] = f"{type(error).__name__}: {error}"
    kept.clear()
    loader.set_epoch(5)
    found["after"] = sum(len(batch) for batch in loader)
    return found | {"left": _descriptors(), "processes": len(psutil.Process().children())}


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) - 1


def full_disk(place: str) -> object:
    """What is said and what is left, of all that Resflow writes, on a disk of 512 kB."""
    folder = Path(place)
    pattern = make_shards(folder / "s", 60, per_shard=30)
    cache = ShardCache(folder, 1 << 30)
    content = [bytes(50_000), bytes(50_000)]
    writes: dict[str, tuple[int, Callable[[], object]]] = {
        "shards": (1 << 17, lambda: write_shards(samples(200), folder / "new-%06d.tar", max_samples=10)),
        "end of a shard": (4096, lambda: write_shards(samples(1), folder / "new-%06d.tar")),
        "new folder": (0, lambda: write_shards(samples(1), folder / "new" / "new-%06d.tar")),
        "index": (4096, lambda: write_index(build_index(pattern, workers=1), index_path(pattern))),
        "tiers": (20_000, lambda: make_tiers(pattern, [32], workers=1)),
        "end of a tier": (0, lambda: make_tiers(pattern, [32], workers=1)),
        "sizes": (0, lambda: find_sizes(folder / "sizes", lambda _: (5, 5), 9000, identity="", name="d", how="so")),
        "cache": (8192, lambda: cache.fill("http://host/new.tar", Stamp(100_000, "e"), content)),
    }
    before = _files(folder)
    found = {}
    for name, (room, write) in writes.items():
        _leave(folder / "filler", room)
        try:
            write()
        except ResflowError as error:
            found[name] = [type(error).__name__, str(error)]
        except OSError as error:
            found[name] = [type(error).__name__, str(error)]
        (folder / "filler").unlink()
        after = {name: data for name, data in _files(folder).items() if name != "lock"}
        if after != before:
            found[name] = ["left", str(sorted(after.keys() ^ before.keys()))]
    return found


def stopped_at_exit() -> object:
    """Workers, both stopped, whose pass is still going on when the program ends."""
    global _kept
    _kept = iter(
        rf.DataLoader(
            Large(),
            batch_size=4,
            num_workers=2,
            multiprocessing_context="fork",
            pipeline=rf.Pipeline(resolution=32, buckets=1, stride=8),
        )
    )
    next(_kept)
    workers = [process.pid for process in psutil.Process().children()]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    return workers


_kept: Any = None


def many_epochs(folder: str, workers: int, epochs: int, samples: int, leak: str = "") -> object:
    """After each epoch: bytes of memory of this process and its workers, file descriptors, entries of shared memory.

    Args:
        folder: for shards.
        workers: that persist.
        epochs: how many.
        samples: of the dataset.
        leak: what is lost in each epoch, to show that it is seen: "memory", "descriptors" or "shared".
    """
    pattern = make_shards(Path(folder), samples)
    loader = rf.DataLoader(
        pattern,
        batch_size=16,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
        pipeline=rf.Pipeline(
            resolution=96,
            buckets=3,
            stride=16,
            views=[rf.views.RandomResizedCrop(scale=(0.35, 1.0)), rf.views.HorizontalFlip()],
            normalize=rf.IMAGENET,
        ),
    )
    here, lost, rows = psutil.Process(), [], []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        seen = [number for batch in loader for number in batch.sample_ids.tolist()]
        assert sorted(seen) == list(range(samples))
        if leak == "memory":
            lost.append(os.urandom(1 << 20))
        elif leak == "descriptors":
            lost.append(os.dup(0))
        elif leak == "shared":
            Path(f"/dev/shm/torch_{os.getpid()}_{epoch}").touch()
        gc.collect()
        memory = sum(process.memory_info().rss for process in (here, *here.children()))
        shared = len(list(Path("/dev/shm").glob("torch_*")))
        rows.append([memory, sum(process.num_fds() for process in (here, *here.children())), shared])
    drop_shared_memory(os.getpid())
    return rows


def _leave(filler: Path, room: int) -> None:
    """Fill a disk but for so many bytes."""
    disk = os.statvfs(filler.parent)
    filler.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - room)))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    from tests.faults import resources  # by the name under which workers find it

    print("\n" + json.dumps([resources._one(program) for program in json.loads(sys.argv[1])]))
