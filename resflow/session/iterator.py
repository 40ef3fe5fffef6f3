"""One loop over a loader with a pipeline."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from resflow.batch import Batch
from resflow.errors import ResflowError
from resflow.session.device import on_cpu
from resflow.session.meter import Meter
from resflow.session.session import Session
from resflow.session.trainers import TrackedLoop
from resflow.session.workers import READ_ERRORS, WorkerWatch


class Loop(Iterator[Any]):
    """Finishes a pass's batches as they are handed out, and lets go of the workers at its end.

    An error is raised again at each further step, so that a loop that caught it cannot go on past what is missing.

    Args:
        loader: the loader; its `collate_fn` finishes a batch.
        session: its session, in which a pass was begun.
        batches: what workers, thread or this process make.
        steps: how many batches the pass has, where that is known.
        meter: takes the pass's times.
        watch: the watch over the worker processes, if there are any.
    """

    def __init__(
        self,
        loader: Any,
        session: Session,
        batches: Iterator[Any],
        steps: int | None,
        meter: Meter,
        watch: WorkerWatch | None = None,
    ) -> None:
        self._loader, self._session, self._left, self._meter = loader, session, steps, meter
        self._batches: Iterator[Batch] | None = session.walk(batches)
        self._error: ResflowError | None = None
        self._told: tuple[int, object] | None = (session.told, session.start)  # None once a batch was asked for
        self._instead: Iterator[Any] | None = None
        self._tracked = TrackedLoop(loader)
        self._watch = watch

    def __next__(self) -> Any:
        told, self._told = self._told, None
        if told is not None and told[0] != self._session.told and told[1] != self._session.start:
            self.close()  # Lightning asks for the loop before it names the epoch
            self._instead = iter(self._loader)
        if self._instead is not None:
            return next(self._instead)
        if self._error is not None:
            raise self._error
        if self._batches is None:
            raise StopIteration
        try:
            self._loader._meter = self._meter
            self._meter.asked()
            with on_cpu():
                made = self._next(self._batches)
            self._meter.got(made)
            batch = self._loader.collate_fn(made)
            self._meter.finished(self._loader.collate_fn)
        except StopIteration:
            self.close()
            raise
        except ResflowError as error:
            self._error = copy.copy(error)  # without the traceback, whose frames would keep the workers
            if self._watch is not None:
                self._watch.end()
            self.close()
            raise
        if self._left is not None:
            self._left -= 1
            self._loader.end_of_dataloader = self._left == 0
        return batch

    def __len__(self) -> int:
        if self._left is None:
            raise TypeError("the number of batches of a stream is not known before its end")
        return self._left

    def close(self) -> None:
        """Let go of the workers; harmless when repeated."""
        if self._watch is not None:
            self._watch.close()
        self._batches = None
        self._meter.end()
        self._tracked.close()

    def __del__(self) -> None:
        tracked = getattr(self, "_tracked", None)
        if tracked is not None:
            self._meter.end()
            tracked.close()

    def _next(self, batches: Iterator[Batch]) -> Batch:
        if self._watch is None:
            return next(batches)
        self._watch.check()
        try:
            with self._watch.waiting():
                return next(batches)
        except ResflowError:
            raise
        except READ_ERRORS as error:
            self._watch.raise_error(error)
