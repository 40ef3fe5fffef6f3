"""Resflow beside its peers on a CPU: `python benchmarks/peers.py [--quick] [--json FILE] [--plot FILE]`.

One command makes an environment for each peer that needs one (below --cache, outside the project), writes the images
in each peer's own format, and runs all contestants in turn: each run in a fresh process, the order turned from round to
round, so that whatever disturbs the machine disturbs all alike. Ratios are taken within a round; what is printed is
their median. A contestant that cannot be installed or fails is named with the reason, and the others run.

Equal work: batches of 64 of uint8 images and labels. Training tasks are shuffled, RandomResizedCrop(scale=(0.25, 1)) to
S x S, antialiased bilinear, horizontal flip; `val` tasks resize the whole image to S x S, in order; `progressive` goes
from 128 to 224 pixels by Linear(128, 224) over its epochs. Each run checks shape and dtype of each batch and that every
sample comes once in each pass; `val` also checks the pixels against Pillow's.

A run makes one warm pass (`progressive`: at its first size), which is not timed, then the passes that are: from the end
of the warm pass to the end of the last, so the start of later passes counts. Files are in the system's cache.

- CPU ms: processor time an image took in the timed passes, summed over the process tree: the figure to look at where
  others use the machine, too;
- kB read: thousands of bytes an image that the process tree read by system calls in the timed passes; those of files
  mapped into memory (torch-tensor, DALI, FFCV) are not among them;
- first batch: seconds from the making of the loader to its first batch, libraries imported;
- from start: the same from the start of the process;
- MiB: proportional set size (PSS), summed over the process tree, at its highest; looked at every 0.1 s until the warm
  pass has ended and every second while time counts. Own: without pages that files back (libraries, mapped data).

`resflow-tiers` reads shards with smaller copies of the images beside them, which no other does: Resflow
on images as they are is `resflow-threads` and `resflow-workers`. `decode-full`, `decode-scaled` and `decode-crop` are
limits, not loaders: libjpeg-turbo in as many threads, its pixels thrown away; `decode-crop` decodes the drawn windows
and resizes them, in C.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contestants import CONTESTANTS, Contestant
from contestants.child import Failed, run
from contestants.environment import interpreter, versions
from contestants.images import image_set
from contestants.job import Job
from contestants.report import Run, machine, plot, summary, table

from resflow.schedules import Linear


class Task(NamedTuple):
    """Images and what becomes of them: samples and epochs of a run, and of a quick one."""

    images: str
    size: int
    train: bool = True
    start: int | None = None  # progressive from here
    samples: tuple[int, int] = (1024, 512)
    epochs: tuple[int, int] = (2, 1)
    batch_size: int = 64

    def job(self, cache: Path, quick: bool, workers: int) -> Job:
        """The job, its images made where they are missing."""
        samples, epochs = self.samples[quick], self.epochs[quick]
        sizes = [self.size] * epochs
        if self.start is not None:
            used = np.arange(epochs, dtype=np.int64) * samples
            sizes = Linear(self.start, self.size, epochs)(used, samples, 0).tolist()
        folder = image_set(self.images, samples, cache)
        return Job(str(folder), self.train, (sizes[0], *sizes), batch_size=self.batch_size, workers=workers)


_COCO: dict[str, Any] = {"samples": (640, 192)}
_PHOTOS: dict[str, Any] = {"samples": (96, 32), "epochs": (1, 1), "batch_size": 16}
_DRAWN: dict[str, Any] = {"samples": (64, 64), "epochs": (1, 1), "batch_size": 16}
TASKS = {
    "imagenet-224": Task("imagenet", 224),
    "imagenet-128": Task("imagenet", 128),
    "imagenet-val-224": Task("imagenet", 224, train=False),
    "imagenet-val-160": Task("imagenet", 160, train=False),
    "imagenet-progressive": Task("imagenet", 224, start=128, samples=(384, 256), epochs=(16, 4)),
    "coco-224": Task("coco", 224, **_COCO),
    "coco-128": Task("coco", 128, **_COCO),
    "photos-224": Task("photos", 224, **_PHOTOS | {"samples": (160, 32)}),  # tiers need less than a second even so
    "photos-val-224": Task("photos", 224, train=False, **_PHOTOS),
    "drawn-96": Task("drawn", 96, **_DRAWN),
    "drawn-val-96": Task("drawn", 96, train=False, **_DRAWN),
    "drawn-progressive": Task("drawn", 96, start=64, **_DRAWN | {"epochs": (4, 4)}),
}
REHEARSAL = ("drawn-96", "drawn-val-96", "drawn-progressive")
"""Tasks that are run only when they are asked for."""


class Bench:
    """Runs tasks, and keeps what ran and what failed.

    Args:
        cache: where environments and images are kept.
        workers: processes or threads of each contestant.
        quick: short runs.
    """

    def __init__(self, cache: Path, workers: int, quick: bool) -> None:
        self.cache, self.workers, self.quick = cache.expanduser().resolve(), workers, quick
        self.runs: list[Run] = []
        self.failed: list[dict[str, str]] = []
        self.ready: dict[str, Path] = {}
        self.versions: dict[str, dict[str, str]] = {}

    def install(self, chosen: Sequence[Contestant]) -> None:
        """Make the environments."""
        for contestant in chosen:
            try:
                self.ready[contestant.name] = python = interpreter(contestant, self.cache)
                self.versions[contestant.name] = versions(contestant, python)
            except Failed as error:
                self._fail(contestant, "installation", error)

    def run(self, name: str, rounds: int) -> None:
        """Run a task."""
        job = TASKS[name].job(self.cache, self.quick, self.workers)
        running = [contestant for contestant in self.ready if self._prepare(name, CONTESTANTS[contestant], job)]
        for number in range(rounds):
            turn = number % max(1, len(running))
            for contestant in [*running[turn:], *running[:turn]]:
                load = os.getloadavg()[0]
                try:
                    result = self._start(CONTESTANTS[contestant], job)
                except Failed as error:
                    self._fail(CONTESTANTS[contestant], name, error)
                    running.remove(contestant)
                    continue
                rate = result["samples"] / result["seconds"]
                self.runs.append(result | {"task": name, "contestant": contestant, "round": number} | {"rate": rate})
                self.runs[-1]["load"] = load
                print(f"    {name}, round {number + 1}: {contestant} {rate:,.0f} img/s", file=sys.stderr, flush=True)

    def _prepare(self, task: str, contestant: Contestant, job: Job) -> bool:
        """Write the images in a contestant's own format, once."""
        ready = Path(job.folder) / f"{contestant.module}.ready"
        if contestant.own_format and not ready.exists():
            own = job.own(contestant.module)
            try:
                if own.exists():
                    raise Failed(f"{own} is there, but was not finished; remove it")
                self._start(contestant, job, "prepare")
            except Failed as error:
                self._fail(contestant, task, error)
                return False
            ready.touch()
        return True

    def _start(self, contestant: Contestant, job: Job, *arguments: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "job.json"
            dataclasses.replace(job, options=contestant.options).save(path)
            log = self.cache / f"{contestant.name}.log"
            return run(self.ready[contestant.name], [contestant.module, str(path), *arguments], log)

    def _fail(self, contestant: Contestant, task: str, error: Failed) -> None:
        hint = f" (needs: apt-get install {' '.join(contestant.system)})" if contestant.system else ""
        self.failed.append({"contestant": contestant.name, "task": task, "reason": f"{error}{hint}"})
        print(f"    {contestant.name} failed at {task}: {error}{hint}", file=sys.stderr, flush=True)

    def keep(self, earlier: dict[str, Any], tasks: Sequence[str]) -> None:
        """Take the runs of other tasks from an earlier file of the same machine, options and versions."""
        same = earlier["machine"] == machine() and earlier["options"]["workers"] == self.workers
        found = {name: one["versions"] for name, one in earlier["contestants"].items()}
        differing = [name for name, versions in self.versions.items() if found.get(name, versions) != versions]
        if not same or earlier["options"]["quick"] != self.quick or differing:
            raise Failed("the file's runs are of another machine, other options or versions; write another file")
        self.versions = found | self.versions
        self.runs = [run for run in earlier["runs"] if run["task"] not in tasks]
        self.failed = [one for one in earlier["failed"] if one["task"] not in tasks]

    def results(self, rounds: int) -> dict[str, Any]:
        """All that is known, for JSON."""
        return {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "machine": machine(),
            "options": {"workers": self.workers, "quick": self.quick, "rounds": rounds},
            "contestants": {
                name: {"what": CONTESTANTS[name].what, "versions": found} for name, found in self.versions.items()
            },
            "failed": self.failed,
            "summary": summary(self.runs),
            "runs": self.runs,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for and print tables; 1 where nothing ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
    usual = [name for name in TASKS if name not in REHEARSAL]
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=usual, metavar="TASK")
    parser.add_argument("--rounds", type=int, help="default: 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="short runs: does everything work; no figures to report")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/resflow-bench"))
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--append", action="store_true", help="keep the other tasks that the --json file has")
    parser.add_argument("--plot", type=Path, help="draw the ratios here (.png, .svg)")
    parser.add_argument("--list", action="store_true", help="name contestants and tasks, and end")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that a run under way is ended, too
    if options.list:
        print("\n".join(f"{name:<18}{one.what}" for name, one in CONTESTANTS.items()), "\n\n", *usual)
        return 0
    rounds = options.rounds or (1 if options.quick else 5)
    bench = Bench(options.cache, options.workers, options.quick)
    bench.cache.mkdir(parents=True, exist_ok=True)
    bench.install([CONTESTANTS[name] for name in options.contestants])
    if options.append and options.json and options.json.exists():
        try:
            bench.keep(json.loads(options.json.read_text()), options.tasks)
        except Failed as error:
            parser.error(str(error))
    for task in options.tasks:
        try:
            bench.run(task, rounds)
        except Failed as error:
            print(f"    {task} left out: {error}", file=sys.stderr)
            continue
        records = [record for record in summary(bench.runs) if record["task"] == task]
        if records:
            print(table(records), end="\n\n", flush=True)
        if options.json:  # after each task, so that a run that is cut short leaves what it has
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(bench.results(rounds), indent=1))
    for failure in bench.failed:
        print(f"{failure['contestant']} did not take part in {failure['task']}: {failure['reason']}")
    if options.plot and bench.runs:
        plot(summary(bench.runs), options.plot)
    return 0 if bench.runs else 1


if __name__ == "__main__":
    raise SystemExit(main())
