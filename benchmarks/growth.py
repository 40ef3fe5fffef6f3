"""How the loader grows: `python benchmarks/growth.py [--quick] [--json FILE]`.

Images a second, seconds to the first batch and memory against worker processes, batch size, samples of the dataset and
number of buckets, each by itself, the others as they usually are (2 workers, batches of 64, 8 buckets, the images of
imagenet500 once). RandomResizedCrop(0.25 to 1) to 128, flip, uint8. A dataset of more samples than there are images is
an index whose rows point at the same bytes again and again. Then, for each size of dataset, what planning takes: bytes
of index and plan a sample, peak of memory, and seconds.

Each point is a process of its own. What is timed begins when the batches that were made ahead are used up; of several
rounds, points in turn, the fastest counts, as others may use the machine.

A last table tells whether anything grows worse than linearly: of all pairs of points, the one where a figure grew most
against what it may grow by, which must not exceed the tolerance:

- seconds and processor seconds an image: not at all with batch size, samples, buckets (so an epoch's time is linear in
  its samples) and workers up to the number of cores;
- seconds to the first batch, seconds of planning, memory, bytes of index and plan: in proportion.

Ends with 1 if one does. `--quick`: two points on drawn images in one process; seconds are not judged.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
from contestants.images import image_set
from contestants.report import machine
from scale import Peak

import resflow as rf
from resflow.plan import Index, Linear, group_samples, learn_buckets, plan_epoch
from resflow.sources.index_build import build_index
from resflow.sources.index_file import ShardIndex, open_index_file, write_index
from resflow.sources.index_lookup import index_path

_USUAL = {"workers": 2, "batch": 64, "samples": 500, "buckets": 8}
_AXES = {
    "workers": (1, 2, 3, 4),
    "batch": (8, 16, 32, 64, 128, 256, 512),
    "samples": (500, 4000, 32_000, 250_000, 1_000_000),
    "buckets": (1, 2, 4, 8, 16, 32),
}
_QUICK_USUAL = {"workers": 1, "batch": 16, "samples": 64, "buckets": 2}
_QUICK_AXES: dict[str, tuple[int, ...]] = {"workers": (), "batch": (), "samples": (64, 8000), "buckets": ()}
_BATCH_SAMPLES = 8192  # of the dataset while batch size grows, lest most batches are an epoch's last
_AHEAD = 2  # batches that each worker makes ahead
_TIMED = ("image_s", "image_cpu_s", "first_batch_s", "plan_s")


class Law(NamedTuple):
    """A figure may grow with its axis by `ratio**power`, times a tolerance."""

    axis: str
    figure: str
    power: int
    tolerance: float = 1.5


LAWS = (
    Law("workers", "image_s", 0),
    Law("workers", "image_cpu_s", 0),
    Law("workers", "memory", 1),
    Law("batch", "image_s", 0),
    Law("batch", "image_cpu_s", 0),
    Law("batch", "first_batch_s", 1),
    Law("batch", "memory", 1),
    Law("samples", "image_s", 0),
    Law("samples", "image_cpu_s", 0),
    Law("samples", "first_batch_s", 1),
    Law("samples", "memory", 1),
    Law("samples", "plan_s", 1),
    Law("samples", "plan_memory", 1),
    Law("samples", "index_bytes", 1, 1.1),
    Law("samples", "plan_bytes", 1, 1.1),
    Law("buckets", "image_s", 0),
    Law("buckets", "image_cpu_s", 0),
    Law("buckets", "first_batch_s", 1),
    Law("buckets", "memory", 1),
)


def repeated(shards: Sequence[str], samples: int, folder: Path) -> list[str]:
    """Shards linked into a folder, beside an index of as many rows, which point at the same samples over and over."""
    folder.mkdir()
    for shard in map(Path, shards):
        os.link(shard, folder / shard.name)
    linked = sorted(map(str, folder.glob("*.tar")))
    whole = build_index(linked, workers=1)
    rows = np.arange(samples) * len(whole) // samples  # in the shards' order
    one = whole.index
    columns = (column[rows] for column in (one.shard, one.offset, one.length, one.size))
    index = Index(*columns, fingerprint=f"{one.fingerprint} of {samples}")
    keys = whole.keys.take(pa.array(rows))
    places = whole.image_offset[rows], whole.image_length[rows]
    write_index(ShardIndex(index, keys, *places, whole.shards, whole.shard_sizes), index_path(linked))
    return linked


def throughput(shards: list[str], point: dict[str, int], seconds: float) -> dict[str, float]:
    """Images a second of one loader, seconds to its first batch, and bytes of memory of its process tree."""
    pipeline = rf.Pipeline(
        resolution=128,
        buckets=point["buckets"],
        views=[rf.views.RandomResizedCrop(scale=(0.25, 1.0)), rf.views.HorizontalFlip()],
        normalize=None,
    )
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # more processes than cores
    start = time.perf_counter()
    loader = rf.DataLoader(
        shards,
        batch_size=point["batch"],
        shuffle=True,
        num_workers=point["workers"],
        prefetch_factor=_AHEAD,
        persistent_workers=True,
        pipeline=pipeline,
    )

    def endless() -> Any:
        for epoch in itertools.count():
            loader.set_epoch(epoch)
            yield from loader

    batches = endless()
    next(batches)
    first = time.perf_counter() - start
    for _ in range(_AHEAD * point["workers"]):
        next(batches)
    worked, seen, begin = _processor_seconds(), 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds or not seen:
        seen += len(next(batches))
    worked = _processor_seconds() - worked
    this = psutil.Process()
    memory = sum(one.memory_full_info().pss for one in (this, *this.children(recursive=True)))
    batches.close()
    return {"image_s": spent / seen, "image_cpu_s": worked / seen, "first_batch_s": first, "memory": memory}


def _processor_seconds() -> float:
    """Of this process and its workers, which live on from pass to pass."""
    this = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (this, *this.children(recursive=True)))


def planning(shards: list[str]) -> dict[str, float]:
    """Bytes and seconds of planning one epoch over an index on disk."""
    path = index_path(shards)
    schedule, peak = Linear(128, 224, epochs=16), Peak()
    peak.start()
    start = time.perf_counter()
    size = open_index_file(path).index.size
    buckets = learn_buckets(size, 8, resolutions=schedule.resolutions, stride=32)
    grouping = group_samples(size, buckets)
    plan = plan_epoch(grouping, schedule, batch_size=64, seed=0, epoch=3, shuffle=True)
    spent = time.perf_counter() - start
    memory = peak.stop() * 2**20
    kept = (plan.sample_ids, plan.offsets, plan.shapes, plan.resolutions, grouping.order, grouping.ends)
    return {
        "plan_s": spent,
        "plan_memory": memory,
        "plan_bytes": sum(column.nbytes for column in kept),
        "index_bytes": path.stat().st_size,
    }


def points(axes: dict[str, tuple[int, ...]], usual: dict[str, int]) -> list[dict[str, Any]]:
    """What is measured: an axis, and settings that differ from the usual ones along it."""
    found: list[dict[str, Any]] = []
    for axis, values in axes.items():
        base = usual | ({"samples": _BATCH_SAMPLES} if axis == "batch" else {})
        found += [{"axis": axis} | base | {axis: value} for value in values]
    return found


def judged(measured: Sequence[dict[str, Any]], quick: bool) -> list[dict[str, Any]]:
    """For each law the pair of points where its figure grew most, and whether that is within the tolerance."""
    cores, checks = len(os.sched_getaffinity(0)), []
    for law in LAWS:
        rows = [row for row in measured if row["axis"] == law.axis]
        if law.axis == "workers" and law.figure in _TIMED:
            rows = [row for row in rows if row["workers"] <= cores]
        pairs = list(itertools.combinations(rows, 2))
        if not pairs or (quick and law.figure in _TIMED):
            continue
        grew = [b[law.figure] / a[law.figure] / (b[law.axis] / a[law.axis]) ** law.power for a, b in pairs]
        worst = int(np.argmax(grew))
        (a, b), most = pairs[worst], grew[worst]
        checks.append(law._asdict() | {"from": a[law.axis], "to": b[law.axis], "grew": most})
        checks[-1]["passed"] = bool(most <= law.tolerance)
    return checks


def tables(measured: Sequence[dict[str, Any]], checks: Sequence[dict[str, Any]]) -> str:
    """All as Markdown."""
    lines = []
    for axis in dict.fromkeys(row["axis"] for row in measured):
        lines += [f"| {axis} | images a second | processor ms an image | first batch, s | memory, MiB |"]
        lines.append("|---|---|---|---|---|")
        for row in measured:
            if row["axis"] == axis:
                cells = [f"{row[axis]:,}", f"{1 / row['image_s']:,.0f}", f"{1e3 * row['image_cpu_s']:.2f}"]
                cells += [f"{row['first_batch_s']:.2f}", f"{row['memory'] / 2**20:,.0f}"]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += ["| samples | index, bytes a sample | plan, bytes a sample | peak of planning, MiB | planning, s |"]
    lines.append("|---|---|---|---|---|")
    for row in measured:
        if row["axis"] == "samples":
            each = (row[name] / row["samples"] for name in ("index_bytes", "plan_bytes"))
            cells = [f"{row['samples']:,}", *(f"{value:,.1f}" for value in each)]
            lines.append(f"| {' | '.join(cells)} | {row['plan_memory'] / 2**20:,.1f} | {row['plan_s']:.3f} |")
    lines += ["", "| figure | against | grows at most | worst, of that | between | |", "|---|---|---|---|---|---|"]
    for check in checks:
        law = "in proportion" if check["power"] else "not"
        verdict = "passed" if check["passed"] else f"FAILED, tolerance {check['tolerance']}"
        where = f"{check['from']:,} and {check['to']:,}"
        lines.append(f"| {check['figure']} | {check['axis']} | {law} | {check['grew']:.2f} | {where} | {verdict} |")
    return "\n".join(lines)


def measure(
    shards: Sequence[str], asked: Sequence[dict[str, Any]], rounds: int, seconds: float, fresh: bool
) -> list[dict[str, Any]]:
    """All points, each round in turn, in fresh processes or in this one; of seconds the least, of bytes the most."""
    measured: list[dict[str, Any]] = [dict(point) for point in asked]
    with tempfile.TemporaryDirectory(dir=Path(shards[0]).parents[1]) as folder:  # where files can be linked
        ready: dict[int, list[str]] = {}
        for turn in range(rounds):
            for row in measured:
                samples = row["samples"]
                if samples not in ready:
                    ready[samples] = repeated(shards, samples, Path(folder) / str(samples))
                what = {"shards": ready[samples], "point": row, "seconds": seconds}
                for name, value in (_in_fresh_process(what) if fresh else one(**what)).items():
                    least = min if name in _TIMED else max
                    row[name] = least(row.get(name, value), value)
                told = f"{row['axis']} {row[row['axis']]:,}: {1 / row['image_s']:,.0f} img/s"
                print(f"    round {turn + 1}, {told}", file=sys.stderr, flush=True)
    return measured


def one(shards: list[str], point: dict[str, Any], seconds: float) -> dict[str, float]:
    """The figures of one point."""
    planned = planning(shards) if point["axis"] == "samples" else {}
    return planned | throughput(shards, point, seconds)


def _in_fresh_process(what: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", json.dumps(what)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few points, drawn images; seconds are not judged")
    parser.add_argument("--rounds", type=int, help="default: 3, with --quick 1")
    parser.add_argument("--seconds", type=float, help="that count of each point; default: 3, with --quick 0.1")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/resflow-bench"))
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(**options.one)))
        return 0
    images, asked = ("imagenet", points(_AXES, _USUAL))
    if options.quick:
        images, asked = ("drawn", points(_QUICK_AXES, _QUICK_USUAL))
    folder = image_set(images, 64 if options.quick else 500, options.cache.expanduser().resolve())
    shards = sorted(map(str, (folder / "shards").glob("*.tar")))
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (0.1 if options.quick else 3.0)
    measured = measure(shards, asked, rounds, seconds, fresh=not options.quick)
    checks = judged(measured, options.quick)
    print(tables(measured, checks))
    if options.json:
        known = {"machine": machine(), "rounds": rounds, "quick": options.quick, "points": measured, "checks": checks}
        options.json.write_text(json.dumps(known, indent=1))
    return 0 if all(check["passed"] for check in checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
