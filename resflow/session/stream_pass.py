"""One pass over a stream: the batches of its workers in turn."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from resflow.batch import Batch
from resflow.errors import ConfigError, ResflowError, WorkerError
from resflow.session.duplicate_streams import Overlap
from resflow.session.finalize import Failure
from resflow.session.passes import Passes
from resflow.session.skip import SkipReport
from resflow.session.stream_dataset import StreamMessage


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """Where a pass is.

    Args:
        handed: of each worker, the batches of its stream that were handed out.
        digests: of each worker, the digest of their samples.
        turn: the worker whose batch comes next.
    """

    handed: tuple[int, ...]
    digests: tuple[int, ...]
    turn: int = 0

    @classmethod
    def start(cls, workers: int) -> StreamPosition:
        """The beginning of an epoch."""
        return cls((0,) * workers, (0,) * workers)


class StreamPlace(Protocol):
    """The position that passes over a stream move: a `StreamSession`."""

    epoch: int
    place: StreamPosition
    passes: Passes[StreamPass]
    overlap: Overlap | None

    @property
    def report(self) -> SkipReport:
        """What the pass begun last counts its skipped samples in."""

    def advance(self, epoch: int, place: StreamPosition, report: SkipReport) -> None:
        """Be at a position of an epoch."""

    def end(self, epoch: int) -> None:
        """An epoch ended."""


class StreamPass(Iterator[Any]):
    """One pass over a stream: the workers' batches in turn, worker by worker, from the session's place to the end.

    PyTorch gives the batches of the workers in turn, too, but which worker comes next once one has ended depends on
    timing. So what comes before its turn waits here: never more than PyTorch has under way.

    Args:
        session: told of each batch that is handed out.
        items: what workers, thread or this process make.
        finish: the last steps of a batch in this process (device, normalisation, the user's collate); by default none.
    """

    number: int
    before: int
    handed: int
    ended: bool

    def __init__(
        self, session: StreamPlace, items: Iterator[StreamMessage], finish: Callable[[Batch], Any] | None = None
    ) -> None:
        self._session, self._items, self._finish = session, items, finish
        self._epoch, self._place, self._report = session.epoch, session.place, session.report
        session.passes.begin(self)
        self._queues: list[deque[StreamMessage]] = [deque() for _ in self._place.handed]
        self._live = set(range(len(self._queues)))
        self._error: ResflowError | None = None

    def __next__(self) -> Any:
        # What is kept of an error has no traceback: that would hold this pass in a circle, and PyTorch's workers, left
        # to the garbage collector, take seconds to end.
        if self._error is not None:
            raise copy.copy(self._error)
        try:
            batch = self._next()
            return batch if self._finish is None else self._finish(batch)
        except StopIteration:
            self._live.clear()
            self._items = iter(())  # lets go of the workers
            raise
        except Exception as error:
            kept = copy.copy(error) if isinstance(error, ResflowError) else None
            self._error = kept or WorkerError(
                f"this pass ended with a {type(error).__name__}, raised before. Start another."
            )
            self._items = iter(())
            raise

    def _next(self) -> Batch:
        while self._live:
            place, workers = self._place, len(self._queues)
            worker = place.turn
            after = StreamPosition(place.handed, place.digests, (worker + 1) % workers)
            if worker not in self._live:
                self._place = after
                continue
            tagged = self._take(worker)
            if isinstance(tagged.payload, Failure):
                raise copy.copy(tagged.payload.error) from tagged.payload.error.__cause__
            if (tagged.epoch, tagged.number) != (self._epoch, place.handed[worker]):
                raise ConfigError(
                    f"worker {worker} gave batch {tagged.number} of epoch {tagged.epoch} where batch "
                    f"{place.handed[worker]} of epoch {self._epoch} was due: two passes over one loader at once share "
                    "its workers. End one before the next, or make two loaders."
                )
            self._report.count(tagged.payload, tagged.dropped)
            if tagged.payload is None:
                self._live.discard(worker)
                self._place = after
                continue
            handed, digests = list(place.handed), list(place.digests)
            handed[worker] += 1
            digests[worker] = tagged.digest
            self._place = StreamPosition(tuple(handed), tuple(digests), after.turn)
            self._session.passes.moved(self)
            self._tell()
            if self._session.overlap is not None:
                self._session.overlap.take(worker, tagged.marks)
            return tagged.payload
        for _ in self._items:  # nothing comes; PyTorch lets its workers go
            pass
        if not self.ended:
            self.ended = True
            self._session.end(self._epoch)
        raise StopIteration

    def __del__(self) -> None:
        before = self._session.passes.dropped(self)
        if before is not None:
            before._tell()

    def _tell(self) -> None:
        """Have the session's place be this pass's."""
        self._session.advance(self._epoch, self._place, self._report)

    def _take(self, worker: int) -> StreamMessage:
        queue = self._queues[worker]
        while not queue:
            tagged = next(self._items, None)
            if tagged is None:
                raise WorkerError(f"worker {worker} ended before its stream did; this is a defect of Resflow")
            self._queues[tagged.worker].append(tagged)
        return queue.popleft()
