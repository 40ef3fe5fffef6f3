"""One pass over a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from resflow.batch import Batch
from resflow.session.finish import Failure

if TYPE_CHECKING:
    from resflow.session.run import PlannedRun


class PlannedPass(Iterator[Batch]):
    """One pass: counts batches, raises what went wrong in a worker, moves to the next epoch at the end."""

    number: int
    before: int
    handed: int
    ended: bool

    def __init__(self, run: PlannedRun, batches: Iterator[Batch | Failure]) -> None:
        self._run, self._batches = run, batches
        self._epoch, self._step, self._report = run.epoch, run.step, run.report
        run.passes.begin(self)

    def __next__(self) -> Batch:
        try:
            batch = next(self._batches)
        except StopIteration:
            if not self.ended:
                self.ended = True
                self._run.end(self._epoch)
            raise
        if isinstance(batch, Failure):
            try:
                raise batch.error
            finally:
                del batch  # the error's traceback holds this frame, and would hold the error
        self._report.take(batch.skipped, samples=self._run.rank_samples)
        self._step += 1
        self._run.passes.moved(self)
        self._tell()
        return batch

    def __del__(self) -> None:
        before = self._run.passes.dropped(self)
        if before is not None:
            before._tell()

    def _tell(self) -> None:
        """Have the run's place be this pass's."""
        self._run.advance(self._epoch, self._step, self._report)
