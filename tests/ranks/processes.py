"""Runs jobs of several ranks, each rank a process: `python -m tests.ranks.processes JOBS`, a JSON list of `Job` fields.

One process imports everything once and forks the ranks, which meet over a file. What each rank gives is printed as
JSON, last line, job by job.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed

import resflow as rf
import resflow.decode.turbo  # once, before the ranks are forked
from tests.data import answer

ROOT = Path(__file__).parents[2]
_TIMEOUT = 60  # seconds until a rank must have given what it has
TIMEOUT = 3  # seconds that ranks wait for each other where one is to die


@dataclass(frozen=True)
class Job:
    """What several ranks do together.

    Args:
        data: pattern of shards.
        world: ranks.
        told: where the loader has its rank from: "distributed", "environment" or "argument".
        batch: samples of a global batch.
        steps: batches after which the ranks stop; None: at the end of the epoch.
        goes_on: whether to resume where the job before it stopped.
        fault: what becomes of the last rank after two batches: "killed" or "stopped".
    """

    data: str
    world: int
    told: str = "distributed"
    batch: int = 12
    steps: int | None = None
    goes_on: bool = False
    fault: str | None = None


def run_jobs(jobs: Sequence[Job]) -> list[list[dict[str, Any]]]:
    """What each rank of each job gave."""
    results: list[list[dict[str, Any]]] = answer("tests.ranks.processes", json.dumps([asdict(job) for job in jobs]))
    return results


def make_loader(job: Job, rank: int) -> rf.DataLoader:
    return rf.DataLoader(
        job.data,
        batch_size=job.batch // job.world,
        shuffle=True,
        num_workers=2 if job.fault else 1,
        seed=7,
        world=rf.World(rank, job.world) if job.told == "argument" else None,
        pipeline=rf.Pipeline(resolution=32, buckets=3, stride=16, targets=None),
    )


def act(job: Job, rank: int, state: str | None, pipe: Connection) -> dict[str, Any]:
    """One rank: walks the loader and tells the others of each batch."""
    loader = make_loader(job, rank)
    if state is not None:
        loader.load_state_dict(json.loads(state))
    first = loader.state_dict()["step"]
    steps: list[Any] = []
    agree = []
    started = time.monotonic()
    try:
        for step, batch in enumerate(itertools.islice(loader, job.steps), first):
            steps.append((loader.epoch, step, batch.sample_ids.tolist(), list(batch.images.shape[2:])))
            if job.fault and step == 2:
                pipe.send([child.pid for child in psutil.Process().children(recursive=True)])
                if rank == job.world - 1:
                    signal.raise_signal(signal.SIGKILL if job.fault == "killed" else signal.SIGSTOP)
                started = time.monotonic()
            shapes = [torch.zeros(2, dtype=torch.int64) for _ in range(job.world)]
            torch.distributed.all_gather(shapes, torch.tensor(batch.images.shape[2:]))
            agree.append(all(torch.equal(shape, shapes[0]) for shape in shapes))
    except RuntimeError as error:
        if job.fault is None:
            raise
        return {"error": str(error), "seconds": time.monotonic() - started, "steps": len(steps)}
    return {"steps": steps, "agree": all(agree), "length": len(loader), "state": json.dumps(loader.state_dict())}


def _rank(job: Job, rank: int, state: str | None, meeting: str, pipe: Connection) -> None:
    if job.told == "environment":
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(job.world)}
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=job.world,
            timeout=timedelta(seconds=TIMEOUT if job.fault else _TIMEOUT),
        )
        if job.told == "environment":  # not what the loader is to ask
            torch.distributed.is_initialized = lambda: False
        pipe.send(act(job, rank, state, pipe))
    except BaseException:
        pipe.send(traceback.format_exc())
        raise


def run(job: Job, state: str | None = None) -> list[dict[str, Any]]:
    """What each rank gives; of one that dies, what is left of it."""
    fork = multiprocessing.get_context("fork")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(job.world):
            here, there = fork.Pipe(duplex=False)
            process = fork.Process(target=_rank, args=(job, rank, state, f"{folder}/meeting", there))
            process.start()
            there.close()
            ranks.append((process, here))
        try:
            workers = [_received(pipe) for _, pipe in ranks] if job.fault else []
            for rank, (_, pipe) in enumerate(ranks):
                if job.fault and rank == job.world - 1:
                    results.append({"error": "", "seconds": 0.0, "steps": 0})
                else:
                    results.append(_received(pipe))
            if job.fault == "stopped":
                ranks[-1][0].kill()
            for process, _ in ranks[: -1 if job.fault else None]:
                process.join(_TIMEOUT)
            for rank, pids in enumerate(workers):
                results[rank] |= _left(ranks[rank][0].pid, pids)
        finally:
            for process, _ in ranks:
                if process.is_alive():
                    process.kill()
                process.join()
    return results


def _received(pipe: Connection) -> Any:
    if not pipe.poll(_TIMEOUT):
        raise RuntimeError(f"a rank gave nothing in {_TIMEOUT} s")
    result = pipe.recv()
    if isinstance(result, str):
        raise RuntimeError(result)
    return result


def _left(pid: int | None, workers: list[int]) -> dict[str, Any]:
    """What a rank that ended left behind: workers that live, once they had time to notice, and shared memory."""
    alive = []
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            alive.append(psutil.Process(worker))
    _, living = psutil.wait_procs(alive, timeout=12)
    owners = {str(number) for number in (pid, *workers)}
    shared = [name.name for name in Path("/dev/shm").iterdir() if owners & set(name.name.split("_"))]
    return {"workers": len(workers), "living": [process.pid for process in living], "shared": shared}


def _main() -> None:
    results: list[list[dict[str, Any]]] = []
    for fields in json.loads(sys.argv[1]):
        job = Job(**fields)
        results.append(run(job, results[-1][0]["state"] if job.goes_on else None))
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    _main()
