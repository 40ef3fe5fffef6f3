"""Load for an hour while things go wrong, and compare what was handed out: `python benchmarks/soak.py --minutes 60`.

Some ranks, loaders of one process with two workers each, go through epochs of drawn shards in step. At random a worker
is killed (SIGKILL) or stopped (SIGSTOP, met by the loaders' timeout), the ranks end in mid-epoch, and others go on from
the last state: another number of them (1, 2, 3, 4, 6), shards on disk or from a server that drops connections or fails
two of three requests. A step counts once all ranks have their part of it, as in a training that saves its state at each
step; what was handed out of a step that did not come to its end is handed out again.

The oracle is the plan of one rank without any fault: at the end the ordered list of sample numbers of all steps that
counted must be that of the plan, batch by batch. Each sample brings its own number as its class, which
is checked, too. After each leg no process and no shared memory may be left, and file descriptors may not grow from leg
to leg (a connection to the server may be kept).

`--plant lost`, `repeated` or `reordered` tampers with one sample of what was handed out: the check must see it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

import resflow as rf
from benchmarks.worker_faults import Belongings
from resflow.errors import ResflowError, WorkerError
from resflow.sources import ShardSource, Store, build_index, index_path, write_index, write_shards

SAMPLES, GLOBAL_BATCH, WORLDS = 205, 12, (1, 2, 3, 4, 6)
FAULTS = ("kill", "stop", "leave", "end")
PLANTS = ("lost", "repeated", "reordered")
_TIMEOUT = 5  # seconds until a worker that stands still is given up

Ledger: TypeAlias = list[tuple[int, int, list[int]]]
"""Epoch, step and sample numbers of each global batch that counted, in order."""


@dataclass
class Tally:
    """What happened."""

    legs: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


def check(ledger: Ledger, expected: Ledger) -> None:
    """Check that what was handed out is what the plan says, in its order.

    Raises:
        AssertionError: names samples that are lost or repeated, else the first batch out of order.
    """
    wanted, found = (Counter((e, n) for e, _, batch in one for n in batch) for one in (expected, ledger))
    for what, samples in (("lost", wanted - found), ("repeated", found - wanted)):
        if samples:
            epoch, number = min(samples)
            raise AssertionError(f"{samples.total()} samples are {what}, the first is {number} in epoch {epoch}")
    for due, got in zip_longest(expected, ledger):
        if due != got:
            raise AssertionError(f"out of order: {due} is due; got {got}")


def planted(ledger: Ledger, what: str, rng: random.Random) -> Ledger:
    """A ledger with one fault: a sample lost, repeated in its batch, or changed with its neighbour."""
    copy = [(epoch, step, list(batch)) for epoch, step, batch in ledger]
    batch = rng.choice([batch for _, _, batch in copy if len(batch) > 1])
    place = rng.randrange(len(batch) - 1)
    if what == "lost":
        del batch[place]
    elif what == "repeated":
        batch.insert(place, batch[place])
    else:
        batch[place], batch[place + 1] = batch[place + 1], batch[place]
    return copy


class Soak:
    """Ranks that go through epochs while things go wrong.

    Args:
        folder: for shards.
        seed: of all that is random but the time at which signals arrive.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.pattern = _make_shards(folder)
        self.ledger: Ledger = []
        self.tally = Tally()
        self.state: str | None = None
        plain = ShardSource(self.pattern)
        self.numbers = [int(plain.name(number)[1]) for number in range(len(plain))]
        plain.close()
        for _ in self._loader(0, 1, self.pattern, timeout=300):  # what the first loop makes once stays
            pass
        gc.collect()
        self.before = Belongings()

    def run(self, seconds: float, server: str | None) -> None:
        """Leg after leg, until the time is over and an epoch is complete."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            how = self.rng.choice(("disk", "drop", "flaky") if server else ("disk",))
            self._leg(how, server, end)
            self.tally.memory.append(psutil.Process().memory_info().rss)

    def expected(self) -> Ledger:
        """What a single rank that nothing befalls is handed, as far as the ledger goes."""
        loader = self._loader(0, 1, self.pattern)
        batches: Ledger = []
        epoch = 0
        while len(batches) < len(self.ledger):
            plan = loader.plan(epoch)
            parts = np.split(plan.sample_ids, plan.offsets[1:-1])
            batches += [(epoch, step, part.tolist()) for step, part in enumerate(parts)]
            epoch += 1
        return batches[: len(self.ledger)]

    def _leg(self, how: str, server: str | None, end: float) -> None:
        """Some ranks from the last state to a fault that they do not outlive, or to the end of the epoch."""
        before = self.before
        world = self.rng.choice(WORLDS)
        where = self.pattern if how == "disk" else f"{server}/{how}/{Path(self.pattern).name}"
        self.tally.legs[f"{how}, {world} ranks"] += 1
        start = time.monotonic()
        try:
            self._pass([self._resumed(rank, world, where) for rank in range(world)], before, end)
        except ResflowError as error:
            self.tally.errors[type(error).__name__] += 1
            if not isinstance(error, WorkerError):
                print(f"{type(error).__name__}: {error}", flush=True)
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - start)
        left = before.more(wait=2)
        self.tally.descriptors.append(left.pop("descriptors", 0))
        self.tally.left += left

    def _resumed(self, rank: int, world: int, where: str) -> rf.DataLoader[Any]:
        loader = self._loader(rank, world, where)
        if self.state is not None:
            loader.load_state_dict(json.loads(self.state))
        return loader

    def _pass(self, loaders: Sequence[rf.DataLoader[Any]], before: Any, end: float) -> None:
        """The rest of an epoch, step by step; a fault at a random step."""
        fault, due = self.rng.choice(FAULTS), self.rng.randrange(1, 2 * len(loaders[0]) // 3)
        passes = [iter(loader) for loader in loaders]
        epoch = loaders[0].epoch
        for count in range(len(loaders[0]) + 1):
            if count == due and fault != "end":
                self.tally.faults[fault] += 1
                if fault == "leave":
                    return
                victim = self.rng.choice(sorted(before.new_children(), key=lambda process: process.pid)).pid
                os.kill(victim, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
            parts = [next(one, None) for one in passes]
            if parts[0] is None or None in parts:
                if parts != [None] * len(parts):
                    raise AssertionError("some ranks have ended, others have not")
                self.state = json.dumps(loaders[0].state_dict())
                return
            self._count(epoch, parts)
            self.state = json.dumps(loaders[0].state_dict())
            if time.monotonic() > end:
                return

    def _count(self, epoch: int, parts: Sequence[Any]) -> None:
        last = self.ledger[-1] if self.ledger else (-1, 0, [])
        step = last[1] + 1 if last[0] == epoch else 0
        shapes = {tuple(part.images.shape[2:]) for part in parts}
        if len(shapes) > 1:
            raise AssertionError(f"step {step} of epoch {epoch}: ranks have shapes {shapes}")
        numbers = [number for part in parts for number in part.sample_ids.tolist()]
        classes = [number for part in parts for number in part.targets.tolist()]
        if classes != [self.numbers[number] for number in numbers]:
            raise AssertionError(f"step {step} of epoch {epoch}: samples {numbers} have classes {classes}")
        self.ledger.append((epoch, step, numbers))

    def _loader(self, rank: int, world: int, where: str, *, timeout: float = _TIMEOUT) -> rf.DataLoader[Any]:
        store = Store(deadline=30, stall=5) if "://" in where else None
        return rf.DataLoader(
            ShardSource(where, store=store),
            batch_size=GLOBAL_BATCH // world,
            shuffle=True,
            num_workers=2,
            timeout=timeout if "://" not in where else 30,
            multiprocessing_context="fork",
            seed=5,
            world=rf.World(rank, world),
            pipeline=rf.Pipeline(resolution=64, buckets=3, stride=16),
        )


def _make_shards(folder: Path) -> str:
    from tests.shards import jpeg

    rng = np.random.default_rng(0)

    def drawn() -> Iterator[dict[str, object]]:
        for number in range(SAMPLES):
            height, width = rng.integers(40, 120, 2).tolist()
            yield {"__key__": f"{number:05d}", "jpg": jpeg(height, width, number), "cls": str(number)}

    paths = write_shards(drawn(), folder / "s-%03d.tar", max_samples=20)
    pattern = f"{folder}/s-{{000..{len(paths) - 1:03d}}}.tar"
    write_index(build_index(pattern, workers=1), index_path(pattern))
    return pattern


@contextmanager
def misbehaving_server(folder: Path) -> Iterator[str]:
    """The address of a server of a folder, a process of its own."""
    program = [sys.executable, "-c", _SERVER, str(folder)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


_SERVER = """
import sys, time
from pathlib import Path
from tests import servers
servers.DROP = 3000  # bytes until a connection breaks: fewer than most samples have
with servers.hostile_server(Path(sys.argv[1])) as server:
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    while True:
        time.sleep(60)
        server.requests.clear()
