"""PyTorch's iterators over a loader, which know whether their pass has ended and, without a pipeline, its place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import GeneratorType, SimpleNamespace
from typing import Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter, _SingleProcessDataLoaderIter

from resflow.errors import ResflowError, WorkerError
from resflow.session.finish import as_it_is
from resflow.session.parcel import Parcel
from resflow.session.plain import PlainPass
from resflow.session.run import PlannedRun
from resflow.session.stream_run import StreamRun
from resflow.session.workers import READ_ERRORS


class _OnePass:
    """What is added to PyTorch's iterators.

    Args:
        loader: its `_plain_pass` is taken over by the iterator that is made or begun anew; None with a pipeline.
    """

    ended = False
    """Whether the pass has given all its batches, so that its workers may go on to another."""
    plain: PlainPass | None

    def __init__(self, loader: Any) -> None:
        self._take(loader)
        super().__init__(loader)  # type: ignore[call-arg]

    def __next__(self) -> Any:
        try:
            batch = super().__next__()  # type: ignore[misc]
        except StopIteration:
            self.ended = True
            if self.plain is not None:
                self.plain.ended = True
            raise
        if self.plain is not None:
            self.plain.moved(batch)
        return batch

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        if not first_iter:
            self.ended = False
            self._take(loader)
        if self.plain is not None and self.plain.mapped:
            self.plain.open(loader, ordered=True)
        super()._reset(loader, first_iter)  # type: ignore[misc]

    def _take(self, loader: Any) -> None:
        self.plain, loader._plain_pass = loader._plain_pass, None
        if self.plain is not None:
            self.plain.open(loader)

    def _next_index(self) -> Any:
        return self.draw() if self.plain is None else self.plain.drawn(self.draw)

    def draw(self) -> Any:
        """The next element of the sampler's order; StopIteration at its end."""
        return super()._next_index()  # type: ignore[misc]


class InProcess(_OnePass, _SingleProcessDataLoaderIter):
    """Batches made by this process."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        if self.plain is None or not self.plain.mapped:
            return
        if isinstance(self._sampler_iter, GeneratorType):  # nothing was drawn of the order yet
            self.plain.open(loader, ordered=True)
        elif self.plain.position is not None:
            self.plain.position.ordered = True


class OverWorkers(_OnePass, _MultiProcessingDataLoaderIter):
    """Batches made by worker processes."""


def begin_iterator(loader: Any, run: PlannedRun | StreamRun, begin: Callable[[], Any], *, guest: bool) -> Any:
    """PyTorch's iterator over a run's batches, which the loop finishes in this process.

    Args:
        loader: the loader.
        run: its run, in which a pass was begun.
        begin: makes the iterator, or begins the one whose workers persist anew.
        guest: whether it is to be made beside one that persists and is under way.

    Raises:
        WorkerError: worker processes cannot be started.
    """
    finish, loader.collate_fn = loader.collate_fn, Parcel if loader.num_workers else as_it_is
    persisted = None if guest else loader._iterator
    try:
        try:
            return begin()
        except READ_ERRORS as error:
            if persisted is None or isinstance(error, ResflowError):
                raise
            loader._iterator = None  # one of the workers that persisted has died; new ones take over
            return begin()
    except ResflowError:
        raise
    except READ_ERRORS as error:
        if not loader.num_workers:
            raise
        if not guest:
            loader._iterator = None
        run.cancel()
        raise WorkerError(
            f"the worker processes could not be started: {error!r}. The next pass tries again."
        ) from error
    finally:
        loader.collate_fn = finish


def is_under_way(loader: Any) -> bool:
    """Whether a pass over workers that are to persist has not ended, and somebody besides the loader still holds it."""
    iterator = loader._iterator
    if iterator is None or iterator.ended:
        return False
    del iterator
    return _holders(loader) > _holders(_ALONE)


def _holders(loader: Any) -> int:
    return sys.getrefcount(loader._iterator)


_ALONE = SimpleNamespace(_iterator=object())  # held by nobody else
