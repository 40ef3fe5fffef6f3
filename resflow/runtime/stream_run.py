"""A loader's run through the epochs of a stream: the place in it, and one pass over it."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.utils.data

from resflow.batch import Batch
from resflow.errors import ConfigError, ResflowError, StateError, WorkerError
from resflow.pipeline import Pipeline
from resflow.plan import Buckets, Cursor, PixelBudget, World, learn_buckets
from resflow.plan.online import default_learn, most_samples
from resflow.runtime.finish import Failure
from resflow.runtime.maker import BatchMaker
from resflow.runtime.prefetch import Prefetcher, prefetched
from resflow.runtime.skip import SkipReport, without
from resflow.runtime.stream import BucketedStream, StreamSettings, Tagged
from resflow.skip import Skip, Skipped


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pass is.

    Args:
        handed: of each worker, the batches of its stream that were handed out.
        digests: of each worker, the digest of their samples.
        turn: the worker whose batch comes next.
    """

    handed: tuple[int, ...]
    digests: tuple[int, ...]
    turn: int = 0

    @classmethod
    def start(cls, workers: int) -> Place:
        """The beginning of an epoch."""
        return cls((0,) * workers, (0,) * workers)


class StreamRun:
    """A stream of samples as batches, and the place in it.

    Args:
        stream: see `BucketedStream`.
        pipeline: what is done to the samples.
        batch_size: samples in a rank's batch, or a pixel budget.
        drop_last: whether each worker leaves out what does not fill a batch at its stream's end.
        seed: everything random about a sample follows from it.
        world: the rank.
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
        batch_size: int | PixelBudget | None,
        drop_last: bool,
        seed: int,
        world: World,
        workers: int,
        threads: int,
        prefetch: int,
        epoch_size: int | None = None,
        learn: int | None = None,
    ) -> None:
        if not isinstance(batch_size, PixelBudget) and (type(batch_size) is not int or batch_size < 1):
            raise ConfigError(f"batch_size must be a whole number above 0, or a PixelBudget; got {batch_size!r}")
        self.pipeline, self.prefetch = pipeline, prefetch
        self.batch_size, self.drop_last = batch_size, drop_last
        on_gpu = torch.device(pipeline.device).type == "cuda"
        engine = pipeline.decoder
        self.engine = engine
        self.in_this_process = on_gpu and engine == "dali"
        """Whether a thread of this process makes the batches, so that the loader needs no workers."""
        self.workers = 0 if self.in_this_process else workers
        """Worker processes that the loader is to have."""
        self._settings = StreamSettings(
            batch_size=batch_size,
            drop_last=drop_last,
            seed=seed,
            world=world,
            epoch_size=epoch_size,
            learn=default_learn(batch_size) if learn is None else learn,
        )
        maker = BatchMaker(
            pipeline,
            seed=seed,
            max_batch=most_samples(batch_size, pipeline.schedule, pipeline.area_tolerance),
            threads=threads,
            engine=engine,
            engine_device=pipeline.device if self.in_this_process else "cpu",
        )
        self.dataset = BucketedStream(stream, pipeline, self._settings, workers=self.workers, maker=maker)
        """What PyTorch's DataLoader is to iterate over, with batch_size=None and `as_it_is` to collate."""
        self.dataset.bucketer()  # wrong settings are refused now, not at the first pass
        if not isinstance(pipeline.buckets, Buckets):
            self._learned(np.ones((1, 2), dtype=np.int32))
        if callable(check := getattr(stream, "check_parts", None)):
            check(world.size * max(1, self.workers))
        self.epoch = 0
        self.place = Place.start(max(1, self.workers))
        self._begun = False
        self._report = SkipReport(pipeline.on_error if isinstance(pipeline.on_error, Skip) else None)
        self._told: Buckets | int | None = None

    @property
    def global_batch_size(self) -> int | None:
        """Samples of a batch over all ranks, None with a pixel budget."""
        size = self._settings.batch_size
        return None if isinstance(size, PixelBudget) else size * self._settings.world.size

    def remainder(self) -> int:
        """0: nothing is repeated."""
        return 0

    @property
    def buckets(self) -> Buckets | None:
        """The buckets; None until the first pass has learned them."""
        return self.dataset.buckets if isinstance(self.dataset.buckets, Buckets) else None

    def asked(self, _frame: FrameType) -> None:
        """Nothing: a stream has no length, and its ranks are those of its settings."""

    def begin(self, **options: Any) -> bool:
        """Start a pass: the rest of a restored epoch, the epoch that was set, or the one after the last pass.

        With worker processes, buckets that are not known yet are learned here: one process of its own reads the first
        samples of the rank's stream, so that all workers have the same shapes and this process's stream is untouched.

        Args:
            options: `worker_init_fn`, `multiprocessing_context` and `timeout` of the loader, for that process.

        Returns:
            Whether worker processes that still live from an earlier pass have other buckets, and must be replaced.

        Raises:
            ResflowError: a sample cannot be read.
        """
        if self._begun:
            self.set_epoch(self.epoch + 1)
        self.dataset.start_at(self.epoch, list(self.place.handed), list(self.place.digests))
        if self.workers and self.buckets is None:
            sizes = _first_sizes(self.dataset, self._settings.learn, options)
            if len(sizes):
                self.dataset.buckets = self._learned(sizes)
        self._begun = True
        self._report.begin(resumes=any(self.place.handed))
        stale = self._told is not None and self._told is not self.dataset.buckets
        self._told = self.dataset.buckets
        return stale and self.workers > 0

    def cancel(self) -> None:
        """Undo `begin` where no batch could be handed out: the next pass is the same one."""
        self._begun = False

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The bad samples that this rank has skipped in the pass under way, or the last one."""
        return tuple(self._report.records)

    def count(self, tagged: Tagged) -> None:
        """Note what is skipped of what comes next.

        Raises:
            SkipBudgetError: more was skipped than may be.
        """
        batch, report = tagged.payload, self._report
        if report.skip is None:
            return
        blank, count = (batch.skipped, len(batch)) if isinstance(batch, Batch) else ((), 0)
        seen = report.seen + len(tagged.dropped) + count
        report.take((*tagged.dropped, *blank), samples=seen)
        report.seen = seen

    def advance(self, epoch: int, place: Place) -> None:
        """Note that a batch was handed out."""
        self.epoch, self.place = epoch, place

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a restored place in that epoch is kept."""
        if type(epoch) is not int or epoch < 0:
            raise ConfigError(f"epoch must be a whole number of at least 0; got {epoch!r}")
        if epoch != self.epoch or self._begun:
            self.place = Place.start(max(1, self.workers))
        self.epoch, self._begun = epoch, False

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
        """Go to a place that `state` gave, in this run or another like it.

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
            place = Place(tuple(streams["handed"]), tuple(streams["digests"]), streams["turn"])
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
        self._report.restore(state)
        self.epoch, self.place, self._begun = cursor.epoch, place, False

    def steps_left(self) -> None:
        """None: how many batches a stream has shows at its end."""

    def walk(self, items: Iterator[Any]) -> Iterator[Batch]:
        """A pass's batches in their order, each counted as it is handed out.

        Args:
            items: what workers, thread or this process make.
        """
        return StreamPass(self, items)

    def prefetched(self) -> Iterator[Tagged]:
        """The batches of a pass, made ahead by two threads of this process: one reads, the other decodes."""
        read = Prefetcher(self.dataset.requests(), lambda request: request, self.prefetch)
        return prefetched(read, self.dataset.make, self.prefetch, torch.device(self.pipeline.device))

    def _cursor(self) -> Cursor:
        settings, stream = self._settings, self.dataset.stream
        batch_size, world = settings.batch_size, settings.world
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


class StreamPass(Iterator[Any]):
    """One pass over a stream: the workers' batches in turn, worker by worker, from the run's place to the end.

    PyTorch gives the batches of the workers in turn, too, but which worker comes next once one has ended depends on
    timing. So what comes before its turn waits here: never more than PyTorch has under way.

    Args:
        run: told of each batch that is handed out.
        items: what workers, thread or this process make.
        finish: the last steps of a batch in this process (device, normalisation, the user's collate); by default none.
    """

    def __init__(self, run: StreamRun, items: Iterator[Tagged], finish: Callable[[Batch], Any] | None = None) -> None:
        self._run, self._items, self._finish = run, items, finish
        self._epoch, self._place = run.epoch, run.place
        self._queues: list[deque[Tagged]] = [deque() for _ in self._place.handed]
        self._live = set(range(len(self._queues)))
        self._error: ResflowError | None = None

    def __next__(self) -> Any:
        # What is kept of an error has no traceback: that would hold this pass in a circle, and PyTorch's workers, left
        # to the garbage collector, take seconds to end.
        if self._error is not None:
            raise copy.copy(self._error)
        try:
            batch = self._next()
            return batch if self._finish is None else self._finish(batch)
        except StopIteration:
            self._live.clear()
            self._items = iter(())  # lets go of the workers
            raise
        except Exception as error:
            kept = copy.copy(error) if isinstance(error, ResflowError) else None
            self._error = kept or WorkerError(
                f"this pass ended with a {type(error).__name__}, raised before. Start another."
            )
            self._items = iter(())
            raise

    def _next(self) -> Batch:
        while self._live:
            place, workers = self._place, len(self._queues)
            worker = place.turn
            after = Place(place.handed, place.digests, (worker + 1) % workers)
            if worker not in self._live:
                self._place = after
                continue
            tagged = self._take(worker)
            if isinstance(tagged.payload, Failure):
                raise copy.copy(tagged.payload.error) from tagged.payload.error.__cause__
            if (tagged.epoch, tagged.number) != (self._epoch, place.handed[worker]):
                raise ConfigError(
                    f"worker {worker} gave batch {tagged.number} of epoch {tagged.epoch} where batch "
                    f"{place.handed[worker]} of epoch {self._epoch} was due: two passes over one loader at once share "
                    "its workers. End one before the next, or make two loaders."
                )
            self._run.count(tagged)
            if tagged.payload is None:
                self._live.discard(worker)
                self._place = after
                continue
            handed, digests = list(place.handed), list(place.digests)
            handed[worker] += 1
            digests[worker] = tagged.digest
            self._place = Place(tuple(handed), tuple(digests), after.turn)
            self._run.advance(self._epoch, self._place)
            return tagged.payload
        for _ in self._items:  # nothing comes; PyTorch lets its workers go
            pass
        if self._run.epoch == self._epoch:
            self._run.set_epoch(self._epoch + 1)
        raise StopIteration

    def _take(self, worker: int) -> Tagged:
        queue = self._queues[worker]
        while not queue:
            tagged = next(self._items, None)
            if tagged is None:
                raise WorkerError(f"worker {worker} ended before its stream did; this is a defect of Resflow")
            self._queues[tagged.worker].append(tagged)
        return queue.popleft()


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
        collate_fn=_as_it_is,
        generator=torch.Generator(),
        **options,
    )
    [found] = list(loader)
    if isinstance(found, Failure):
        raise found.error
    sizes: np.ndarray[Any, np.dtype[np.int32]] = found
    return sizes


def _as_it_is(item: Any) -> Any:
    return item


def _same(one: Buckets, other: Buckets | None) -> bool:
    return other is not None and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("edges", "resolutions", "shapes")
    )
