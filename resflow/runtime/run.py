"""A loader's run through its epochs: the plan, the place in it, and one pass over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypedDict

import torch

from resflow.batch import Batch
from resflow.errors import ConfigError, ResflowError
from resflow.pipeline import Pipeline
from resflow.plan import (
    Buckets,
    Cursor,
    EpochPlan,
    PixelBudget,
    World,
    epoch_length,
    group_samples,
    learn_buckets,
    plan_epoch,
)
from resflow.runtime.planned import Failure, PlannedDataset, PlanSampler
from resflow.runtime.prefetch import Prefetcher
from resflow.sources import Source


class _Order(TypedDict):
    """What `plan_epoch` and `epoch_length` are told alike."""

    batch_size: int | PixelBudget
    seed: int
    shuffle: bool
    drop_last: bool
    world_size: int


class PlannedRun:
    """The plan of a loader and the place in it.

    Args:
        source: where the samples are.
        pipeline: what is done to them.
        batch_size: samples in a rank's batch, or a pixel budget.
        shuffle: whether each epoch has an order of its own.
        drop_last: whether samples are left out rather than a batch be short.
        seed: everything random follows from it.
        world: the rank.
        threads: decoding threads in this process.
        prefetch: batches ahead where this process decodes in a thread.

    Raises:
        ConfigError: a batch size that is neither a positive whole number nor a budget.
        PlanError: no plan satisfies what is asked for.
    """

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline,
        *,
        batch_size: int | PixelBudget | None,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        world: World,
        threads: int,
        prefetch: int,
    ) -> None:
        if not isinstance(batch_size, PixelBudget) and (type(batch_size) is not int or batch_size < 1):
            raise ConfigError(f"batch_size must be a whole number above 0, or a PixelBudget; got {batch_size!r}")
        self.pipeline, self._source, self._prefetch = pipeline, source, prefetch
        self._order: _Order = {
            "batch_size": batch_size if isinstance(batch_size, PixelBudget) else batch_size * world.size,
            "seed": seed,
            "shuffle": shuffle,
            "drop_last": drop_last,
            "world_size": world.size,
        }
        self.buckets = _buckets(pipeline, source)
        self._grouping = group_samples(source.index.size, self.buckets)
        on_gpu = torch.device(pipeline.device).type == "cuda"
        engine = pipeline.engine if pipeline.engine != "auto" else ("dali" if on_gpu else "turbo")
        self.in_this_process = on_gpu and engine == "dali"
        self.dataset = PlannedDataset(
            source,
            pipeline,
            engine=engine,
            engine_device=pipeline.device if self.in_this_process else "cpu",
            seed=seed,
            max_batch=_most_samples(batch_size, self.buckets),
            threads=threads,
        )
        self.sampler = PlanSampler(self.plan, self.length, world, source)
        self.epoch = self.step = self._start = 0
        self._begun = False
        self.length(0)  # a plan that cannot be made is refused now, not at the first pass

    def plan(self, epoch: int) -> EpochPlan:
        """All global batches of an epoch."""
        return plan_epoch(self._grouping, self.pipeline.schedule, epoch=epoch, **self._order)

    def length(self, epoch: int) -> int:
        """Batches of an epoch."""
        return epoch_length(self._grouping, self.pipeline.schedule, epoch=epoch, **self._order)

    def begin(self) -> None:
        """Start a pass: the rest of a restored epoch, the epoch that was set, or the one after the last pass."""
        if self._begun:
            self.set_epoch(self.epoch + 1)
        self._begun = True
        self.step = self.sampler.start = self._start

    def advance(self, epoch: int, step: int) -> None:
        """Note that a batch was handed out."""
        self.epoch, self.step = epoch, step

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a restored place in that epoch is kept."""
        if type(epoch) is not int or epoch < 0:
            raise ConfigError(f"epoch must be a whole number of at least 0; got {epoch!r}")
        self._go(epoch, self._start if epoch == self.epoch and not self._begun else 0)

    def cursor(self) -> Cursor:
        """The place, and what the plan was made of."""
        batch_size = self._order["batch_size"]
        # With a pixel budget the plan depends on the number of ranks, too.
        left_out = {"seed"} if isinstance(batch_size, PixelBudget) else {"seed", "world_size"}
        return Cursor(
            epoch=self.epoch,
            step=self.step,
            seed=self._order["seed"],
            global_batch_size=None if isinstance(batch_size, PixelBudget) else batch_size,
            fingerprint=self._source.index.fingerprint,
            config=self.pipeline.describe()
            | {name: repr(value) for name, value in self._order.items() if name not in left_out},
        )

    def restore(self, cursor: Cursor) -> None:
        """Go to a place that `cursor` gave, in this run or another of the same plan."""
        cursor.check(self.cursor())
        self._go(cursor.epoch, cursor.step)

    def prefetched(self) -> Iterator[Batch | Failure]:
        """The batches of a pass, made ahead by a thread of this process."""
        return Prefetcher(self.sampler, self.dataset.__getitems__, self._prefetch)

    def on_device(self, batch: Batch) -> Batch:
        """A batch moved to the pipeline's device and normalised there."""
        device, normalize = self.pipeline.device, self.pipeline.normalize
        if torch.device(device).type != "cpu":
            batch = batch.to(device, non_blocking=True)
        if normalize is None:
            return batch
        return dataclasses.replace(batch, images=normalize(batch.images, self.pipeline.dtype))

    def _go(self, epoch: int, step: int) -> None:
        self.epoch = self.sampler.epoch = epoch
        self.step = self._start = step
        self._begun = False


class Pass(Iterator[Batch]):
    """One pass over a planned loader: the batches from the run's place to the end of its epoch.

    Args:
        run: told of each batch that is handed out.
        batches: what workers, thread or this process make.
    """

    def __init__(self, run: PlannedRun, batches: Iterator[Batch | Failure]) -> None:
        self._run, self._batches = run, batches
        self._epoch, self._step = run.epoch, run.step
        self._error: ResflowError | None = None

    def __next__(self) -> Batch:
        if self._error is not None:
            raise self._error
        try:
            result = next(self._batches)
        except StopIteration:
            self._run.set_epoch(self._epoch + 1)
            raise
        if isinstance(result, Failure):
            self._error = result.error
            self._batches = iter(())  # lets go of the workers
            raise result.error
        self._step += 1
        self._run.advance(self._epoch, self._step)
        return self._run.on_device(result)

    def __len__(self) -> int:
        return self._run.length(self._epoch) - self._step


def as_it_is(batch: Any) -> Any:
    """A collate function for batches that come whole."""
    return batch


def _buckets(pipeline: Pipeline, source: Source) -> Buckets:
    if isinstance(pipeline.buckets, Buckets):
        return pipeline.buckets
    return learn_buckets(
        source.index.size,
        pipeline.buckets,
        resolutions=pipeline.schedule.resolutions,
        stride=pipeline.stride,
        max_crop=pipeline.fit.max_crop,
        area_tolerance=pipeline.area_tolerance,
    )


def _most_samples(batch_size: int | PixelBudget, buckets: Buckets) -> int:
    """The most samples that a rank's batch holds."""
    if not isinstance(batch_size, PixelBudget):
        return batch_size
    return max(batch_size.limit((int(height), int(width))) for height, width in buckets.shapes.reshape(-1, 2))
