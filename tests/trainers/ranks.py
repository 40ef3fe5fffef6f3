"""Runs a function in several real processes, as torchrun would start them, and returns what each gave.

The trainers take long to import, so one process imports them and the ranks are forked from it.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import socket
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.data import answer

ROOT = Path(__file__).parents[2]
_TIMEOUT = 120


def in_ranks(module: str, jobs: list[tuple[str, int]], data: Path) -> dict[str, list[Any]]:
    """Run functions of a module, each in processes of its own.

    Args:
        module: whose functions take the folder of the data and return JSON values.
        jobs: name of a function, and number of ranks.
        data: the folder.

    Returns:
        By "function/ranks": what each rank returned.
    """
    results: dict[str, list[Any]] = answer("tests.trainers.ranks", module, json.dumps(jobs), str(data))
    return results


def _rank(pipe: Connection, module: str, name: str, data: Path) -> None:
    try:
        pipe.send(getattr(importlib.import_module(module), name)(data))
    except BaseException:
        pipe.send(RuntimeError(traceback.format_exc()))
        raise


def _run(module: str, name: str, size: int, data: Path) -> list[Any]:
    fork = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests", "TORCHELASTIC_RESTART_COUNT": 0}
    processes, pipes = [], []
    for rank in range(size):
        here, there = fork.Pipe(duplex=False)
        for variable, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items():
            os.environ[variable] = str(value)
        process = fork.Process(target=_rank, args=(there, module, name, data))
        process.start()
        there.close()
        processes.append(process)
        pipes.append(here)
    results: list[Any] = []
    try:
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(_TIMEOUT):
                raise RuntimeError(f"{name}: rank {rank} of {size} gave nothing in {_TIMEOUT} s")
            results.append(pipe.recv())
            if isinstance(results[-1], Exception):
                raise results[-1]
    except BaseException:
        for process in processes:
            process.kill()
        raise
    for process in processes:
        process.join()
    return results


def _main() -> None:
    module, jobs, data = sys.argv[1:]
    importlib.import_module(module)
    results = {f"{name}/{size}": _run(module, name, size, Path(data)) for name, size in json.loads(jobs)}
    print(json.dumps(results))


if __name__ == "__main__":
    _main()
