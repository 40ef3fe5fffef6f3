"""A loader over a stream: its settings, and the position in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.utils.data

from resflow.batch import Batch
from resflow.errors import ConfigError, ResflowError, StateError
from resflow.pipeline import Pipeline
from resflow.plan import Buckets, Cursor, EpochPlan, PixelBudget, World, learn_buckets
from resflow.plan.epoch import checked_epoch
from resflow.plan.online import default_learn, most_samples
from resflow.session.builder import BatchBuilder, decodes_on_gpu
from resflow.session.duplicate_streams import Overlap
from resflow.session.finalize import Failure, as_it_is
from resflow.session.nested_parts import given_world
from resflow.session.passes import Passes
from resflow.session.prefetch import Prefetcher, prefetched
from resflow.session.skip import SkipReport, without
from resflow.session.stream_dataset import BucketedStream, StreamMessage, StreamSettings
from resflow.session.stream_pass import StreamPass, StreamPosition
from resflow.skip import Skip, Skipped
from resflow.sources.stream import ShardStream
from resflow.world import current_world

_numbers = itertools.count()  # of this process's streams, alike on all ranks


class StreamSession:
    """A stream of samples as batches, and the place in it.

    Args:
        stream: see `BucketedStream`.
        pipeline: what is done to the samples.
        batch_size: samples in a rank's batch, or a pixel budget.
        drop_last: whether each worker leaves out what does not fill a batch at its stream's end.
        seed: everything random about a sample follows from it.
        world: the rank; None: the one its shards were made for, else asked for when each pass begins, as a trainer may
            form the group of processes after the loader was made.
        workers: worker processes; 0: this process.
        threads: decoding threads in this process.
        prefetch: batches ahead where this process decodes in a thread.
        epoch_size: samples of an epoch over all ranks, if known; see `OnlineBucketer`.
        learn: samples that buckets are learned from; default: `default_learn`.

    Raises:
        ConfigError: an argument is out of range, or there are fewer shards than streams.
        PlanError: no plan satisfies stride and resolutions, or a budget is too small for one image.
    """

    def __init__(
        self,
        stream: Iterable[Any],
        pipeline: Pipeline,
        *,
        batch_size: int | PixelBudget,
        drop_last: bool,
        seed: int,
        world: World | None,
        workers: int,
        threads: int,
        prefetch: int,
        epoch_size: int | None = None,
        learn: int | None = None,
    ) -> None:
        self.pipeline, self.prefetch = pipeline, prefetch
        self.batch_size, self.drop_last = batch_size, drop_last
        self.in_this_process = decodes_on_gpu(pipeline)
        """Whether a thread of this process makes the batches, so that the loader needs no workers."""
        self.workers = 0 if self.in_this_process else workers
        """Worker processes that the loader is to have."""
        self._world = given_world(stream, world)
        self._settings = StreamSettings(
            batch_size=batch_size,
            drop_last=drop_last,
            seed=seed,
            world=self.world,
            epoch_size=epoch_size,
            learn=default_learn(batch_size) if learn is None else learn,
        )
        builder = BatchBuilder(
            pipeline,
            seed=seed,
            max_batch=most_samples(batch_size, pipeline.schedule, pipeline.area_tolerance),
            threads=threads,
        )
        self.sampler = None
        self.dataset = BucketedStream(stream, pipeline, self._settings, workers=self.workers, builder=builder)
        """What PyTorch's DataLoader is to iterate over, with batch_size=None and `as_it_is` to collate."""
        self.dataset.bucketer()  # wrong settings are refused now, not at the first pass
        if not isinstance(pipeline.buckets, Buckets):
            self._learned(np.ones((1, 2), dtype=np.int32))
        self.dataset.given_world = self._world
        self._check_parts()
        self.epoch = 0
        self.place = StreamPosition.start(max(1, self.workers))
        self._begun = False
        self.passes: Passes[StreamPass] = Passes()
        self.told = 0
        """How often the place was set from outside."""
        self._skip = pipeline.on_error if isinstance(pipeline.on_error, Skip) else None
        self._report = SkipReport(self._skip)
        self._known: tuple[Buckets | int, World] | None = None
        self._number = next(_numbers)
        self.overlap: Overlap | None = None
        """Compares the streams of the first pass; None where Resflow divides them."""

    @property
    def world(self) -> World:
        """The rank."""
        return self._world or current_world()

    @property
    def global_batch_size(self) -> int | None:
        """Samples of a batch over all ranks, None with a pixel budget."""
        size = self._settings.batch_size
        return None if isinstance(size, PixelBudget) else size * self.world.size

    def remainder(self) -> int:
        """0: nothing is repeated."""
        return 0

    @property
    def buckets(self) -> Buckets | None:
        """The buckets; None until the first pass has learned them."""
        return self.dataset.buckets if isinstance(self.dataset.buckets, Buckets) else None

    def told_length(self) -> int:
        """Raise TypeError: a stream's batches are not counted before its end."""
        raise TypeError(
            "a stream's number of batches is not known before its end; index the shards (resflow index) for an exact "
            "length"
        )

    def plan(self, epoch: int) -> EpochPlan:
        """Raise ConfigError: nothing is planned ahead."""
        raise ConfigError(
            f"epoch {epoch} of a stream has no plan, since sizes are not known ahead: DataLoader.plan needs data of "
            "known sizes. Index shards with `resflow index`, or use a map-style dataset."
        )

    def asked(self, frame: FrameType) -> None:
        """Nothing: a stream has no length, and its rank is asked for when a pass begins."""

    def begin(self, *, living: bool = False, guest: bool = False, **options: Any) -> bool:
        """Start a pass: the rest of a restored epoch, the epoch that was set, or the one after the last pass.

        With worker processes, buckets that are not known yet are learned here: one process of its own reads the first
        samples of the rank's stream, so that all workers have the same shapes and this process's stream is untouched.

        Args:
            living: whether worker processes of an earlier pass are to go on.
            guest: whether those of a pass that is still under way persist, beside the ones that are to be started.
            options: `worker_init_fn`, `multiprocessing_context` and `timeout` of the loader, for that process.

        Returns:
            Whether those processes know other buckets or another rank, and must be replaced.

        Raises:
            ConfigError: there are fewer shards than streams.
            ResflowError: a sample cannot be read.
        """
        if self._begun:
            self._go(self.epoch + 1)
        self.dataset.settings = replace(self.dataset.settings, world=self.world)
        self._check_parts()
        place = list(self.place.handed), list(self.place.digests)
        self.dataset.start_at(self.epoch, *place, living=living, guest=guest)
        if self.workers and self.buckets is None:
            sizes = _first_sizes(self.dataset, self._settings.learn, options)
            if len(sizes):
                self.dataset.buckets = self._learned(sizes)
        self._begun = True
        if self.overlap is None and not isinstance(self.dataset.stream, ShardStream):
            name = type(self.dataset.stream).__name__
            self.overlap = Overlap(name, self.world, max(1, self.workers), self._number)
        if not any(self.place.handed):
            self._report = SkipReport(self._skip)
        self._report.begin(resumes=True)
        if guest:
            return False
        known, self._known = self._known, (self.dataset.buckets, self.world)
        return living and (known is None or known[0] is not self.dataset.buckets or known[1] != self.world)

    def cancel(self) -> None:
        """Undo `begin` where no batch could be handed out: the next pass is the same one."""
        self._begun = False

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The bad samples that this rank has skipped in the pass under way, or the last one."""
        return tuple(self._report.records)

    @property
    def start(self) -> tuple[int, StreamPosition]:
        """Epoch and place of the next pass, as long as none has handed out a batch."""
        return self.epoch, self.place

    @property
    def report(self) -> SkipReport:
        """What this rank has skipped in the pass under way."""
        return self._report

    def advance(self, epoch: int, place: StreamPosition, report: SkipReport) -> None:
        """Note that a batch was handed out."""
        self.epoch, self.place, self._report = epoch, place, report

    def end(self, epoch: int) -> None:
        """Note that a pass over an epoch has come to its end."""
        if self.overlap is not None:
            self.overlap.end()
        if self.epoch == epoch:
            self._go(epoch + 1)
        self.passes.settle()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a restored place in that epoch is kept."""
        number = checked_epoch(epoch)
        self.told += 1
        self._go(number)
        self.passes.settle()

    def _go(self, epoch: int) -> None:
        if epoch != self.epoch or self._begun:
            self.place = StreamPosition.start(max(1, self.workers))
        self.epoch, self._begun = epoch, False

    def _check_parts(self) -> None:
        """Refuse to deal out shards to more streams than there are."""
        if callable(check := getattr(self.dataset.stream, "check_parts", None)):
            check(self.world.size, max(1, self.workers))

    def state(self) -> dict[str, Any]:
        """The place, and what the batches depend on: plain JSON values. It belongs to this rank alone."""
        place, buckets = self.place, self.buckets
        shapes = buckets and {
            "edges": buckets.edges.tolist(),
            "resolutions": buckets.resolutions.tolist(),
            "shapes": buckets.shapes.tolist(),
            "stride": buckets.stride,
            "max_crop": buckets.max_crop,
        }
        streams = {"handed": list(place.handed), "digests": list(place.digests), "turn": place.turn, "buckets": shapes}
        skipped = self._report.state() if any(place.handed) else {}
        return self._cursor().to_json() | {"streams": streams} | skipped

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state` gave, in this session or another like it.

        Args:
            state: what `state` gave.

        Raises:
            StateError: it is damaged, or belongs to other data, settings, rank or number of workers.
        """
        if not isinstance(state, Mapping) or not isinstance(state.get("streams"), Mapping):
            raise StateError(
                "saved state: 'streams' is missing, so it was not saved by a loader over a stream. Load it into a "
                "loader like the one that saved it."
            )
        cursor = Cursor.from_json(without(state, "streams", "skipped"))
        cursor.check(self._cursor())
        try:
            streams = state["streams"]
            place = StreamPosition(tuple(streams["handed"]), tuple(streams["digests"]), streams["turn"])
            shapes = streams["buckets"]
            buckets = shapes and Buckets(
                np.array(shapes["edges"], dtype=np.float64),
                np.array(shapes["resolutions"], dtype=np.int32),
                np.array(shapes["shapes"], dtype=np.int32),
                shapes["stride"],
                shapes["max_crop"],
            )
            numbers = (*place.handed, *place.digests, place.turn)
            count = len(self.place.handed)
            sound = (
                all(type(number) is int and number >= 0 for number in numbers)
                and len(place.handed) == len(place.digests) == count
                and sum(place.handed) == cursor.step
                and place.turn < count
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"saved state: streams cannot be read ({error!r}). Use an earlier state.") from error
        if not sound:
            raise StateError(f"saved state: streams do not fit together: {streams!r}. Use an earlier state.")
        if buckets and not isinstance(self.pipeline.buckets, Buckets) and not _same(buckets, self.buckets):
            self.dataset.buckets = buckets
        self._report = SkipReport(self._skip)
        self._report.restore(state)
        self.told += 1
        self.epoch, self.place, self._begun = cursor.epoch, place, False
        self.passes.settle()

    def steps_left(self) -> None:
        """None: how many batches a stream has shows at its end."""

    def walk(self, items: Iterator[Any]) -> Iterator[Batch]:
        """A pass's batches in their order, each counted as it is handed out.

        Args:
            items: what workers, thread or this process make.
        """
        return StreamPass(self, items)

    def prefetched(self) -> Iterator[StreamMessage]:
        """The batches of a pass, made ahead by two threads of this process: one reads, the other decodes."""
        read = Prefetcher(self.dataset.requests(), lambda request: request, self.prefetch)
        return prefetched(read, self.dataset.make, self.prefetch, torch.device(self.pipeline.device))

    def _cursor(self) -> Cursor:
        settings, stream = self._settings, self.dataset.stream
        batch_size, world = settings.batch_size, self.world
        decides = {
            "batch_size": batch_size,
            "drop_last": settings.drop_last,
            "epoch_size": settings.epoch_size,
            "learn": settings.learn,
            "num_workers": self.workers,
            "rank": world.rank,
            "world_size": world.size,
        }
        fingerprint = getattr(stream, "fingerprint", None)
        return Cursor(
            epoch=self.epoch,
            step=sum(self.place.handed),
            seed=settings.seed,
            global_batch_size=self.global_batch_size,
            fingerprint=fingerprint
            if isinstance(fingerprint, str)
            else f"{type(stream).__module__}.{type(stream).__qualname__}",
            config=self.pipeline.describe() | {name: repr(value) for name, value in decides.items()},
        )

    def _learned(self, sizes: np.ndarray[Any, np.dtype[np.int32]]) -> Buckets:
        pipeline = self.pipeline
        wanted = pipeline.buckets
        return learn_buckets(
            sizes,
            len(wanted) if isinstance(wanted, Buckets) else wanted,
            resolutions=pipeline.schedule.resolutions,
            stride=pipeline.stride,
            max_crop=pipeline.fit.max_crop,
            area_tolerance=pipeline.area_tolerance,
        )


class _Sizes(torch.utils.data.IterableDataset[Any]):
    """Gives one item: the sizes of a stream's first samples, or a failure."""

    def __init__(self, dataset: BucketedStream, most: int) -> None:
        self._dataset, self._most = dataset, most

    def __iter__(self) -> Iterator[Any]:
        try:
            yield self._dataset.sizes(self._most)
        except ResflowError as error:
            yield Failure(error)


def _first_sizes(dataset: BucketedStream, most: int, options: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """int32 [N, 2], read by a process of its own."""
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        _Sizes(dataset, most),
        batch_size=None,
        num_workers=1,
        collate_fn=as_it_is,
        generator=torch.Generator(),
        **options,
    )
    [found] = list(loader)
    if isinstance(found, Failure):
        raise found.error
    sizes: np.ndarray[Any, np.dtype[np.int32]] = found
    return sizes


def _same(one: Buckets, other: Buckets | None) -> bool:
    return other is not None and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("edges", "resolutions", "shapes")
    )
