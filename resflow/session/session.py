"""What a loader asks of its session: which batches come, where it is in them, and how to go on from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from resflow.batch import Batch
from resflow.pipeline import Pipeline
from resflow.plan import Buckets, EpochPlan, PixelBudget
from resflow.skip import Skipped


@runtime_checkable
class Session(Protocol):
    """The batches of a loader, epoch by epoch, and the position in them: planned, or out of a stream.

    Attributes:
        pipeline: what is done to samples.
        batch_size: samples in a rank's batch, or a pixel budget.
        drop_last: whether samples are left out rather than a batch be short.
        dataset: what PyTorch's loader iterates over: it makes the batches.
        sampler: gives the requests to the dataset; None where the dataset finds them itself.
        in_this_process: whether batches must be made in this process, whatever `num_workers` says.
        prefetch: batches ahead where this process makes them.
        epoch: of the next pass, or of the one under way.
        told: how often the position was set from outside.
    """

    pipeline: Pipeline
    batch_size: int | PixelBudget
    drop_last: bool
    dataset: Any
    sampler: Any
    in_this_process: bool
    prefetch: int
    epoch: int
    told: int

    @property
    def buckets(self) -> Buckets | None:
        """The buckets; None until a stream has learned them."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The bad samples that this rank has skipped in the pass under way, or the last one."""

    @property
    def global_batch_size(self) -> int | None:
        """Samples of a batch over all ranks, None with a pixel budget."""

    @property
    def start(self) -> tuple[int, Any]:
        """Epoch and position at which the next pass begins."""

    def asked(self, frame: FrameType) -> None:
        """Learn who asks for the length, the batches, or whether the loader is prepared."""

    def told_length(self) -> int:
        """Batches of an epoch, as the loader tells them; TypeError where they are not known."""

    def plan(self, epoch: int) -> EpochPlan:
        """All global batches of an epoch; ConfigError where they are not known."""

    def remainder(self) -> int:
        """Samples of the epoch's last global batch where it was filled up; 0 where nothing is repeated."""

    def steps_left(self) -> int | None:
        """Batches to the end of the epoch; None where that is not known."""

    def begin(self, *, living: bool = False, guest: bool = False, **options: Any) -> bool:
        """Start a pass; returns whether workers that persist must be replaced."""

    def cancel(self) -> None:
        """Undo `begin` where no batch could be handed out."""

    def prefetched(self) -> Iterator[Any]:
        """The batches of a pass, made ahead by threads of this process."""

    def walk(self, batches: Iterator[Any], /) -> Iterator[Batch]:
        """A pass's batches in their order, each counted as it is handed out."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a restored position in that epoch is kept."""

    def state(self) -> dict[str, Any]:
        """The position, and what the batches depend on: plain JSON values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a position that `state` gave."""
