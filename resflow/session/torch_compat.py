"""All private names of PyTorch's loader that Resflow touches, each with what is done where a version lacks it.

All were run with PyTorch 2.15 (`CHECKED`). What is missing is met when a pass begins: a warning says once what Resflow
does without it, and the pass goes on with what is public.

- Loader: `_iterator`, workers that persist (without it, they are not told apart from new ones). `_get_iterator`, with
  `_next_index` and `_reset` of iterators: a second pass at once, and resuming without a pipeline (without them,
  neither).
- Iterators: `_sampler_iter`, resuming with another number of workers (without it, with the same).
- Iterators over workers: `_workers`, `_workers_status`, `_shutdown`, `_shutdown_workers`, `_pin_memory`,
  `_worker_pids_set`, `_workers_done_event` and `_worker_result_queue`, with `torch._C._remove_worker_pids`: a worker's
  death is noticed at once (without them, as late as PyTorch notices it). `_data_queue`, `_task_info`:
  `Stats.queue_depth` (without them, None).
- Elsewhere: `UntypedStorage._new_shared`, decoding into shared memory (without it, one more copy);
  `torch.distributed.distributed_c10d._get_default_store`, noticing ranks that read the same stream (without it, not).
"""

from __future__ import annotations

import os
import select
import sys
import threading
import warnings
from multiprocessing.process import BaseProcess
from types import GeneratorType, SimpleNamespace
from typing import Any

import torch
import torch.utils.data
from torch.utils.data import dataloader as _module

CHECKED = "2.15"
"""The version of PyTorch that all of these were run with."""
_WAKE = 10  # milliseconds to wait for room in a full pipe
_said: set[str] = set()


def has(of: Any, *names: str, without: str) -> bool:
    """Whether PyTorch has private names; where it has not, a warning says once what follows.

    Args:
        of: a module, class, loader or iterator.
        names: of its attributes.
        without: what is done instead, a sentence.
    """
    missing = [name for name in names if not hasattr(of, name)]
    if missing and without not in _said:
        _said.add(without)
        warnings.warn(
            f"PyTorch {torch.__version__} has no {', '.join(missing)}, which Resflow knows from {CHECKED}. {without} "
            f"Update resflow, or install torch=={CHECKED}.*.",
            stacklevel=2,
        )
    return not missing


def _class(name: str) -> Any:
    """A class of PyTorch's iterators; `object` where there is none."""
    return getattr(_module, name, object)


SingleProcessIterator, WorkersIterator = map(_class, ("_SingleProcessDataLoaderIter", "_MultiProcessingDataLoaderIter"))


def can_make_iterators(loader: Any) -> bool:
    """Whether iterators of Resflow's own can stand in for PyTorch's, which know their pass and where it is."""
    without = "A second pass at once shares the workers of the first, and state_dict needs a pipeline."
    return has(loader, "_get_iterator", without=without) and all(
        has(kind, "_next_index", "_reset", without=without) for kind in (SingleProcessIterator, WorkersIterator)
    )


def is_iterable(loader: Any) -> bool:
    """Whether a loader's dataset is an iterable one."""
    return isinstance(loader.dataset, torch.utils.data.IterableDataset)


def draws_lazily(iterator: Any) -> bool | None:
    """Whether an iterator has drawn nothing of its sampler's order yet; None where that is not known."""
    sampler = getattr(iterator, "_sampler_iter", None)
    return None if sampler is None else isinstance(sampler, GeneratorType)


def set_facts(loader: Any, **facts: Any) -> None:
    """Have a finished loader tell what it forgets beside a batch sampler, and trainers ask for."""
    vars(loader).update(facts)


def persisting(loader: Any) -> Any:
    """The iterator whose workers persist, or are to; None without."""
    return getattr(loader, "_iterator", None)


def forget(loader: Any, iterator: Any = None) -> None:
    """Have new workers made for a loader's next pass.

    Args:
        loader: the loader, or None: it is gone.
        iterator: only where this one is to persist; None: whichever is.
    """
    if loader is not None and iterator in (None, persisting(loader)):
        loader._iterator = None


