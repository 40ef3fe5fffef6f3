"""One pass over a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from resflow.batch import Batch
from resflow.session.finalize import Failure
from resflow.session.passes import Passes
from resflow.session.skip import SkipReport


class PlannedPosition(Protocol):
    """The position that passes over a plan move: a `PlannedSession`."""

    epoch: int
    step: int
    passes: Passes[PlannedPass]

    @property
    def report(self) -> SkipReport:
        """What the pass begun last counts its skipped samples in."""

    @property
    def rank_samples(self) -> int:
        """Samples of this rank's part of an epoch."""

    def advance(self, epoch: int, step: int, report: SkipReport) -> None:
        """Be at a step of an epoch."""

    def end(self, epoch: int) -> None:
        """An epoch ended."""


class PlannedPass(Iterator[Batch]):
    """One pass: counts batches, raises what went wrong in a worker, moves to the next epoch at the end."""

    number: int
    before: int
    handed: int
    ended: bool

    def __init__(self, session: PlannedPosition, batches: Iterator[Batch | Failure]) -> None:
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
