"""Worker processes: they end with their parent, and their deaths come at once, as typed errors."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, current_process, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import torch

from resflow.errors import ConfigError, WorkerError
from resflow.session import torch_compat

_EVERY = 0.5  # seconds between looks at the parent, and between looks at what no sentinel tells
_NOTICE = 0.5  # seconds from the first sign of a death until the thread that watches must have seen it
_GRACE = 1.0  # seconds past the loader's timeout, at which PyTorch itself notices most of what is late
READ_ERRORS = (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError)
"""What reading from workers raises once one of them has died."""
SHARED = Path("/dev/shm")
"""Where Linux keeps shared memory."""
_ending = threading.Event()  # this program ends; set before multiprocessing waits for the workers' ends
atexit.register(_ending.set)


def check_may_start(workers: int) -> None:
    """Refuse to start worker processes where the system does not let this one.

    Args:
        workers: how many are to be started.

    Raises:
        ConfigError: this process is a daemon.
    """
    if workers and current_process().daemon:
        raise ConfigError(
            f"num_workers is {workers}, and this process, {current_process().name}, is a daemon (such as another "
            "loader's worker), which cannot start processes. Pass num_workers=0, or make the process with daemon=False."
        )


@dataclass(frozen=True, slots=True)
class WorkerInit:
    """First call in each worker: watches the parent, then does what the user asked for.

    Args:
        then: the user's worker_init_fn.
    """

    then: Callable[[int], None] | None = None

    def __call__(self, worker_id: int) -> None:
        """Start watching; `worker_id` as PyTorch gives it."""
        if torch.get_default_device().type != "cpu":  # inherited where this process was forked, and nowhere else
            torch.set_default_device("cpu")
        gc.freeze()  # what the parent left is never garbage here, and need not be looked through for any
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

    A worker that stands still (SIGSTOP) would hold the loop for ever, past the loader's `timeout`, where it has
    announced a batch but does not hand it over, and hold the program at its end, since it takes no SIGTERM. So the
    thread also keeps the time, and kills workers that are stopped when they are to end.

    Args:
        iterator: PyTorch's iterator over the workers.
        loader: the loader, which is made to forget an iterator that was to persist.
        workers: the iterator's.
    """

    def __init__(self, iterator: Any, loader: Any, workers: torch_compat.Workers) -> None:
        self._seen = _Seen(workers, loader.timeout)
        self._iterator, self._loader = weakref.ref(iterator), weakref.ref(loader)
        if not workers.pins(iterator):
            workers.unhandled(iterator)
        threading.Thread(
            target=_watch, args=(self._seen, self._iterator, self._loader), name="resflow-workers", daemon=True
        ).start()

    def check(self) -> None:
        """Raise WorkerError if a death has been noticed."""
        if self._seen.death.is_set():
            raise self._seen.error()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While this lasts, the loop waits for a batch."""
        self._seen.since = time.monotonic()
        try:
            yield
        finally:
            self._seen.since = None

    def raise_error(self, error: Exception) -> NoReturn:
        """Raise what the workers brought about as a WorkerError, any other error as it is.

        Args:
            error: what reading from the workers raised.

        Raises:
            WorkerError: a worker has died (names its pid and the signal), none gave anything within the loader's
                `timeout`, or this process has no file descriptors left.
        """
        if str(error).startswith("DataLoader timed out"):
            _give_up(self._seen, self._iterator())
            raise self._seen.error() from error
        if _out_of_descriptors(error):
            raise WorkerError(
                "no file descriptors are left to receive a batch from a worker: each tensor of more than 32 KB that is "
                "kept holds one. Keep fewer batches (clone what you keep), raise the limit (ulimit -n 65536), or call "
                "torch.multiprocessing.set_sharing_strategy('file_system') first."
            ) from error
        reported = str(error).startswith("DataLoader worker (pid") or isinstance(error, OSError | EOFError)
        if self._seen.death.wait(_NOTICE if reported else 0):
            raise self._seen.error() from error
        raise error

    def end(self) -> None:
        """End the workers of a pass that has failed, now: the error's traceback holds the iterator, and one that is
        collected with it cannot reach its workers any more and waits 5 s for each."""
        iterator, loader = self._iterator(), self._loader()
        torch_compat.forget(loader, iterator)  # it is not to persist
        if iterator is not None and not self._seen.death.is_set():
            self._seen.workers.end(iterator)

    def close(self) -> None:
        """End what a death has left: other workers, queues, shared memory; harmless without a death."""
        if not self._seen.death.is_set():
            return
        iterator = self._iterator()
        if iterator is not None:
            self._seen.workers.unhandled(iterator)
        for worker in self._seen.workers.processes:
            worker.kill()
            worker.join()
            drop_shared_memory(worker.pid)
        if iterator is not None:
            self._seen.workers.end(iterator)


def watch_workers(iterator: Any, loader: Any) -> WorkerWatch | None:
    """The watch over an iterator's workers: one, for however many passes they persist.

    Args:
        iterator: PyTorch's iterator, or one that has no workers.
        loader: the loader it belongs to.

    Returns:
        The watch; None without workers, and where PyTorch does not let them be watched.
    """
    watch: WorkerWatch | None = getattr(iterator, "resflow_watch", None)
    if watch is None and (workers := torch_compat.Workers.of(iterator)) is not None:
        watch = iterator.resflow_watch = WorkerWatch(iterator, loader, workers)
    return watch


def drop_shared_memory(pid: int | None) -> None:
    """Remove the shared memory that a process had made but not yet unlinked when it died."""
    for path in SHARED.glob(f"torch_{pid}_*"):
        path.unlink(missing_ok=True)


@dataclass(slots=True)
class _Seen:
    """What the watching thread has seen; apart from the watch, which would not be collected while its thread runs."""

    workers: torch_compat.Workers
    timeout: float = 0.0
    since: float | None = None  # when the loop began to wait for a batch
    first: BaseProcess | None = None
    overdue: str = ""  # what is said of workers that were given up
    death: threading.Event = field(default_factory=threading.Event)

    def error(self) -> WorkerError:
        if self.overdue:
            return WorkerError(self.overdue)
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


def _watch(seen: _Seen, iterator_ref: weakref.ref[Any], loader_ref: weakref.ref[Any]) -> None:
    workers = seen.workers.processes
    running = {worker.sentinel: number for number, worker in enumerate(workers)}
    while running and not seen.death.is_set():
        ended = [running.pop(int(sentinel)) for sentinel in connection.wait(list(running), _EVERY)]  # type: ignore[arg-type]
        iterator, loader = iterator_ref(), loader_ref()
        if iterator is None or seen.workers.over(iterator) or _ending.is_set():
            for number in running.values():
                if _is_stopped(workers[number].pid):
                    workers[number].kill()
            del iterator, loader
            continue
        unasked = [number for number in ended if seen.workers.at_work(iterator, number) or workers[number].exitcode]
        if unasked:
            seen.first = workers[unasked[0]]
            _end(seen, iterator)
        elif seen.timeout and seen.since is not None and time.monotonic() > seen.since + seen.timeout + _GRACE:
            _give_up(seen, iterator)
        if seen.death.is_set():
            torch_compat.forget(loader, iterator)
        del iterator, loader
    _wake(seen, iterator_ref)


def _end(seen: _Seen, iterator: Any) -> None:
    """Note that a pass is over, and kill the workers, whose results may hang on locks that a dead one held."""
    if iterator is not None:
        seen.workers.unlock(iterator)
    seen.death.set()
    for worker in seen.workers.processes:
        worker.kill()


def _give_up(seen: _Seen, iterator: Any) -> None:
    """End workers that gave nothing within the loader's timeout."""
    if seen.death.is_set():
        return
    stopped = [str(worker.pid) for worker in seen.workers.processes if _is_stopped(worker.pid)]
    which = f"; pid {', '.join(stopped)} stood still (SIGSTOP)" if stopped else ""
    seen.overdue = (
        f"DataLoader workers gave nothing for {seen.timeout:g} s, the loader's timeout{which}. They were ended, and "
        "the rest of this pass is lost with them; the next pass starts new workers, and load_state_dict(state_dict()) "
        "goes on from the last batch. If a batch takes so long, raise timeout."
    )
    _end(seen, iterator)


def _is_stopped(pid: int | None) -> bool:
    """Whether a process was stopped by a signal; False where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _out_of_descriptors(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    return full or str(error).startswith("Too many open files")


def _wake(seen: _Seen, iterator_ref: weakref.ref[Any]) -> None:
    """Wake who waits for results, until the iterator has ended."""
    workers = seen.workers
    while (iterator := iterator_ref()) is not None and not (workers.over(iterator) or workers.pins(iterator)):
        workers.wake(iterator)
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
