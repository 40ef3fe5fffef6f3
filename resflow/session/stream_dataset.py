"""Batches out of a stream of samples: what runs in each worker process, or in this one.

Each worker gathers samples of its own stream with an `OnlineBucketer` and decodes the batches that come out. What is
random about a sample follows from (seed, epoch, position in its stream * number of streams + number of the stream).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch.utils.data

from resflow.batch import Batch
from resflow.errors import ConfigError, HeaderError, ResflowError, SampleError, StateError, TargetError
from resflow.geometry import Geometry
from resflow.images import whole_header
from resflow.pipeline import Pipeline
from resflow.plan import Buckets, OnlineBucketer, PixelBudget, PlannedBatch, World
from resflow.session.builder import BatchBuilder
from resflow.session.digest import checksum
from resflow.session.finalize import Failure
from resflow.session.labels import batch_targets, is_class, sample_target, without_content, without_samples
from resflow.session.meter import Stopwatch, batch_cost
from resflow.session.nested_parts import tell_epoch, tell_world
from resflow.session.placeholders import with_placeholders
from resflow.session.skip import Faults, is_of_sample, make_sound, skipped
from resflow.skip import Skip, Skipped
from resflow.sources.base import NO_TARGET, Sample
from resflow.sources.dataset_items import as_image, item_names, split_item
from resflow.sources.groups import IMAGE_EXTENSIONS

_Row = tuple[Sample, int, int]  # a sample that waits, its height and width


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """What a worker hands over.

    Args:
        worker: who.
        epoch: of which epoch.
        number: how many batches of the worker's stream came before.
        digest: of all samples in the worker's batches up to and with this one.
        payload: a batch; a failure, after which nothing comes; None: the stream has ended.
        dropped: bad samples of unknown size, left out since the batch before.
        marks: a checksum of each sample of the batch.
    """

    worker: int
    epoch: int
    number: int
    digest: int
    payload: Batch | Failure | None
    dropped: tuple[Skipped, ...] = ()
    marks: tuple[int, ...] = ()

    def pin_memory(self, device: torch.device | str | None = None) -> StreamMessage:
        """The same with the batch in pinned memory."""
        return replace(self, payload=self.payload.pin_memory(device)) if isinstance(self.payload, Batch) else self


@dataclass(frozen=True, slots=True)
class Request:
    """A batch that is read and planned, to be decoded."""

    worker: int
    number: int
    digest: int
    planned: PlannedBatch
    rows: list[_Row]
    dropped: tuple[Skipped, ...]
    marks: tuple[int, ...]
    spent: Stopwatch


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What decides the batches of a stream, beside its samples and the pipeline.

    Args:
        batch_size: samples of a batch, or a pixel budget.
        drop_last: whether each worker leaves out what does not fill a batch at its stream's end.
        seed: the loader's seed.
        world: which rank this is.
        epoch_size: samples of an epoch over all ranks, if known.
        learn: samples that buckets are learned from.
    """

    batch_size: int | PixelBudget
    drop_last: bool
    seed: int
    world: World
    epoch_size: int | None
    learn: int


