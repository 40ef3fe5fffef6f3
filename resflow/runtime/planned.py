"""The two halves that PyTorch's DataLoader runs: a sampler that walks the plan, a dataset that fills planned batches.

The sampler yields a `PlannedBatch` where PyTorch expects a list of indices, and hands it to a worker as it is. So the
shape travels with the request, and workers need to know neither the epoch nor the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset, DistributedSampler

from resflow.batch import Batch
from resflow.errors import DecodeError, ResflowError, SampleError, TargetError
from resflow.geometry import Geometry
from resflow.pipeline import Pipeline
from resflow.plan import PlannedBatch
from resflow.plan.buckets import Sizes
from resflow.plan.tiers import choose_tiers, tier_size
from resflow.runtime.finish import Failure
from resflow.runtime.labels import sample_target, without_samples
from resflow.runtime.maker import BatchMaker
from resflow.sources import Sample, Source
from resflow.sources.base import TieredSource

if TYPE_CHECKING:
    from resflow.runtime.run import PlannedRun
    from resflow.sources.tiers import Tiers

_Step = TypeVar("_Step")


class PlanSampler(DistributedSampler[Any]):
    """Walks one rank's part of the plan, an epoch a pass.

    A DistributedSampler, so that trainers neither shard it again nor forget to tell it the epoch; it is both the
    loader's `sampler` and its `batch_sampler`.

    Args:
        run: the plan and the place in it.
    """

    def __init__(self, run: PlannedRun) -> None:
        self.run = run
        self.even_batches = run.even
        self.restored: tuple[int, bool] | None = None
        """The epoch of a place that was restored, and whether that epoch was complete."""
        self._shift = 0

    @property
    def sampler(self) -> PlanSampler:
        """Itself, for trainers that look for a batch sampler's sampler."""
        return self

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """The number of ranks."""
        return self.run.world.size

    @property
    def rank(self) -> int:  # type: ignore[override]
        """This process's rank."""
        return self.run.world.rank

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
        self.run.set_epoch(epoch + self._shift)

    def __len__(self) -> int:
        return self.run.length(self.run.epoch)

    def __iter__(self) -> Iterator[PlannedBatch]:
        return self.run.batches()


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """The samples of a planned batch, not decoded yet.

    Args:
        planned: the batch.
        samples: its samples.
        geometry: how their originals are placed.
        stored: int32 [B, 2], the size of each image as it was read, in pixels, where some come out of tiers.
    """

    planned: PlannedBatch
    samples: list[Sample]
    geometry: Geometry
    stored: Sizes | None = None


