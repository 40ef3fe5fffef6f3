"""One loop over a planned loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resflow.errors import ResflowError
from resflow.runtime.trainers import TrackedLoop
from resflow.runtime.workers import raise_worker_error

if TYPE_CHECKING:
    from resflow.runtime.run import PlannedRun


class Loop(Iterator[Any]):
    """The batches from the run's place to the end of its epoch, finished and counted as they are handed out.

    Args:
        loader: the loader; its `collate_fn` finishes a batch.
        run: told of each batch that is handed out.
        batches: what workers, thread or this process make.
    """

    def __init__(self, loader: Any, run: PlannedRun, batches: Iterator[Any]) -> None:
        self._loader, self._run = loader, run
        self._batches: Iterator[Any] | None = batches
        self._epoch, self._step, self._steps = run.epoch, run.step, run.length(run.epoch)
        self._error: ResflowError | None = None
        self._tracked = TrackedLoop(loader)

    def __len__(self) -> int:
        return self._steps - self._step

    def __next__(self) -> Any:
        if self._error is not None:
            raise self._error
        if self._batches is None:
            raise StopIteration
        try:
            batch = self._loader.collate_fn(self._next(self._batches))
        except StopIteration:
            self.close()
            self._run.set_epoch(self._epoch + 1)
            raise
        except ResflowError as error:
            self._error = error
            self.close()
            self._loader._iterator = None  # workers that persist may be the dead ones
            raise
        self._step += 1
        self._run.advance(self._epoch, self._step)
        self._loader.end_of_dataloader = self._step == self._steps
        return batch

    def close(self) -> None:
        """Let go of the workers; harmless when repeated."""
        self._batches = None
        self._tracked.close()

    def __del__(self) -> None:
        tracked = getattr(self, "_tracked", None)
        if tracked is not None:
            tracked.close()

    @staticmethod
    def _next(batches: Iterator[Any]) -> Any:
        try:
            return next(batches)
        except RuntimeError as error:
            raise_worker_error(error)
