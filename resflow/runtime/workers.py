"""Worker processes: they end with their parent, and their deaths come at once, as typed errors."""

from __future__ import annotations

import os
import pickle
import select
import signal
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from torch._C import _remove_worker_pids

from resflow.errors import WorkerError

_EVERY = 0.5  # seconds between looks at the parent
_NOTICE = 0.5  # seconds from the first sign of a death until the thread that watches must have seen it
_WAKE = 10  # milliseconds to wait for room in a full pipe
READ_ERRORS = (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError)
"""What reading from workers raises once one of them has died."""
_SHARED = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class WorkerInit:
    """First call in each worker: watches the parent, then does what the user asked for.

    Args:
        then: the user's worker_init_fn.
    """

    then: Callable[[int], None] | None = None

    def __call__(self, worker_id: int) -> None:
        """Start watching; `worker_id` as PyTorch gives it."""
        threading.Thread(target=_end_with_parent, name="resflow-parent", daemon=True).start()
        if self.then is not None:
            self.then(worker_id)


class WorkerWatch:
    """Notices a worker's death at once, and sees that it is met inside the loop, as a WorkerError.

    PyTorch learns of a death by SIGCHLD, whose handler raises wherever the main thread happens to be, and which never
    comes from workers that a fork server started; else by looking every 5 s; and a result cut short in the pipe it
    awaits for ever. Here a thread waits for the workers' ends instead. When one dies unasked, the thread kills the
    others, whose results may hang on locks that the dead one held, and wakes who waits for a result.

    Where PyTorch pins memory, a thread of its own reads the pipe; there SIGCHLD stays in use, too.

    Args:
        iterator: PyTorch's iterator over the workers.
        loader: the loader, which is made to forget an iterator that was to persist.
    """

    def __init__(self, iterator: Any, loader: Any) -> None:
        self._seen = _Seen(tuple(iterator._workers))
        self._iterator = weakref.ref(iterator)
        if not iterator._pin_memory:
            _forget_pids(iterator)
        threading.Thread(
            target=_watch, args=(self._seen, self._iterator, weakref.ref(loader)), name="resflow-workers", daemon=True
        ).start()

    def check(self) -> None:
        """Raise WorkerError if a death has been noticed."""
        if self._seen.death.is_set():
            raise self._seen.error()

    def raise_error(self, error: Exception) -> NoReturn:
        """Raise what a worker's death brought about as a WorkerError, any other error as it is.

        Args:
            error: what reading from the workers raised.

        Raises:
            WorkerError: a worker has died; names its pid and the signal.
        """
        reported = str(error).startswith("DataLoader worker (pid") or isinstance(error, OSError | EOFError)
        if self._seen.death.wait(_NOTICE if reported else 0):
            raise self._seen.error() from error
        raise error

    def close(self) -> None:
        """End what a death has left: other workers, queues, shared memory; harmless without a death."""
        if not self._seen.death.is_set():
            return
        iterator = self._iterator()
        if iterator is not None:
            _forget_pids(iterator)
        for worker in self._seen.workers:
            worker.kill()
            worker.join()
            drop_shared_memory(worker.pid)
        if iterator is not None:
            iterator._shutdown_workers()


def watch_workers(iterator: Any, loader: Any) -> WorkerWatch | None:
    """The watch over an iterator's workers: one, for however many passes they persist.

    Args:
        iterator: PyTorch's iterator, or one that has no workers.
        loader: the loader it belongs to.

    Returns:
        The watch; None without workers.
    """
    if not getattr(iterator, "_workers", None):
        return None
    watch: WorkerWatch | None = getattr(iterator, "resflow_watch", None)
    if watch is None:
        watch = iterator.resflow_watch = WorkerWatch(iterator, loader)
    return watch


def drop_shared_memory(pid: int | None) -> None:
    """Remove the shared memory that a process had made but not yet unlinked when it died."""
    for path in _SHARED.glob(f"torch_{pid}_*"):
        path.unlink(missing_ok=True)


@dataclass(slots=True)
class _Seen:
    """What the watching thread has seen; apart from the watch, which would not be collected while its thread runs."""

    workers: tuple[BaseProcess, ...]
    first: BaseProcess | None = None
    death: threading.Event = field(default_factory=threading.Event)

    def error(self) -> WorkerError:
        worker = self.first
        if worker is None:
            return WorkerError("a DataLoader worker died")
        worker.join(_NOTICE)
        code = worker.exitcode
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
        else:
            how = f"ended unasked, with exit code {code}"
            if worker.__class__.__name__ != "ForkProcess":
                how += " (a script must make and use its loader below `if __name__ == '__main__':`)"
        return WorkerError(
            f"DataLoader worker (pid {worker.pid}) {how}. The rest of this pass is lost with it; the next pass starts "
            "new workers, and load_state_dict(state_dict()) goes on from the last batch. If memory ran out, lower "
            "num_workers, prefetch_factor or batch_size."
        )


def _forget_pids(iterator: Any) -> None:
    """Have PyTorch's SIGCHLD handler pass over an iterator's workers."""
    if iterator._worker_pids_set:
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False


def _watch(seen: _Seen, iterator_ref: weakref.ref[Any], loader_ref: weakref.ref[Any]) -> None:
    running = {worker.sentinel: number for number, worker in enumerate(seen.workers)}
    while running and not seen.death.is_set():
        ended = [running.pop(int(sentinel)) for sentinel in connection.wait(list(running))]  # type: ignore[arg-type]
        iterator, loader = iterator_ref(), loader_ref()
        if iterator is None or iterator._shutdown:
            return
        # PyTorch tells workers to end when a stream has; it calls those that it found dead so, too.
        unasked = [number for number in ended if iterator._workers_status[number] or seen.workers[number].exitcode]
        if unasked:
            seen.first = seen.workers[unasked[0]]
            iterator._workers_done_event = threading.Event()  # the shared one's lock may have died with its holder
            if loader is not None and loader._iterator is iterator:
                loader._iterator = None
            seen.death.set()
            for worker in seen.workers:
                worker.kill()
        del iterator, loader
    _wake(iterator_ref)


def _wake(iterator_ref: weakref.ref[Any]) -> None:
    """Wake who waits in the pipe of results, by bytes that end any message in an error."""
    while (iterator := iterator_ref()) is not None and not (iterator._shutdown or iterator._pin_memory):
        pipe, ready = iterator._worker_result_queue._writer.fileno(), select.poll()
        ready.register(pipe, select.POLLOUT)
        if ready.poll(_WAKE):
            os.write(pipe, bytes(select.PIPE_BUF))  # a pipe that is ready takes so many
        del iterator


def _end_with_parent() -> None:
    """End this process soon after its parent: what it prepares nobody will read."""
    parent, starter = parent_process(), os.getppid()
    while parent is None or not connection.wait([parent.sentinel], _EVERY):
        # Workers that were forked later hold this one's end of the sentinel, too; a fork server is another process.
        if os.getppid() != starter:
            break
    drop_shared_memory(os.getpid())
    os._exit(1)
