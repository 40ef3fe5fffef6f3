"""The DataLoader: PyTorch's own without a pipeline, planned fixed-shape batches with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.utils.data

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
from resflow.runtime.world import current_world
from resflow.sources import ShardSource, Source

_PREFETCH = 2  # PyTorch's default: batches ahead for each worker


class DataLoader(torch.utils.data.DataLoader[Any]):
    """PyTorch's DataLoader, and with a `pipeline` one that plans fixed-shape batches over images of many sizes.

    Without `pipeline` it is `torch.utils.data.DataLoader`: same arguments, same results, same errors. With one, each pass
    over the loader is an epoch of the plan: every sample once, in batches of one shape each, the same shape on every rank
    at each step; a pass gives `Batch`es, which unpack as `images, targets`.

    Args:
        dataset: without `pipeline`, any PyTorch dataset; with one, shards (a path with braces or wildcards, or a list of
            paths; `resflow index` must have indexed them) or any `resflow.sources.Source`.
        batch_size: samples in a rank's batch; or, with a pipeline, a `PixelBudget`.
        shuffle: whether samples and batches come in an order drawn anew for each epoch.
        num_workers: with a pipeline, processes that read and decode, or on a GPU the decoder's CPU threads; 0 works in
            this process.
        pin_memory: as in PyTorch.
        drop_last: leave out fewer than one global batch of samples rather than have one short batch in an epoch.
        prefetch_factor: batches ahead for each worker; default 2.
        pipeline: what is done to each sample.
        seed: everything random follows from it, the epoch and the sample's number.
        world: rank and number of ranks; default: torch.distributed's, else RANK and WORLD_SIZE, else one alone.
        options: PyTorch's other arguments, with PyTorch's meaning.

    Raises:
        ConfigError: an argument that has no meaning beside a pipeline, or a wrong value.
        PlanError: no plan satisfies the batch size, stride and resolutions asked for.
        ShardError: shards are missing; IndexFileError where the index is missing or stale.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | PixelBudget | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        *args: Any,
        pipeline: Pipeline | None = None,
        seed: int = 0,
        world: World | None = None,
        **options: Any,
    ) -> None:
        self._run: _Run | None = None
        if pipeline is None:
            if isinstance(dataset, str | Path) or isinstance(dataset, Source):
                raise ConfigError(f"reading {dataset!r} needs a pipeline. Pass DataLoader(..., pipeline=Pipeline(...)).")
            super().__init__(
                dataset, batch_size, shuffle, sampler, batch_sampler, num_workers, collate_fn, pin_memory, drop_last,
                timeout, *args, **options,
            )  # fmt: skip
            return
        refused = {"sampler": sampler, "batch_sampler": batch_sampler, "collate_fn": collate_fn}
        refused["in_order"] = None if options.get("in_order", True) else False
        for name, value in refused.items():
            if value is not None:
                raise ConfigError(f"{name} has no meaning beside a pipeline, whose plan decides it; got {value!r}. Drop it.")
        run = _Run(
            _open_source(dataset),
            pipeline,
            batch_size=batch_size,
            shuffle=bool(shuffle),
            drop_last=drop_last,
            seed=seed,
            world=world or current_world(),
            threads=num_workers or torch.get_num_threads(),
            prefetch=num_workers * (options.get("prefetch_factor") or _PREFETCH) or _PREFETCH,
        )
        if run.in_this_process:
            num_workers = 0
            options = options | {"prefetch_factor": None, "persistent_workers": False}
        super().__init__(
            run.dataset, 1, None, None, run.sampler, num_workers, _as_it_is, pin_memory, False, timeout, *args, **options
        )
        self._run = run

    def __iter__(self) -> Any:
        if self._run is None:
            return super().__iter__()
        run = self._run
        run.begin()
        batches = run.prefetched() if run.in_this_process else super().__iter__()
        return _Pass(run, iter(batches))

    @property
    def epoch(self) -> int:
        """The epoch of the next pass, or of the one under way."""
        return self._planned("epoch").epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass. Without it, each pass is the epoch after the last.

        A position restored by `load_state_dict` is kept if it lies in this epoch.

        Args:
            epoch: at least 0.

        Raises:
            ConfigError: a negative epoch, or a loader without a pipeline.
        """
        self._planned("set_epoch").set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where this loader is: plain JSON values, valid at any batch, on any rank.

        Raises:
            ConfigError: a loader without a pipeline.
        """
        return self._planned("state_dict").cursor().to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken: the next pass gives the rest of that epoch, bit by bit.

        Args:
            state: what `state_dict` returned.

        Raises:
            StateError: the state is damaged or belongs to other data, seed, batch size or pipeline.
            ConfigError: a loader without a pipeline.
        """
        self._planned("load_state_dict").restore(Cursor.from_json(state))

    @property
    def buckets(self) -> Buckets:
        """The buckets, learned from the data or given."""
        return self._planned("buckets").buckets

    def plan(self, epoch: int) -> EpochPlan:
        """All global batches of an epoch, without reading a byte.

        Args:
            epoch: at least 0.
        """
        return self._planned("plan").plan(epoch)

    def _planned(self, name: str) -> _Run:
        if self._run is None:
            raise ConfigError(f"DataLoader.{name} needs a pipeline. Pass DataLoader(..., pipeline=Pipeline(...)).")
        return self._run


class _Run:
    """A loader's plan and its place in it."""

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
        self.source, self.pipeline, self.world, self.seed = source, pipeline, world, seed
        self._batch_size = batch_size if isinstance(batch_size, PixelBudget) else batch_size * world.size
        self._shuffle, self._drop_last, self._prefetch = shuffle, drop_last, prefetch
        schedule = pipeline.schedule
        self.buckets = pipeline.buckets if isinstance(pipeline.buckets, Buckets) else learn_buckets(
            source.index.size,
            pipeline.buckets,
            resolutions=schedule.resolutions,
            stride=pipeline.stride,
            max_crop=pipeline.fit.max_crop,
            area_tolerance=pipeline.area_tolerance,
        )  # fmt: skip
        self._grouping = group_samples(source.index.size, self.buckets)
        device = torch.device(pipeline.device)
        engine = pipeline.engine if pipeline.engine != "auto" else ("dali" if device.type == "cuda" else "turbo")
        engine_device = pipeline.device if engine == "dali" else "cpu"
        self.in_this_process = torch.device(engine_device).type == "cuda"
        self.dataset = PlannedDataset(
            source,
            pipeline,
            engine=engine,
            engine_device=engine_device,
            seed=seed,
            max_batch=self._most_samples(),
            threads=threads,
        )
        self.sampler = PlanSampler(self.plan, self.length, world, source)
        self.epoch = self.step = self._start = 0
        self._under_way = False
        self.length(0)  # a plan that cannot be made is refused now, not at the first pass

    def plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(
            self._grouping,
            self.pipeline.schedule,
            batch_size=self._batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self._shuffle,
            drop_last=self._drop_last,
            world_size=self.world.size,
        )

    def length(self, epoch: int) -> int:
        return epoch_length(
            self._grouping,
            self.pipeline.schedule,
            batch_size=self._batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self._shuffle,
            drop_last=self._drop_last,
            world_size=self.world.size,
        )

    def begin(self) -> None:
        """Start a pass: the rest of a restored epoch, the epoch that was set, or the one after the last pass."""
        if self._under_way:
            self.epoch, self._start = self.epoch + 1, 0
        self._under_way = True
        self.step, self.sampler.start = self._start, self._start
        self.sampler.epoch = self.epoch

    def advance(self, epoch: int, step: int) -> None:
        """A batch was handed out."""
        self.epoch, self.step = epoch, step

    def finish(self, epoch: int) -> None:
        """A pass came to its end."""
        self.epoch, self.step, self._start = epoch + 1, 0, 0
        self.sampler.epoch, self._under_way = self.epoch, False

    def set_epoch(self, epoch: int) -> None:
        if type(epoch) is not int or epoch < 0:
            raise ConfigError(f"epoch must be a whole number of at least 0; got {epoch!r}")
        restored = self._start if epoch == self.epoch and not self._under_way else 0
        self.epoch, self.step, self._start = epoch, restored, restored
        self.sampler.epoch, self._under_way = epoch, False

    def cursor(self) -> Cursor:
        return Cursor(
            epoch=self.epoch,
            step=self.step,
            seed=self.seed,
            global_batch_size=str(self._batch_size),
            fingerprint=self.source.index.fingerprint,
            config=self.pipeline.describe() | {"shuffle": str(self._shuffle), "drop_last": str(self._drop_last)},
        )

    def restore(self, cursor: Cursor) -> None:
        cursor.check(self.cursor())
        self.epoch, self.step, self._start = cursor.epoch, cursor.step, cursor.step
        self.sampler.epoch, self._under_way = cursor.epoch, False

    def prefetched(self) -> Iterator[Batch | Failure]:
        return Prefetcher(self.sampler, self.dataset.__getitems__, self._prefetch)

    def on_device(self, batch: Batch) -> Batch:
        """Move a batch to the pipeline's device and normalise it there."""
        pipeline = self.pipeline
        if torch.device(pipeline.device).type != "cpu":
            batch = batch.to(pipeline.device, non_blocking=True)
        if pipeline.normalize is None:
            return batch
        return batch.with_images(pipeline.normalize(batch.images, pipeline.dtype))

    def _most_samples(self) -> int:
        if not isinstance(self._batch_size, PixelBudget):
            return self._batch_size // self.world.size + 1
        budget = self._batch_size
        return max(budget.limit((int(h), int(w))) for h, w in self.buckets.shapes.reshape(-1, 2))