class PlannedDataset(Dataset[Batch]):
    """Reads, places and decodes planned batches.

    Args:
        source: where the encoded bytes are.
        pipeline: what is done to them.
        seed: the loader's seed.
        max_batch: the most samples a batch holds.
        threads: decoding threads of the engine in the process that made this dataset; workers use one.
        engine: name of the engine.
        engine_device: where the engine decodes.
    """

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline,
        *,
        seed: int,
        max_batch: int,
        threads: int,
        engine: str,
        engine_device: str,
    ) -> None:
        self.source, self.pipeline = source, pipeline
        self._tiered: tuple[TieredSource, Tiers, float] | None = None
        if pipeline.tier_quality is not None and isinstance(source, TieredSource):
            tiers = source.open_tiers()
            if tiers is not None:
                self._tiered = source, tiers, pipeline.tier_quality
        self._maker = BatchMaker(
            pipeline, seed=seed, max_batch=max_batch, threads=threads, engine=engine, engine_device=engine_device
        )

    def __len__(self) -> int:
        return len(self.source.index)

    def __getitems__(self, planned: PlannedBatch) -> Batch | Failure:
        """The batch, or what went wrong."""
        return self.make(self.read(planned))

    def read(self, planned: PlannedBatch) -> ReadBatch | Failure:
        """A batch's samples, or what went wrong: what can be done while the batch before is decoded."""
        return self._attempt(planned, lambda: self._taken(planned))

    def make(self, read: ReadBatch | Failure) -> Batch | Failure:
        """The batch of samples that were read, or what went wrong."""
        return read if isinstance(read, Failure) else self._attempt(read.planned, lambda: self._made(read))

    def fill(self, planned: PlannedBatch) -> Batch:
        """Read, place and decode one batch.

        Args:
            planned: which samples, at which shape.

        Returns:
            The batch, uint8, on the engine's device.

        Raises:
            ShardError: the shard's bytes cannot be read.
            SampleError: an image cannot be decoded or a label cannot be read.
        """
        return self._made(self._taken(planned))

    def _attempt(self, planned: PlannedBatch, step: Callable[[], _Step]) -> _Step | Failure:
        try:
            return step()
        except SampleError as error:
            return Failure(self._located(error, planned.sample_ids))
        except ResflowError as error:
            return Failure(error)

    def _taken(self, planned: PlannedBatch) -> ReadBatch:
        if self._tiered is None:
            return ReadBatch(planned, *self._read(planned))
        return ReadBatch(planned, *self._read_tiers(planned, *self._tiered))

    def _made(self, read: ReadBatch) -> Batch:
        planned, samples = read.planned, read.samples
        try:
            batch = self._maker.make(planned, read.geometry, samples, self._targets(samples), read.stored)
        except DecodeError as error:
            raise _of_tier(error, read.geometry, read.stored) from error
        if not samples:  # a rank without a part in the short batch: no targets, of the kind that the others have
            one = replace(planned, sample_ids=np.zeros(1, dtype=np.int64))
            batch = replace(batch, targets=without_samples(self.fill(one).targets))
        return batch

    def place(self, planned: PlannedBatch) -> Geometry:
        """The geometry of one batch: a function of the plan and the index alone, drawn before any byte is read."""
        return self._maker.place(planned, self._size(planned))

    def announce(self, planned: PlannedBatch) -> None:
        """Tell the source what will be read soon. With tiers this follows from geometry, which a worker draws."""
        if self._tiered is None:
            self.source.read_ahead(planned.sample_ids)

    def _read(self, planned: PlannedBatch) -> tuple[list[Sample], Geometry]:
        """Samples as they are, and how they are placed."""
        samples, size = self.source.read(planned.sample_ids), self._size(planned)
        for position, sample in enumerate(samples):
            if isinstance(sample.image, np.ndarray):  # a dataset may change sizes at random; the pixels count
                size[position] = sample.image.shape[:2]
        return samples, self._maker.place(planned, size)

    def _read_tiers(
        self, planned: PlannedBatch, source: TieredSource, tiers: Tiers, quality: float
    ) -> tuple[list[Sample], Geometry, Sizes]:
        """Samples with their images at the size that suffices, how the originals are placed, and the images' sizes."""
        geometry, ids = self.place(planned), planned.sample_ids
        size = geometry.source_size
        tier = choose_tiers(geometry.matrix, size, tiers.sides, tiers.present(ids), quality)
        stored = size.copy()
        for number, side in enumerate(tiers.sides):
            stored[tier == number] = tier_size(size[tier == number], side)
        return source.read_tiers(ids, tier, members=self.pipeline.targets is not None), geometry, stored

    def close(self) -> None:
        """Close the engine of this process."""
        self._maker.close()

    def _targets(self, samples: list[Sample]) -> list[object]:
        """The samples' targets: what the source brings, else what their members hold."""
        found = []
        for position, sample in enumerate(samples):
            try:
                found.append(sample_target(sample.members, sample.target, self.pipeline.targets))
            except TargetError as error:
                raise TargetError(error.message, position=position, key=sample.key, shard=sample.shard) from None
        return found

    def _size(self, planned: PlannedBatch) -> Sizes:
        return np.ascontiguousarray(self.source.index.size[planned.sample_ids])

    def _located(self, error: SampleError, sample_ids: npt.NDArray[np.integer]) -> SampleError:
        if error.key is not None or error.position is None:
            return error
        shard, key = self.source.name(int(sample_ids[error.position]))
        return error.located(key=key, shard=shard)


def _of_tier(error: DecodeError, geometry: Geometry, stored: Sizes | None) -> DecodeError:
    """The error, with the tier that the image came out of."""
    if (
        stored is None
        or error.position is None
        or (stored[error.position] == geometry.source_size[error.position]).all()
    ):
        return error
    side = int(stored[error.position].min())
    return DecodeError(
        f"tier {side}: {error.message} Make the tier again (resflow tiers --overwrite)", position=error.position
    )
