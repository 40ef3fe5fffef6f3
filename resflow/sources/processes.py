"""Work for processes, with the results in the order of the jobs."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from resflow.errors import WorkerError

Job = TypeVar("Job")
Result = TypeVar("Result")

_AHEAD = 4  # jobs a process that are under way or wait to be fetched


def ordered(work: Callable[[Job], Result], jobs: Iterable[Job], workers: int, what: str) -> Generator[Result]:
    """Results in the order of the jobs, whatever the number of workers; close it, so that its processes end.

    Args:
        work: a function of a module, as pickle wants it.
        jobs: what it is called with; taken as processes are free.
        workers: processes, at least 1; 1 works in this one.
        what: the processes do, for the error.

    Raises:
        WorkerError: a process died.
    """
    if workers == 1:
        yield from map(work, jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting: deque[Future[Result]] = deque()
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) >= workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerError(
            f"a process that {what} died. In a script, call this below `if __name__ == '__main__':`; or pass workers=1."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
