"""What planning costs where a dataset is large: `python benchmarks/scale.py [--json results.json]`.

Writes an index of 10 and of 100 million made-up samples to disk (7 GB for the latter, removed at the end), maps it and
plans over it as one rank of many does, each in a process of its own; then computes what a billion samples on 1,024
ranks come to. `--samples`, `--ranks` and the like ask for other numbers.

- learn, lay out: buckets from sizes, and cuts between runs of shards; once a training run.
- first batch: from there to the first batch; jump: to a batch in the middle of another epoch, as on resume.
- block: planning one block, in seconds by the clock and of CPU; plan: all of them, over the whole epoch, on each rank.
- memory: peak of anonymous memory over all this. file: pages of the index that were read.
- store: what hosts ask a store for, if each fetches the stretches of shards that its ranks read in a block by one
  request for each `--part` bytes, and single samples from elsewhere by one request each; beside one request a sample,
  and beside pieces of `--piece` bytes (`Store(piece_bytes=...)`), of which a single sample costs a whole one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from plan import make_sizes

from resflow.plan import BlockPlan, Index, Linear, World, lay_out, learn_buckets
from resflow.plan.layout import BLOCK, LANES
from resflow.sources.index_file import ShardIndex, open_index_file, write_index

_KEY = 15  # characters of a key, as in ImageNet
_CHUNK = 1 << 20
_SCHEDULE = Linear(128, 224, epochs=16)


def write_made_up(folder: Path, n: int, shard_samples: int, sample_bytes: int) -> Path:
    """Write the index of n samples that do not exist; columns lie in files, so that little memory is taken."""

    def column(name: str, dtype: Any, shape: tuple[int, ...] = (n,)) -> Any:
        return np.memmap(folder / f"{name}.column", dtype, "w+", shape=shape)

    shard, offset, length = column("shard", np.int32), column("offset", np.int64), column("length", np.int64)
    size, start, count = column("size", np.int32, (n, 2)), column("start", np.int64), column("count", np.int64)
    text = column("text", "S1", (n * _KEY,)).view(f"S{_KEY}")
    sizes = make_sizes(_CHUNK)
    for first in range(0, n, _CHUNK):
        part = slice(first, min(first + _CHUNK, n))
        number = np.arange(part.start, part.stop)
        shard[part] = number // shard_samples
        offset[part] = number % shard_samples * sample_bytes
        length[part], start[part], count[part] = sample_bytes, 1536, sample_bytes - 2048
        size[part] = sizes[: len(number)]
        text[part] = np.char.zfill(number.astype(f"S{_KEY}"), _KEY)
    ends = column("ends", np.int64, (n + 1,))
    ends[:] = np.arange(n + 1) * _KEY
    keys = pa.Array.from_buffers(pa.large_string(), n, [None, pa.py_buffer(ends), pa.py_buffer(text)])
    shards = tuple(folder / f"train-{number:07d}.tar" for number in range(-(-n // shard_samples)))
    columns, sizes_of = Index(shard, offset, length, size, "made up"), (shard_samples * sample_bytes,) * len(shards)
    index = ShardIndex(columns, keys, start, count, shards, sizes_of)
    path = folder / "train.index.arrow"
    with _no_check():
        write_index(index, path)
    del index, columns, keys
    for leftover in folder.glob("*.column"):
        leftover.unlink()
    return path


class _no_check:  # noqa: N801
    """The shards do not exist; their sizes are not looked at while the index is opened after writing."""

    def __enter__(self) -> None:
        import resflow.sources.index_file as module

        self._module, self._check = module, module._check_shards
        module._check_shards = lambda *_: None

    def __exit__(self, *_: object) -> None:
        self._module._check_shards = self._check


class Peak(threading.Thread):
    """Watches the process's anonymous memory, every 2 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self._over = 0, threading.Event()
        self.before = status("RssAnon")

    def run(self) -> None:
        while not self._over.wait(0.002):
            self.highest = max(self.highest, status("RssAnon"))

    def stop(self) -> float:
        """MiB above what there was at the start."""
        self._over.set()
        self.join()
        return (self.highest - self.before) / 2**20


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(path: Path, ranks: int, batch: int, hosts: int) -> dict[str, float]:
    """Seconds and bytes of one rank."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # what is read is read from disk
    os.close(descriptor)
    file_before, peak = status("RssFile"), Peak()
    peak.start()
    laps = [time.perf_counter()]

    def lap() -> float:
        laps.append(time.perf_counter())
        return laps[-1] - laps[-2]

    found: dict[str, float] = {}
    index = open_index_file(path, check=False)
    found["open_s"] = lap()
    buckets = learn_buckets(index.index.size, 8, resolutions=_SCHEDULE.resolutions, stride=32)
    found["learn_s"] = lap()
    layout = lay_out(index.index, buckets)
    found["lay_out_s"] = lap()
    options: dict[str, Any] = {"batch_size": ranks * batch, "shuffle": True, "world_size": ranks}
    plan = BlockPlan(layout, _SCHEDULE, **options)
    rank = plan.rank(World(ranks // 2, ranks))
    rank.batch(0)
    found["first_batch_s"] = lap()
    found["file_mib"] = (status("RssFile") - file_before) / 2**20
    later = BlockPlan(layout, _SCHEDULE, epoch=7, **options).rank(World(ranks // 2, ranks))
    later.batch(len(plan) // 2)
    found["jump_s"] = lap()
    blocks, worked = min(plan.blocks, 6), time.process_time()
    plan = BlockPlan(layout, _SCHEDULE, epoch=3, **options)
    for number in range(blocks):
        plan.block(number)
    found["block_s"], found["block_cpu_s"] = lap() / blocks, (time.process_time() - worked) / blocks
    rank = plan.rank(World(ranks // 2, ranks))
    last = min(blocks * BLOCK // (ranks * batch), len(plan)) - 1  # in the block that is kept
    lap()
    for _ in range(1000):
        rank.batch(last)
    found["step_us"] = lap() * 1e3
    found["blocks"], found["steps"] = plan.blocks, len(plan)
    found["memory_mib"] = peak.stop()
    return found | stretches(plan, index.index, hosts)


def stretches(plan: BlockPlan, index: Index, hosts: int) -> dict[str, float]:
    """How the samples that a host reads in a block lie in shards: stretches of neighbours, and single ones."""
    if plan.blocks == 1:  # shuffled as one, each sample by itself
        return {"stretches": 0.0, "single": 1.0}
    block = plan.block(0)
    steps, batch = len(block), int(block.offsets[1])
    whole = block.sample_ids[: block.offsets[steps - 1]].reshape(-1, hosts, batch // hosts)
    counts, single, total = [], 0, 0
    for host in range(0, hosts, max(1, hosts // 16)):
        rows = np.sort(whole[:, host].reshape(-1))
        # Neighbours lie at most so far apart, as most samples of a stretch are read by one host.
        cut = np.flatnonzero((np.diff(rows) > 64) | (np.diff(index.shard[rows]) > 0))
        lengths = np.diff(np.concatenate([[-1], cut, [len(rows) - 1]]))
        counts.append(int((lengths > 32).sum()))
        single += int(lengths[lengths <= 32].sum())
        total += len(rows)
    return {"stretches": float(np.mean(counts)), "single": single / total}


def computed(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """What `--plan-for` samples come to, from the row with the most samples."""
    row, n = rows[-1], options.plan_for
    blocks = math.ceil(n / BLOCK)
    rate = options.ranks * options.rate
    block_s = BLOCK / rate
    per_host = row["stretches"], BLOCK * row["single"] / options.hosts
    part = max(1.0, BLOCK / options.hosts * options.sample_bytes / max(row["stretches"], 1) / options.part)
    # The runs' order and cuts are all that grows with n in a rank's memory: a permutation, cuts, ends.
    runs = n / 4096
    return {
        "samples": n,
        "ranks": options.ranks,
        "index_bytes": row["index_bytes"] / row["samples"] * n,
        "size_column_bytes": 8 * n,
        "data_bytes": n * options.sample_bytes,
        "blocks": blocks,
        "plan_cpu_s_per_rank": blocks * row["block_cpu_s"],
        "epoch_s": n / rate,
        "first_batch_s": row["learn_s"] + row["lay_out_s"] * n / row["samples"] + row["first_batch_s"],
        "memory_mib": row["memory_mib"] + 40 * (runs - row["samples"] / 4096) / 2**20,
        "one_request_a_sample_per_s": rate,
        "requests_per_s": options.hosts * (per_host[0] * part + per_host[1]) / block_s,
        "of_them_single_per_s": options.hosts * per_host[1] / block_s,
        "bytes_per_s_per_host": rate * options.sample_bytes / options.hosts,
        "pieces_per_s": rate * options.sample_bytes / options.piece + options.hosts * per_host[1] / block_s,
        "bytes_of_pieces_per_s_per_host": rate * options.sample_bytes / options.hosts
        + options.piece * per_host[1] / block_s,
    }


def main() -> None:
    """Measure, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--plan-for", type=int, default=1_000_000_000)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--hosts", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32, help="of a rank")
    parser.add_argument("--rate", type=float, default=500, help="images a second and rank")
    parser.add_argument("--shard-samples", type=int, default=2000)
    parser.add_argument("--sample-bytes", type=int, default=112_640)
    parser.add_argument("--part", type=int, default=64 << 20, help="most bytes of a request")
    parser.add_argument("--piece", type=int, default=4 << 20, help="bytes of a piece that a cache keeps")
    parser.add_argument("--folder", type=Path, help="where the index lies meanwhile")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help="measure this index in this process and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.ranks, options.batch_size, options.hosts)))
        return
    rows = []
    for n in options.samples:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = write_made_up(Path(folder), n, options.shard_samples, options.sample_bytes)
            command = [sys.executable, __file__, "--one", path, "--ranks", options.ranks]
            command += ["--batch-size", options.batch_size, "--hosts", options.hosts]
            done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
            rows.append({"samples": n, "index_bytes": path.stat().st_size} | json.loads(done.stdout))
        print("  ".join(f"{name} {value:,.6g}" for name, value in rows[-1].items()), flush=True)
    billion = computed(rows, options)
    print("computed:  " + "  ".join(f"{name} {value:,.6g}" for name, value in billion.items()))
    if options.json:
        known = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "lanes": LANES}
        paths = ("json", "folder", "one")
        asked = {name: value for name, value in vars(options).items() if name not in paths}
        options.json.write_text(
            json.dumps({"asked": asked, "where": known, "rows": rows, "computed": billion}, indent=1)
        )


if __name__ == "__main__":
    main()