class _Pass(Iterator[Batch]):
    """One pass over a planned loader."""

    def __init__(self, run: _Run, batches: Iterator[Batch | Failure]) -> None:
        self._run, self._batches, self._error = run, batches, None
        self._epoch, self._step = run.epoch, run.step

    def __next__(self) -> Batch:
        if self._error is not None:
            raise self._error
        try:
            result = next(self._batches)
        except StopIteration:
            self._run.finish(self._epoch)
            raise
        if isinstance(result, Failure):
            self._error: ResflowError | None = result.error
            self._batches = iter(())  # lets go of the workers
            raise result.error
        batch = self._run.on_device(result)
        self._step += 1
        self._run.advance(self._epoch, self._step)
        return batch

    def __len__(self) -> int:
        return self._run.length(self._epoch) - self._step


def _as_it_is(batch: Batch | Failure) -> Batch | Failure:
    """A collate function for batches that come whole."""
    return batch


def _open_source(dataset: object) -> Source:
    if isinstance(dataset, Source):
        return dataset
    if isinstance(dataset, str | Path) or (
        isinstance(dataset, Sequence) and all(isinstance(part, str | Path) for part in dataset)
    ):
        return ShardSource(dataset)
    raise ConfigError(
        f"with a pipeline, dataset must be shards (a path with braces or wildcards, or a list of paths) or a Source; "
        f"got {type(dataset).__name__}"
    )
