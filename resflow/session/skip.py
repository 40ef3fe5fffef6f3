"""Bad samples on their way: which errors they are known by, how they are found in a batch, and the count of them."""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from PIL.Image import DecompressionBombError

from resflow.batch import Batch
from resflow.errors import (
    IndexFileError,
    ResflowError,
    SampleError,
    ShardError,
    SkipBudgetError,
    StateError,
    StoreError,
)
from resflow.skip import Skip, Skipped

Faults = dict[int, Exception]
"""What is wrong with samples, by their place in the batch."""

# What a dataset's own reading raises of a damaged file; SyntaxError is Pillow's of a broken PNG.
_OF_DATA = (OSError, ValueError, EOFError, SyntaxError, struct.error, zlib.error, DecompressionBombError)
_OF_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}
_LONGEST = 500  # characters of a reason
_SHOWN = 3  # samples named by an error


def is_of_sample(error: Exception) -> bool:
    """Whether an error says that one sample is bad, rather than the machine, the network, the setup or the code.

    Args:
        error: raised when a sample was read, its target made, or its image decoded.

    Returns:
        True for `SampleError`s; for `ShardError`s, but for an index and a remote store; of other errors (of a dataset's
        own code) for what damaged files bring about. Never where files, memory or disk have run out, or a connection
        broke.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError | ConnectionError | MemoryError):
            return False
        if isinstance(cause, OSError) and cause.errno in _OF_MACHINE:
            return False
        cause = cause.__cause__
    if isinstance(error, ResflowError):
        of_shard = isinstance(error, ShardError) and not isinstance(error, IndexFileError | StoreError)
        return of_shard or isinstance(error, SampleError)
    return isinstance(error, _OF_DATA)


def skipped(
    error: Exception, key: str, shard: str, epoch: int, step: int, sample_id: int, offset: int | None = None
) -> Skipped:
    """The record of a bad sample; `offset` stands where the error knows no place of its own."""
    text = error.message if isinstance(error, SampleError | ShardError) else str(error)
    # A bad sample is found by decoding it alone, as a batch of one.
    text = text.replace("image 0 of the batch", "the image")
    place = error.offset if isinstance(error, ShardError) and error.offset is not None else offset
    return Skipped(key, shard, f"{type(error).__name__}: {text}"[:_LONGEST], epoch, step, sample_id, place)


def make_sound(make: Callable[[list[int]], Batch], count: int, faults: Faults, *, skips: bool) -> Batch:
    """Make a batch of its sound samples.

    A batch that fails is tried sample by sample, so that what is bad follows from the sample alone and not from its
    batch; then the rest is made as one batch, so that its pixels are what they always are.

    Args:
        make: a batch of the samples at some places.
        count: samples of the whole batch.
        faults: bad samples known so far; gains those that are found.
        skips: whether bad samples are skipped.

    Returns:
        The batch of the samples that are not in `faults` afterwards.

    Raises:
        SampleError: samples are not to be skipped, or only the batch as a whole is wrong; its position is that in the
            whole batch.
    """
    sound = [place for place in range(count) if place not in faults]
    try:
        return make(sound)
    except SampleError as error:
        found: Faults = {}
        for place in sound if skips else ():
            try:
                make([place])
            except SampleError as alone:
                found[place] = alone
        if not found:
            if error.position is not None:
                error.position = sound[error.position]
            raise
    faults |= found
    return make([place for place in sound if place not in found])


class SkipReport:
    """The samples that this rank has skipped in an epoch, and how many it may.

    Args:
        skip: the budget; None: nothing is skipped.
    """

    def __init__(self, skip: Skip | None) -> None:
        self.skip = skip
        self.records: list[Skipped] = []
        self.seen = 0
        """Samples handed out or skipped in the epoch, where these are counted."""
        self._settled = 0  # records of batches that were handed out; over budget, the last ones are not

    def begin(self, *, resumes: bool) -> None:
        """A pass begins, of a whole epoch or of the rest of one."""
        if not resumes:
            self.seen = self._settled = 0
        self.records = self.records[: self._settled]

    def take(self, records: Sequence[Skipped], *, samples: int) -> None:
        """Take in what was skipped of a batch that comes next.

        Args:
            records: of the batch.
            samples: of which the budget is a share.

        Raises:
            SkipBudgetError: more are skipped than may be.
        """
        if not records:
            return
        self.records.extend(records)
        if self.skip is not None and len(self.records) > self.skip.allowed(samples):
            raise self._over(self.skip, samples)
        self._settled = len(self.records)

    def count(self, batch: object, dropped: Sequence[Skipped]) -> None:
        """Take in what was skipped before and in a batch of a stream, whose samples are counted as they come.

        Raises:
            SkipBudgetError: more are skipped than may be.
        """
        if self.skip is None:
            return
        blank, count = (batch.skipped, len(batch)) if isinstance(batch, Batch) else ((), 0)
        seen = self.seen + len(dropped) + count
        self.take((*dropped, *blank), samples=seen)
        self.seen = seen

    def state(self) -> dict[str, Any]:
        """What a saved state holds of it: plain JSON values, nothing where nothing was skipped."""
        records = [asdict(record) for record in self.records[: self._settled]]
        return {"skipped": {"seen": self.seen, "records": records}} if records or self.seen else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave, out of a state that may be without.

        Raises:
            StateError: it is damaged.
        """
        held = state.get("skipped", {"seen": 0, "records": []})
        try:
            seen, records = held["seen"], [Skipped(**record) for record in held["records"]]
            sound = type(seen) is int and all(map(_is_sound, records))
        except (KeyError, TypeError) as error:
            raise StateError(f"saved state: skipped cannot be read ({error!r}). Use an earlier state.") from error
        if not sound:
            raise StateError("saved state: skipped has values of wrong types. Use an earlier state.")
        self.seen, self.records, self._settled = seen, records, len(records)

    def keep(self, which: Callable[[Skipped], bool]) -> None:
        """Drop records that another rank now answers for."""
        self.records = list(filter(which, self.records))
        self._settled = len(self.records)

    def _over(self, skip: Skip, samples: int) -> SkipBudgetError:
        first = "; ".join(f"{one.shard}/{one.key}: {one.reason}" for one in self.records[:_SHOWN])
        return SkipBudgetError(
            f"{len(self.records)} bad samples in epoch {self.records[0].epoch}, and on_error={skip} lets "
            f"{skip.allowed(samples)} of this rank's {samples} be skipped. The first are {first}. DataLoader.skipped "
            "lists all. Mend the data or index it without them, or raise Skip.budget and go on from the last state."
        )


def without(state: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """A saved state without what is no part of its cursor; what is no mapping is left for the cursor to refuse."""
    return {key: state[key] for key in state if key not in names} if isinstance(state, Mapping) else state


def _is_sound(record: Skipped) -> bool:
    texts, numbers = (record.key, record.shard, record.reason), (record.epoch, record.step, record.sample_id)
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and (record.offset is None or type(record.offset) is int)
    )