"""


def main() -> None:
    """Run, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", choices=PLANTS, help="tamper with what was handed out")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, misbehaving_server(Path(folder)) as server:
        soak = Soak(Path(folder), arguments.seed)
        start = time.monotonic()
        soak.run(arguments.minutes * 60, server)
        seconds = time.monotonic() - start
        ledger, tally = soak.ledger, soak.tally
        if arguments.plant:
            ledger = planted(ledger, arguments.plant, soak.rng)
        verdict = "every sample once, in order"
        try:
            check(ledger, soak.expected())
        except AssertionError as error:
            verdict = str(error)
    result = {
        "minutes": round(seconds / 60, 2),
        "seed": arguments.seed,
        "planted": arguments.plant,
        "verdict": verdict,
        "epochs": ledger[-1][0] if ledger else 0,
        "steps": len(ledger),
        "samples": sum(len(batch) for _, _, batch in ledger),
        "legs": dict(sorted(tally.legs.items())),
        "faults": dict(tally.faults),
        "errors": dict(tally.errors),
        "left": dict(tally.left),
        "descriptors_more_than_at_first": tally.descriptors[:: max(1, len(tally.descriptors) // 20)],
        "slowest_leg_s": round(tally.slowest, 1),
        "memory_mb": [round(tally.memory[place] / 1e6) for place in (0, len(tally.memory) // 2, -1)],
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(verdict != "every sample once, in order" or bool(tally.left) or max(tally.descriptors) > 3)


if __name__ == "__main__":
    from benchmarks import soak

    soak.main()
