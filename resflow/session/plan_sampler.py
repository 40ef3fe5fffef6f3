"""The samplers that PyTorch's DataLoader walks: the plan by the batch, and by the sample.

The one by the batch yields a `PlannedBatch` where PyTorch expects a list of indices, and hands it to a worker as it is.
So the shape travels with the request, and workers need to know neither the epoch nor the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

from torch.utils.data import DistributedSampler

from resflow.plan import PixelBudget, PlannedBatch, World


class Walked(Protocol):
    """What the samplers tell of: a `PlannedSession`."""

    batch_size: int | PixelBudget
    epoch: int

    @property
    def even(self) -> bool:
        """Whether all ranks' batches are equally long."""

    @property
    def world(self) -> World:
        """The rank."""

    @property
    def samples(self) -> int:
        """Samples of an epoch over all ranks."""

    def length(self, epoch: int) -> int:
        """Batches of an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""

    def batches(self) -> Iterator[PlannedBatch]:
        """This rank's batches of a pass."""


class SampleOrder(DistributedSampler[Any]):
    """One rank's samples of an epoch in the order of the plan: what scripts know as a loader's `sampler`.

    A DistributedSampler, so that trainers neither shard it again nor forget to tell it the epoch. Its length is that of
    PyTorch's: all samples, divided by the ranks and rounded up.

    Args:
        batches: the plan by the batch.
    """

    def __init__(self, batches: PlanSampler) -> None:
        self._batches = batches

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """The number of ranks."""
        return self._batches.num_replicas

    @property
    def rank(self) -> int:  # type: ignore[override]
        """This process's rank."""
        return self._batches.rank

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """The length."""
        return len(self)

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Lengths of all ranks together."""
        return len(self) * self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, as trainers count."""
        self._batches.set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(self._batches.session.samples / self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        return (number for batch in self._batches for number in batch.sample_ids.tolist())


class PlanSampler(DistributedSampler[Any]):
    """Walks one rank's part of the plan by the batch, an epoch a pass: the loader's `batch_sampler`.

    A DistributedSampler, as its `sampler` is, for trainers that look at either.

    Args:
        session: the plan and the place in it.
    """

    def __init__(self, session: Walked) -> None:
        self.session = session
        self.restored: tuple[int, bool] | None = None
        """The epoch of a place that was restored, and whether that epoch was complete."""
        self._shift = 0
        self.sampler = SampleOrder(self)
        """The same by the sample."""

    @property
    def batch_size(self) -> Any:
        """Samples of a rank's batch, or a `PixelBudget`."""
        return self.session.batch_size

    @property
    def even_batches(self) -> bool:
        """Whether all ranks' batches are equally long, as Accelerate asks."""
        return self.session.even

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """The number of ranks."""
        return self.session.world.size

    @property
    def rank(self) -> int:  # type: ignore[override]
        """This process's rank."""
        return self.session.world.rank

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, as trainers count.

        A trainer that counts from 0 again after a place was restored counts on from that place's epoch, or from the
        next where that epoch was complete.

        Args:
            epoch: at least 0.
        """
        if self.restored is not None:
            (place, complete), self.restored = self.restored, None
            self._shift = 0 if epoch in (place, place + complete) else place + complete - epoch
        self.session.set_epoch(epoch + self._shift)

    def __len__(self) -> int:
        return self.session.length(self.session.epoch)

    def __iter__(self) -> Iterator[PlannedBatch]:
        return self.session.batches()
