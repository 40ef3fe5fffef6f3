"""The two halves that PyTorch's DataLoader runs: a sampler that walks the plan, a dataset that fills planned batches.

The sampler yields a `PlannedBatch` where PyTorch expects a list of indices, and hands it to a worker as it is. So the
shape travels with the request, and workers need to know neither the epoch nor the schedule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, DistributedSampler

from resflow.batch import Batch
from resflow.errors import ResflowError, SampleError, TargetError
from resflow.geometry import Geometry
from resflow.pipeline import Pipeline
from resflow.plan import PlannedBatch
from resflow.plan.buckets import Sizes
from resflow.runtime.finish import Failure
from resflow.runtime.maker import BatchMaker
from resflow.sources import Sample, Source
from resflow.sources.base import NO_TARGET
from resflow.sources.collate import collate_targets, emptied

if TYPE_CHECKING:
    from resflow.runtime.run import PlannedRun

_NUMBER = re.compile(rb"\s*[+-]?\d{1,18}\s*")
_WAY_OUT = "Name the right member in Pipeline(target=...), or None to read no targets."


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
        self._maker = BatchMaker(
            pipeline, seed=seed, max_batch=max_batch, threads=threads, engine=engine, engine_device=engine_device
        )

    def __len__(self) -> int:
        return len(self.source.index)

    def __getitems__(self, planned: PlannedBatch) -> Batch | Failure:
        """The batch, or what went wrong."""
        try:
            return self.fill(planned)
        except SampleError as error:
            return Failure(self._located(error, planned.sample_ids))
        except ResflowError as error:
            return Failure(error)

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
        samples = self.source.read(planned.sample_ids)
        size = self._size(planned)
        for position, sample in enumerate(samples):
            if isinstance(sample.image, np.ndarray):  # a dataset may change sizes at random; the pixels count
                size[position] = sample.image.shape[:2]
        return self._maker.make(
            planned,
            size,
            [sample.image for sample in samples],
            [sample.key for sample in samples],
            self._targets(samples),
        )

    def place(self, planned: PlannedBatch) -> Geometry:
        """The geometry of one batch: a function of the plan and the index alone, drawn before any byte is read."""
        return self._maker.place(planned, self._size(planned))

    def close(self) -> None:
        """Close the engine of this process."""
        self._maker.close()

    def _targets(self, samples: list[Sample]) -> Any:
        """The batch's targets: what the source brings, else the class that each sample's member holds."""
        target = self.pipeline.target
        if target is None:
            return None
        if not samples:  # a rank without a part in the short batch: no targets, of the kind that the others have
            return emptied(self._targets(self.source.read(np.zeros(1, dtype=np.int64))))
        if samples[0].target is NO_TARGET and samples[0].members:
            return class_labels(samples, target)
        return collate_targets(samples)

    def _size(self, planned: PlannedBatch) -> Sizes:
        return np.ascontiguousarray(self.source.index.size[planned.sample_ids])

    def _located(self, error: SampleError, sample_ids: npt.NDArray[np.integer]) -> SampleError:
        if error.key is not None or error.position is None:
            return error
        shard, key = self.source.name(int(sample_ids[error.position]))
        return error.located(key=key, shard=shard)


def class_labels(samples: list[Sample], member: str) -> torch.Tensor:
    """Class numbers from a text member of each sample.

    Args:
        samples: the batch's samples.
        member: extension of the member, such as "cls".

    Returns:
        int64 [B].

    Raises:
        TargetError: a sample lacks the member, or it is not a decimal number.
    """
    labels = torch.empty(len(samples), dtype=torch.int64)
    for position, sample in enumerate(samples):
        text = sample.members.get(member)
        try:
            if text is None:
                found = ", ".join("." + name for name in sample.members)
                raise TargetError(f"no class: expected a member .{member}; got {found}. {_WAY_OUT}")
            labels[position] = class_number(text, member)
        except TargetError as error:
            raise TargetError(error.message, position=position, key=sample.key, shard=sample.shard) from None
    return labels


def class_number(text: bytes | memoryview, member: str) -> int:
    """A class as a number, from its decimal text.

    Args:
        text: the digits, spaces around them allowed.
        member: where they come from, for the error.

    Raises:
        TargetError: not a decimal number.
    """
    if not _NUMBER.fullmatch(text):
        raise TargetError(f"a class must be a decimal number; member .{member} holds {bytes(text[:40])!r}. {_WAY_OUT}")
    return int(bytes(text))