def is_under_way(loader: Any) -> bool:
    """Whether a pass over workers that are to persist has not ended, and somebody besides the loader still holds it."""
    iterator = persisting(loader)
    if iterator is None or getattr(iterator, "ended", True):
        return False
    del iterator
    return _holders(loader) > _holders(_ALONE)


def _holders(loader: Any) -> int:
    return sys.getrefcount(loader._iterator)


_ALONE = SimpleNamespace(_iterator=object())  # held by nobody else


class Workers:
    """The worker processes of an iterator; holds them, and not the iterator, which each method is given.

    Args:
        iterator: PyTorch's over worker processes.
    """

    def __init__(self, iterator: Any) -> None:
        self.processes: tuple[BaseProcess, ...] = tuple(iterator._workers)

    @staticmethod
    def of(iterator: Any) -> Workers | None:
        """Those of an iterator; None without any, and where PyTorch keeps them elsewhere."""
        if not isinstance(iterator, WorkersIterator):
            return None
        known = has(iterator, *_OF_WORKERS, without=_UNWATCHED) and has(
            torch._C, "_remove_worker_pids", without=_UNWATCHED
        )
        return Workers(iterator) if known else None

    def pins(self, iterator: Any) -> bool:
        """Whether a thread of PyTorch's reads the results, to pin their memory."""
        return bool(iterator._pin_memory)

    def over(self, iterator: Any) -> bool:
        """Whether the workers were told to end."""
        return bool(iterator._shutdown)

    def at_work(self, iterator: Any, number: int) -> bool:
        """Whether a worker is to go on: PyTorch tells it to end when its stream has, and calls a dead one so, too."""
        return bool(iterator._workers_status[number])

    def end(self, iterator: Any) -> None:
        """End them as PyTorch does."""
        iterator._shutdown_workers()

    def unlock(self, iterator: Any) -> None:
        """Give the iterator another event to end by: the shared one's lock may have died with its holder."""
        iterator._workers_done_event = threading.Event()

    def unhandled(self, iterator: Any) -> None:
        """Have PyTorch's SIGCHLD handler pass over the workers."""
        if iterator._worker_pids_set:
            torch._C._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False

    def wake(self, iterator: Any) -> None:
        """Wake who waits in the pipe of results, by bytes that end any message in an error."""
        pipe, ready = iterator._worker_result_queue._writer.fileno(), select.poll()
        ready.register(pipe, select.POLLOUT)
        if ready.poll(_WAKE):
            os.write(pipe, bytes(select.PIPE_BUF))  # a pipe that is ready takes so many


_OF_WORKERS = (
    "_workers", "_workers_status", "_shutdown", "_shutdown_workers", "_pin_memory", "_worker_pids_set",
    "_workers_done_event", "_worker_result_queue",
)  # fmt: skip
_UNWATCHED = "The death of a worker process is noticed as late as PyTorch notices it, and shows as its RuntimeError."


def queued(iterator: Any) -> int | None:
    """Finished batches that wait in an iterator over workers; None where that is not known."""
    queue, tasks = getattr(iterator, "_data_queue", None), getattr(iterator, "_task_info", None)
    if queue is None or tasks is None:
        return None
    try:
        # Those that came before their turn are kept beside the queue, with their result behind the worker's number.
        return int(queue.qsize()) + sum(len(task) == 2 for task in tasks.values())
    except NotImplementedError:  # macOS cannot count what is in a pipe
        return None


def shared_storage(size: int) -> torch.UntypedStorage | None:
    """Shared memory of so many bytes; None where PyTorch gives none that is not copied into.

    Raises:
        RuntimeError: there is no room for it.
    """
    storage = torch.UntypedStorage
    if not has(storage, "_new_shared", without="Batches are copied once more on their way out of workers."):
        return None
    return storage._new_shared(size)  # type: ignore[no-untyped-call,no-any-return]


def default_store() -> Any:
    """The store of the default process group; None where PyTorch does not give it."""
    give = getattr(torch.distributed.distributed_c10d, "_get_default_store", None)
    return None if give is None else give()
