"""Batches made ahead by threads of this process: for engines that must not live in a worker process (a GPU's).

On a GPU the thread has a CUDA stream of its own, so that copies and decoding overlap with the loop's work on the
device. What it made is handed over in stream order: the loop's stream waits for it, the loop does not.
"""

from __future__ import annotations

import functools
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import torch

from resflow.batch import map_tensors
from resflow.errors import WorkerError

Request = TypeVar("Request")
Result = TypeVar("Result")

_END = object()


class Prefetcher(Generic[Request, Result]):
    """Iterates over `make(request)` for each request, at most `depth` results ahead of what was taken.

    The thread ends when the requests do, when one fails, on `close`, and when the prefetcher is collected.

    Args:
        requests: taken in order, by the thread.
        make: called by the thread, one request at a time.
        depth: finished results that may wait, at least 1.
    """

    def __init__(self, requests: Iterable[Request], make: Callable[[Request], Result], depth: int) -> None:
        self._results: queue.Queue[object] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_produce,
            args=(iter(requests), make, self._results, self._stop),
            name="resflow-prefetch",
            daemon=True,
        )
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._thread, self._results, self._stop)

    def __iter__(self) -> Prefetcher[Request, Result]:
        return self

    def __next__(self) -> Result:
        while True:
            if self._stop.is_set():
                raise StopIteration
            try:
                result = self._results.get(timeout=0.5)
                break
            except queue.Empty:
                if not self._thread.is_alive() and self._results.empty():
                    raise WorkerError(
                        "the prefetch thread ended without a result; this is a defect of Resflow"
                    ) from None
        if result is _END:
            self.close()
            raise StopIteration
        if isinstance(result, _Raised):
            self.close()
            raise result.error
        return result  # type: ignore[return-value]

    @property
    def depth(self) -> int:
        """Results that wait."""
        return self._results.qsize()

    def close(self) -> None:
        """End the thread and drop what waits; harmless when repeated."""
        self._finalizer()


class OnStream(Generic[Request, Result], Iterator[Result]):
    """A `Prefetcher` that works on a CUDA stream of its own and hands over tensors on the device.

    Tensors on the CPU are copied through pinned memory, which torch keeps and uses again.

    Args:
        requests: taken in order, by the thread.
        make: called by the thread, one request at a time, with its stream the current one.
        depth: finished results that may wait, at least 1.
        device: the CUDA device.
    """

    def __init__(
        self, requests: Iterable[Request], make: Callable[[Request], Result], depth: int, device: torch.device
    ) -> None:
        self._device = device
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._ahead = Prefetcher(requests, functools.partial(_made_on, stream, device, make), depth)

    def __next__(self) -> Result:
        result, ready = next(self._ahead)
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(ready)
        handed: Result = map_tensors(result, functools.partial(_used_on, stream))
        return handed

    @property
    def depth(self) -> int:
        """Results that wait."""
        return self._ahead.depth

    def close(self) -> None:
        """End the thread and drop what waits; harmless when repeated."""
        self._ahead.close()


def prefetched(
    requests: Iterable[Request], make: Callable[[Request], Result], depth: int, device: torch.device
) -> Iterator[Result]:
    """Results made ahead by a thread, on a stream of its own where the device is a GPU.

    Args:
        requests: taken in order, by the thread.
        make: called by the thread, one request at a time.
        depth: finished results that may wait, at least 1.
        device: where results are handed out.

    Returns:
        The results in order; on a GPU all their tensors are on it.
    """
    if device.type != "cuda":
        return Prefetcher(requests, make, depth)
    return OnStream(requests, make, depth, device)


def _made_on(
    stream: torch.cuda.Stream, device: torch.device, make: Callable[[Request], Result], request: Request
) -> tuple[Result, torch.cuda.Event]:
    with torch.cuda.stream(stream):
        result: Result = map_tensors(make(request), functools.partial(_uploaded, device))
        return result, stream.record_event()


def _uploaded(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the device, copied without waiting for it."""
    return tensor if tensor.is_cuda else tensor.pin_memory().to(device, non_blocking=True)


def _used_on(stream: torch.cuda.Stream, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, whose memory torch keeps until the stream has done with it."""
    tensor.record_stream(stream)
    return tensor


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _produce(
    requests: Iterator[Request],
    make: Callable[[Request], Result],
    results: queue.Queue[object],
    stop: threading.Event,
) -> None:
    last: object = _END
    try:
        for request in requests:
            if stop.is_set() or not _put(results, make(request), stop):
                return
    except BaseException as error:  # noqa: BLE001 - carried to the loop, which raises it
        last = _Raised(error)
    _put(results, last, stop)


def _put(results: queue.Queue[object], result: object, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            results.put(result, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def _stop(thread: threading.Thread, results: queue.Queue[object], stop: threading.Event) -> None:
    stop.set()
    while not results.empty():
        try:
            results.get_nowait()
        except queue.Empty:
            break
    if thread is not threading.current_thread():
        thread.join()
