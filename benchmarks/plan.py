"""Time and memory of planning one epoch: `python benchmarks/plan.py [--samples 1000000 10000000] [--buckets 8]`.

Each row is measured in a process of its own, from sizes in memory (in use they are mapped from the index) to the
plan of one shuffled epoch. `memory` is the peak resident memory of all this work less what was resident before it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resflow import testing
from resflow.plan import Linear, World, group_samples, learn_buckets, plan_epoch

_CHUNK = 1 << 20


def make_sizes(n: int) -> npt.NDArray[np.int32]:
    """int32 [n, 2]: sizes as photographs have them, a third at 4:3 or 3:2, either way up, the others of any
    ratio."""
    rng = np.random.default_rng(0)
    size = np.empty((n, 2), dtype=np.int32)
    for start in range(0, n, _CHUNK):
        part = size[start : start + _CHUNK]
        common = rng.choice([4 / 3, 3 / 2, 3 / 4, 2 / 3], len(part))
        ratio = np.where(rng.random(len(part)) < 1 / 3, common, np.exp(rng.normal(0.15, 0.35, len(part))))
        part[:, 0] = rng.integers(200, 2000, len(part))
        part[:, 1] = np.maximum(1, np.rint(part[:, 0] * ratio))
    return size


def measure(n: int, k: int, batch_size: int) -> dict[str, float]:
    """Seconds of each part and MiB of all."""
    size = make_sizes(n)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    wall, cpu = [time.perf_counter()], [time.process_time()]

    def lap() -> None:
        wall.append(time.perf_counter())
        cpu.append(time.process_time())

    schedule = Linear(128, 224, epochs=16)
    buckets = learn_buckets(size, k, resolutions=schedule.resolutions, stride=32)
    lap()
    grouping = group_samples(size, buckets)
    lap()
    plan = plan_epoch(grouping, schedule, batch_size=batch_size, seed=0, epoch=7, shuffle=True)
    lap()
    for _ in plan.rank(World(3, 8)):
        pass
    lap()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    testing.check_exactly_once(plan, n)
    parts = dict(zip(("learn", "group", "plan", "ranks"), np.diff(wall).tolist(), strict=True))
    return parts | {"wall": wall[3] - wall[1], "cpu": cpu[3] - cpu[1], "memory": (peak - resident) / 2**20}


def main() -> None:
    """Print a table, a row for each number of samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000_000, 2_000_000, 5_000_000, 10_000_000])
    parser.add_argument("--buckets", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--one", action="store_true", help="measure in this process and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.samples[0], options.buckets, options.batch_size)))
        return
    print("             seconds of each part                      an epoch's plan, with grouping")
    print("samples          learn     group      plan  one rank         wall s   CPU s  memory MiB")
    for n in options.samples:
        arguments = ["--one", "--samples", n, "--buckets", options.buckets, "--batch-size", options.batch_size]
        done = subprocess.run(
            [sys.executable, __file__, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
        )
        row = json.loads(done.stdout)
        parts = "".join(f"{row[name]:>10.2f}" for name in ("learn", "group", "plan", "ranks"))
        print(f"{n:<12,}{parts}     {row['wall']:>10.2f}{row['cpu']:>8.2f}{row['memory']:>12.0f}", flush=True)


if __name__ == "__main__":
    main()
