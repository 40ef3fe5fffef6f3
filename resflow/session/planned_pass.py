"""One pass over a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from resflow.batch import Batch
from resflow.session.finalize import Failure

if TYPE_CHECKING:
    from resflow.session.planned import PlannedSession


class PlannedPass(Iterator[Batch]):
    """One pass: counts batches, raises what went wrong in a worker, moves to the next epoch at the end."""

    number: int
    before: int
    handed: int
    ended: bool

    def __init__(self, session: PlannedSession, batches: Iterator[Batch | Failure]) -> None:
        self._session, self._batches = session, batches
        self._epoch, self._step, self._report = session.epoch, session.step, session.report
        session.passes.begin(self)

    def __next__(self) -> Batch:
        try:
            batch = next(self._batches)
        except StopIteration:
            if not self.ended:
                self.ended = True
                self._session.end(self._epoch)
            raise
        if isinstance(batch, Failure):
            try:
                raise batch.error
            finally:
                del batch  # the error's traceback holds this frame, and would hold the error
        self._report.take(batch.skipped, samples=self._session.rank_samples)
        self._step += 1
        self._session.passes.moved(self)
        self._tell()
        return batch

    def __del__(self) -> None:
        before = self._session.passes.dropped(self)
        if before is not None:
            before._tell()

    def _tell(self) -> None:
        """Have the session's place be this pass's."""
        self._session.advance(self._epoch, self._step, self._report)