class BucketedStream(torch.utils.data.IterableDataset[StreamMessage]):
    """Wraps an iterable of samples and yields finished batches, each tagged with its worker.

    Samples are `Sample`s, webdataset's dicts, (image, target) or bare images, an image in any form that
    `resflow.sources.dataset_items.as_image` takes. Before each pass the stream is told the epoch and the rank (`tell`).
    Passes may overlap: each goes by what `start_at` said last before it began.

    Args:
        stream: the samples of one epoch each time it is iterated over; where it is to be resumed, the same ones in the
            same order for the same epoch.
        pipeline: what is done to them.
        settings: what decides the batches.
        workers: worker processes that will run this, 0 for none.
        builder: places and decodes batches.
    """

    def __init__(
        self,
        stream: Iterable[Any],
        pipeline: Pipeline,
        settings: StreamSettings,
        *,
        workers: int,
        builder: BatchBuilder,
    ) -> None:
        self.stream, self.pipeline = stream, pipeline
        self.settings = settings
        """What decides the batches; the rank may be set anew before a pass."""
        self._skips = isinstance(pipeline.on_error, Skip)
        self._builder = builder
        self.buckets: Buckets | int = pipeline.buckets
        """The buckets, or how many to learn; set once they are learned."""
        self.given_world: World | None = None
        """The rank, where the loader was told it."""
        self._workers = workers
        self._place = self._lasting = torch.zeros(1 + 2 * max(1, workers), dtype=torch.int64, device="cpu")
        self.start_at(0, [0] * max(1, workers), [0] * max(1, workers))

    def start_at(
        self, epoch: int, handed: list[int], digests: list[int], *, living: bool = False, guest: bool = False
    ) -> None:
        """Say where the next pass begins.

        Args:
            epoch: of the pass.
            handed: of each worker, the batches that were handed out.
            digests: of each worker, their digest.
            living: whether workers that persist must learn of it, through the memory that they share.
            guest: whether workers of another pass persist meanwhile.
        """
        place = torch.tensor([epoch, *handed, *digests], dtype=torch.int64, device="cpu")
        if living:
            self._place = self._lasting
            self._place.copy_(place)
            return
        if self._workers:
            place.share_memory_()  # type: ignore[no-untyped-call]
        self._place = place
        if not guest:
            self._lasting = place

    def __iter__(self) -> Iterator[StreamMessage]:
        """Batches of this worker's stream, then one item without a payload; or a failure, then nothing."""
        return self._tagged(self.requests())

    def _tagged(self, requests: Iterator[Request | StreamMessage]) -> Iterator[StreamMessage]:
        for request in requests:
            tagged = self.make(request)
            yield tagged
            if isinstance(tagged.payload, Failure):
                return

    def requests(self) -> Iterator[Request | StreamMessage]:
        """The same without decoding: what `make` takes."""
        worker = _part()[0] if self._workers else 0  # a loader without workers may live in another's worker
        place = self._place.tolist()
        count = len(place) // 2
        return self._requests(place[0], place[1 + worker], place[1 + count + worker], worker)

    def _requests(self, epoch: int, skip: int, expected: int, worker: int) -> Iterator[Request | StreamMessage]:
        """This worker's batches after the first `skip`, whose digest must be the expected one."""
        number = digest = 0
        dropped: list[Skipped] = []
        spent = Stopwatch()
        reach = -1
        try:
            for planned, rows in self._planned(epoch, dropped, spent):
                marks = tuple(checksum((sample.image, sample.target)) for sample, _, _ in rows)
                keys = [sample.key for sample, _, _ in rows]
                digest = checksum((planned.shape, planned.resolution, keys, marks), digest)
                # When a batch comes out depends on whether buckets were known; what is in it does not.
                reach = max(reach, int(planned.sample_ids.max()))
                left_out = tuple(replace(one, step=number) for one in dropped if one.sample_id < reach)
                dropped[:] = [one for one in dropped if one.sample_id > reach]
                number += 1
                if number > skip:
                    yield Request(worker, number - 1, digest, planned, rows, left_out, marks, Stopwatch(spent.take()))
                elif number == skip and digest != expected:
                    raise self._changed(f"its first {skip} batch(es) hold other samples", worker)
            if number < skip:
                raise self._changed(f"it ended after {number} batch(es), {skip} were handed out before", worker)
            yield StreamMessage(
                worker, epoch, number, digest, None, tuple(replace(one, step=number) for one in dropped)
            )
        except ResflowError as error:
            yield StreamMessage(worker, epoch, number, digest, Failure(error))

    def make(self, request: Request | StreamMessage) -> StreamMessage:
        """Decode a batch."""
        if isinstance(request, StreamMessage):
            return request
        planned, samples = request.planned, [row[0] for row in request.rows]
        payload: Batch | Failure
        try:
            payload = self._made(request, samples)
        except SampleError as error:
            at = samples[error.position] if error.position is not None and error.key is None else None
            payload = Failure(error if at is None else error.located(key=at.key, shard=at.shard))
        except ResflowError as error:
            payload = Failure(error)
        return StreamMessage(
            request.worker, planned.epoch, request.number, request.digest, payload, request.dropped, request.marks
        )

    def sizes(self, most: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        """int32 [N, 2]: heights and widths of the first samples, `most` of them at most."""
        epoch = int(self._place[0])
        self._tell(epoch)
        found = []
        for position, item in enumerate(self.stream):
            row = self._read(item, position, position, epoch)
            if not isinstance(row, Skipped):
                found.append(row[1:])
            if len(found) == most:
                break
        return np.array(found, dtype=np.int32).reshape(-1, 2)

    def close(self) -> None:
        """Close the engine of this process."""
        self._builder.close()

    def bucketer(self, epoch: int = 0, workers: int = 1) -> OnlineBucketer:
        """A new bucketer for one worker's stream of one epoch."""
        settings, pipeline = self.settings, self.pipeline
        return OnlineBucketer(
            pipeline.schedule,
            settings.batch_size,
            buckets=self.buckets,
            stride=pipeline.stride,
            max_crop=pipeline.fit.max_crop,
            area_tolerance=pipeline.area_tolerance,
            seed=settings.seed,
            epoch=epoch,
            drop_last=settings.drop_last,
            epoch_size=settings.epoch_size,
            streams=settings.world.size * workers,
            learn=settings.learn,
        )

    def _tell(self, epoch: int) -> None:
        """Tell the stream its epoch, and shards which rank they are read for."""
        tell_epoch(self.stream, epoch)
        here = torch.utils.data.get_worker_info() is None
        tell_world(self.stream, self.given_world if here else self.settings.world)

    def _made(self, request: Request, samples: list[Sample]) -> Batch:
        """The batch of samples, with blank places for those that cannot be decoded."""
        planned, builder = request.planned, self._builder
        size = np.array([row[1:] for row in request.rows], dtype=np.int32)
        spent = request.spent
        with spent.on("place"):
            geometry = builder.place(planned, size)
        faults: Faults = {}

        def make(places: list[int]) -> Batch:
            if len(places) == len(samples):
                return builder.make(planned, geometry, samples, [sample.target for sample in samples], spent=spent)
            part = replace(planned, sample_ids=planned.sample_ids[places])
            some = Geometry(geometry.matrix[places], size[places], geometry.output_size)
            wanted = [samples[place] for place in places]
            return builder.make(part, some, wanted, [sample.target for sample in wanted], spent=spent)

        batch = make_sound(make, len(samples), faults, skips=self._skips)
        cost = batch_cost(spent, samples, geometry)
        if not self._skips:
            return replace(batch, cost=cost)
        if not len(batch):
            empty = [without_content(sample.target, row[1:]) for sample, row in zip(samples, request.rows, strict=True)]
            found = batch_targets(empty, samples, geometry, self.pipeline.targets)
            batch = replace(batch, targets=without_samples(found))
        whole = with_placeholders(batch, planned, geometry, samples, faults, self.pipeline)
        return replace(whole, cost=cost, skipped=tuple(replace(one, step=request.number) for one in whole.skipped))

    def _planned(
        self, epoch: int, dropped: list[Skipped], spent: Stopwatch
    ) -> Iterator[tuple[PlannedBatch, list[_Row]]]:
        """Batches as they fill up, with their samples; what is left out is added to `dropped`, time to `spent`."""
        world, (worker, workers) = self.settings.world, _part()
        streams, this = world.size * workers, world.rank * workers + worker
        bucketer = self.bucketer(epoch, workers)
        waiting: dict[int, _Row] = {}

        def taken(batches: list[PlannedBatch]) -> Iterator[tuple[PlannedBatch, list[_Row]]]:
            for planned in batches:
                yield planned, [waiting.pop(number) for number in planned.sample_ids.tolist()]

        self._tell(epoch)
        for position, item in enumerate(spent.over("read", self.stream)):
            number = position * streams + this
            with spent.on("read"):
                row = self._read(item, position, number, epoch)
            if isinstance(row, Skipped):
                dropped.append(row)
                continue
            waiting[number] = row
            batches = bucketer.add(number, row[1], row[2])
            if bucketer.buckets is not None:
                self.buckets = bucketer.buckets
            yield from taken(batches)
        batches = bucketer.finish()
        if bucketer.buckets is not None:
            self.buckets = bucketer.buckets
        yield from taken(batches)

    def _read(self, item: Any, position: int, number: int, epoch: int) -> _Row | Skipped:
        """An item of the stream as a sample with its size; or, where it is to be skipped, what is wrong with it."""
        try:
            return self._sized(item, position, number)
        except Exception as error:
            if not (self._skips and is_of_sample(error)):
                raise
            return skipped(error, *self._name(item, number), epoch=epoch, step=0, sample_id=number)

    def _sized(self, item: Any, position: int, number: int) -> _Row:
        sample = self._sample(item, position, number)
        if isinstance(sample.image, np.ndarray):
            pixels = np.require(sample.image, requirements=("C", "W"))  # compiled kernels refuse read-only arrays
            return replace(sample, image=pixels), pixels.shape[0], pixels.shape[1]
        try:
            header = whole_header(sample.image)
        except HeaderError as error:
            raise error.located(key=sample.key, shard=sample.shard) from error
        return sample, header.height, header.width

    def _sample(self, item: Any, position: int, number: int) -> Sample:
        members: Mapping[str, Any]
        key, shard = self._name(item, number)
        if isinstance(item, Sample):
            image, members, target = item.image, item.members, item.target
        elif isinstance(item, Mapping) and "__key__" in item:
            names = [name for name in (*IMAGE_EXTENSIONS, "image") if name in item]
            if not names:
                own = ", ".join(name for name in item if not name.startswith("__"))
                raise ConfigError(
                    f"sample {shard}/{key} has no image: expected one of {', '.join(IMAGE_EXTENSIONS)}, image; got "
                    f'{own}. Rename it, as in .rename(image="...").'
                )
            found, members, target, where = item[names[0]], item, NO_TARGET, f"{shard}/{key}"
            image = as_image(found, where, wide=not self.pipeline.pixels.plain)
        else:
            members, where = {}, f"sample {position} of the stream {shard}"
            found, target = split_item(item, where)
            image = as_image(found, where, wide=not self.pipeline.pixels.plain)
            if isinstance(target, bytes | memoryview):  # the text of a class
                spec = self.pipeline.targets
                if isinstance(spec, str) and not is_class(target):
                    raise TargetError(
                        f"the second part of the stream's items is bytes {bytes(target[:40])!r}, no class in decimal "
                        'digits. Have webdataset decode it, with the image first: .decode().to_tuple("jpg", "txt").',
                        key=key,
                        shard=shard,
                    )
                members, target = {spec if isinstance(spec, str) else "json": target}, NO_TARGET
        keys = () if isinstance(item, Sample) or members else item_names(item)
        return Sample(key, shard, image, {}, self._target(members, target, key, shard), names=keys)

    def _name(self, item: Any, number: int) -> tuple[str, str]:
        """Key and shard of an item."""
        if isinstance(item, Sample):
            return item.key, item.shard
        if isinstance(item, Mapping) and "__key__" in item:
            return str(item["__key__"]), str(item.get("__url__", type(self.stream).__name__))
        return str(number), type(self.stream).__name__

    def _target(self, members: Mapping[str, Any], target: object, key: str, shard: str) -> object:
        try:
            return sample_target(members, target, self.pipeline.targets)
        except TargetError as error:
            raise error.located(key=key, shard=shard) from None

    def _changed(self, how: str, worker: int) -> StateError:
        return StateError(
            f"the stream {type(self.stream).__name__} did not repeat itself, so it cannot be resumed: in worker "
            f"{worker} {how}. Draw its order from the epoch alone (set_epoch, or an attribute `epoch`), or start "
            "without the state."
        )


def _part() -> tuple[int, int]:
    """Which of how many worker processes this is."""
    return (0, 1) if (info := torch.utils.data.get_worker_info()) is None else (info.id, info.num_workers)
