"""PyTorch's iterators over a loader, which know whether their pass has ended and, without a pipeline, its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resflow.errors import ResflowError, WorkerError
from resflow.session.finalize import as_it_is
from resflow.session.plain import PlainPass
from resflow.session.session import Session
from resflow.session.torch_compat import SingleProcessIterator, WorkersIterator, draws_lazily, forget, persisting
from resflow.session.transport import BatchMessage
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


class InProcess(_OnePass, SingleProcessIterator):  # type: ignore[misc]
    """Batches made by this process."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        if self.plain is None or not self.plain.mapped:
            return
        lazily = draws_lazily(self)
        if lazily:
            self.plain.open(loader, ordered=True)
        elif lazily is False and self.plain.position is not None:
            self.plain.position.ordered = True


class OverWorkers(_OnePass, WorkersIterator):  # type: ignore[misc]
    """Batches made by worker processes."""


def begin_iterator(loader: Any, session: Session, begin: Callable[[], Any], *, guest: bool) -> Any:
    """PyTorch's iterator over a session's batches, which the loop finishes in this process.

    Args:
        loader: the loader.
        session: its session, in which a pass was begun.
        begin: makes the iterator, or begins the one whose workers persist anew.
        guest: whether it is to be made beside one that persists and is under way.

    Raises:
        WorkerError: worker processes cannot be started.
    """
    finish, loader.collate_fn = loader.collate_fn, BatchMessage if loader.num_workers else as_it_is
    persisted = None if guest else persisting(loader)
    try:
        try:
            return begin()
        except READ_ERRORS as error:
            if persisted is None or isinstance(error, ResflowError):
                raise
            forget(loader)  # one of the workers that persisted has died; new ones take over
            return begin()
    except ResflowError:
        raise
    except READ_ERRORS as error:
        if not loader.num_workers:
            raise
        if not guest:
            forget(loader)
        session.cancel()
        raise WorkerError(
            f"the worker processes could not be started: {error!r}. The next pass tries again."
        ) from error
    finally:
        loader.collate_fn = finish
