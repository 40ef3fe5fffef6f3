"""The dataset that PyTorch's DataLoader reads: it fills planned batches, which `plan_sampler` requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from resflow.batch import Batch
from resflow.errors import DecodeError, ResflowError, SampleError, TargetError
from resflow.geometry import Geometry
from resflow.pipeline import Pipeline
from resflow.plan import PlannedBatch
from resflow.plan.buckets import Sizes
from resflow.plan.tiers import choose_tiers, tier_size
from resflow.session.builder import BatchBuilder
from resflow.session.finalize import Failure
from resflow.session.labels import sample_target, without_samples
from resflow.session.meter import Stopwatch, batch_cost
from resflow.session.placeholders import with_placeholders
from resflow.session.skip import Faults, is_of_sample, make_sound
from resflow.skip import Skip
from resflow.sources import Sample, Source
from resflow.sources.base import NO_TARGET, TieredSource
from resflow.sources.dataset_items import pil_image

if TYPE_CHECKING:
    from resflow.sources.tiers import Tiers

_Step = TypeVar("_Step")
_TRIED = 1000  # samples, until one is sound, when a batch without any must have targets of the others' kind


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """The samples of a planned batch, not decoded yet.

    Args:
        planned: the batch.
        samples: its samples.
        geometry: how their originals are placed.
        stored: int32 [B, 2], the size of each image as it was read, in pixels, where some come out of tiers.
        faults: what is wrong with samples that could not be read, by their place.
        spent: what it has taken so far.
    """

    planned: PlannedBatch
    samples: list[Sample]
    geometry: Geometry
    stored: Sizes | None = None
    faults: Faults = field(default_factory=dict)
    spent: Stopwatch = field(default_factory=Stopwatch)


class PlannedDataset(Dataset[Batch]):
    """Reads, places and decodes planned batches.

    Args:
        source: where the encoded bytes are.
        pipeline: what is done to them.
        seed: the loader's seed.
        max_batch: the most samples a batch holds.
        threads: decoding threads of the engine in the process that made this dataset; workers use one.
    """

    def __init__(self, source: Source, pipeline: Pipeline, *, seed: int, max_batch: int, threads: int) -> None:
        self.source, self.pipeline = source, pipeline
        self._skips = isinstance(pipeline.on_error, Skip)
        self._tiered: tuple[TieredSource, Tiers, float] | None = None
        quality = pipeline.tier_quality if pipeline.pixels.plain else None  # tiers hold 8-bit RGB
        if quality is not None and isinstance(source, TieredSource):
            tiers = source.open_tiers()
            if tiers is not None:
                self._tiered = source, tiers, quality
        self._builder = BatchBuilder(pipeline, seed=seed, max_batch=max_batch, threads=threads)

    def __len__(self) -> int:
        return len(self.source.index)

    def __getattr__(self, name: str) -> Any:
        # what scripts ask of a loader's dataset: classes, class_to_idx, targets, transform, ...
        source = self.__dict__.get("source")
        if source is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(getattr(source, "dataset", source), name)

    def __getitem__(self, number: int) -> Any:
        """An item as the loader's dataset gives it; of shards and other sources, (PIL image, target)."""
        own = getattr(self.source, "dataset", self.source)
        if hasattr(own, "__getitem__"):
            return own[number]
        count = len(self)
        if not -count <= number < count:
            raise IndexError(f"samples are numbered from 0 to {count - 1}; got {number}")
        (sample,) = self.source.read(np.array([number % count], dtype=np.int64))
        target = sample_target(sample.members, sample.target, self.pipeline.targets)
        return pil_image(sample.image), None if target is NO_TARGET else target

    def __getitems__(self, planned: PlannedBatch) -> Batch | Failure:
        """The batch, or what went wrong."""
        return self.make(self.read(planned))

    def read(self, planned: PlannedBatch) -> ReadBatch | Failure:
        """A batch's samples, or what went wrong: what can be done while the batch before is decoded."""
        return self._attempt(planned, lambda: self._taken(planned))

    def make(self, read: ReadBatch | Failure) -> Batch | Failure:
        """The batch of samples that were read, or what went wrong."""
        return read if isinstance(read, Failure) else self._attempt(read.planned, lambda: self._made(read))

    def _attempt(self, planned: PlannedBatch, step: Callable[[], _Step]) -> _Step | Failure:
        try:
            return step()
        except SampleError as error:
            return Failure(self._located(error, planned.sample_ids))
        except ResflowError as error:
            return Failure(error)

    def _taken(self, planned: PlannedBatch) -> ReadBatch:
        return self._read(planned) if self._tiered is None else self._read_tiers(planned, *self._tiered)

    def _made(self, read: ReadBatch) -> Batch:
        faults = dict(read.faults)
        batch = self._of_sound(read, faults)
        if not len(batch):  # none is sound: no targets, of the kind that others have
            batch = replace(batch, targets=without_samples(self._example(read.planned)))
        if self._skips:
            batch = with_placeholders(
                batch, read.planned, read.geometry, read.samples, faults, self.pipeline, offset=self._offset
            )
        return replace(batch, cost=batch_cost(read.spent, read.samples, read.geometry))

    def _of_sound(self, read: ReadBatch, faults: Faults) -> Batch:
        """The batch of the samples that are sound; those that are not join the faults."""
        samples = read.samples
        with read.spent.on("place"):
            targets = self._targets(samples, faults)

        def make(places: list[int]) -> Batch:
            part = read if len(places) == len(samples) else _part(read, places)
            try:
                wanted = [targets[place] for place in places]
                return self._builder.make(part.planned, part.geometry, part.samples, wanted, part.stored, read.spent)
            except DecodeError as error:
                raise _of_tier(error, part.geometry, part.stored) from error

        return make_sound(make, len(samples), faults, skips=self._skips)

    def _example(self, planned: PlannedBatch) -> object:
        """Targets of one sample: of the first that is sound."""
        for number in range(min(len(self.source.index), _TRIED)):
            read = self._taken(replace(planned, sample_ids=np.array([number], dtype=np.int64), repeats=None))
            faults = dict(read.faults)
            batch = self._of_sound(read, faults)
            if len(batch):
                break
        else:
            raise faults[0]
        return batch.targets

    def place(self, planned: PlannedBatch) -> Geometry:
        """The geometry of one batch: a function of the plan and the index alone, drawn before any byte is read."""
        return self._builder.place(planned, self._size(planned))

    def announce(self, planned: PlannedBatch) -> None:
        """Tell the source what will be read soon. With tiers this follows from geometry, which a worker draws."""
        if self._tiered is not None:
            return
        try:
            self.source.read_ahead(planned.sample_ids)
        except ResflowError as error:  # what is bad shows again when it is read, and is skipped there
            if not (self._skips and is_of_sample(error)):
                raise

    def _read(self, planned: PlannedBatch) -> ReadBatch:
        """Samples as they are, and how they are placed."""
        ids, size, spent = planned.sample_ids, self._size(planned), Stopwatch()
        with spent.on("read"):
            samples, faults = self._sound(ids, lambda part: self.source.read(ids[part]))
        for position, sample in enumerate(samples):
            if isinstance(sample.image, np.ndarray):  # a dataset may change sizes at random; the pixels count
                size[position] = sample.image.shape[:2]
        with spent.on("place"):
            geometry = self._builder.place(planned, size)
        return ReadBatch(planned, samples, geometry, None, faults, spent)

    def _read_tiers(self, planned: PlannedBatch, source: TieredSource, tiers: Tiers, quality: float) -> ReadBatch:
        """Samples with their images at the size that suffices, how the originals are placed, and the images' sizes."""
        spent, ids = Stopwatch(), planned.sample_ids
        with spent.on("place"):
            geometry = self.place(planned)
            size = geometry.source_size
            tier = choose_tiers(geometry.matrix, size, tiers.sides, tiers.present(ids), quality)
            stored = size.copy()
            for number, side in enumerate(tiers.sides):
                stored[tier == number] = tier_size(size[tier == number], side)
        members = self.pipeline.targets is not None
        with spent.on("read"):
            samples, faults = self._sound(ids, lambda part: source.read_tiers(ids[part], tier[part], members=members))
        return ReadBatch(planned, samples, geometry, stored, faults, spent)

    def _sound(self, ids: npt.NDArray[np.int64], read: Callable[[slice], list[Sample]]) -> tuple[list[Sample], Faults]:
        """Samples, read one by one where some are to be skipped; those stand as samples without an image."""
        try:
            return read(slice(None)), {}
        except Exception as error:
            if not (self._skips and is_of_sample(error)):
                raise
        samples: list[Sample] = []
        faults: Faults = {}
        for place, number in enumerate(ids.tolist()):
            try:
                samples += read(slice(place, place + 1))
            except Exception as error:
                if not is_of_sample(error):
                    raise
                faults[place] = error
                shard, key = self.source.name(number)
                samples.append(Sample(key, shard, memoryview(b""), {}))
        return samples, faults

    def close(self) -> None:
        """Close the engine of this process."""
        self._builder.close()

    def _targets(self, samples: list[Sample], faults: Faults) -> list[object]:
        """The samples' targets: what the source brings, else what their members hold; bad ones join the faults."""
        found: list[object] = []
        for position, sample in enumerate(samples):
            target: object = NO_TARGET
            try:
                if position not in faults:
                    target = sample_target(sample.members, sample.target, self.pipeline.targets, sample.keypoint_pairs)
            except TargetError as error:
                if not self._skips:
                    raise TargetError(error.message, position=position, key=sample.key, shard=sample.shard) from None
                faults[position] = error
            found.append(target)
        return found

    def _offset(self, sample_id: int) -> int | None:
        """Byte of a sample in its shard; None in a dataset, whose samples all have length 1."""
        index = self.source.index
        return int(index.offset[sample_id]) if index.length[sample_id] > 1 else None

    def _size(self, planned: PlannedBatch) -> Sizes:
        return np.ascontiguousarray(self.source.index.size[planned.sample_ids])

    def _located(self, error: SampleError, sample_ids: npt.NDArray[np.integer]) -> SampleError:
        if error.key is not None or error.position is None:
            return error
        shard, key = self.source.name(int(sample_ids[error.position]))
        return error.located(key=key, shard=shard)


def _part(read: ReadBatch, places: list[int]) -> ReadBatch:
    """Some of the samples of a batch."""
    geometry, repeats = read.geometry, read.planned.repeats
    return ReadBatch(
        replace(
            read.planned,
            sample_ids=read.planned.sample_ids[places],
            repeats=None if repeats is None else repeats[places],
        ),
        [read.samples[place] for place in places],
        Geometry(geometry.matrix[places], geometry.source_size[places], geometry.output_size),
        None if read.stored is None else read.stored[places],
    )


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
