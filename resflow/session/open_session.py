"""From a loader's `dataset` argument to its session: a plan where sizes can be known, else a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from resflow.checks import whole
from resflow.errors import ConfigError
from resflow.pipeline import Pipeline
from resflow.plan import PixelBudget, World
from resflow.plan.epoch import check_seed
from resflow.session.device import local_device
from resflow.session.planned import PlannedSession
from resflow.session.session import Session
from resflow.session.skip import is_of_sample
from resflow.session.streamed import StreamSession
from resflow.skip import Skip
from resflow.sources import Source
from resflow.sources.dataset_sizes import Skips
from resflow.sources.layout import open_named
from resflow.sources.shards import open_shards
from resflow.sources.stream import ShardStream, is_remote
from resflow.sources.torchvision_datasets import dataset_source


def open_session(
    dataset: Any,
    pipeline: Pipeline,
    *,
    batch_size: int | PixelBudget | None,
    shuffle: bool,
    drop_last: bool,
    seed: int,
    world: World | None,
    workers: int,
    prefetch: int,
    even: bool,
    decorrelate: bool,
    sizes: Any,
    sampler: Any = None,
    batch_sampler: Any = None,
    sampling: Any = None,
) -> Session:
    """The session of a loader.

    Args:
        dataset: shards, a Source, a map-style or an iterable dataset.
        pipeline: what is done to samples.
        batch_size: samples in a rank's batch, or a pixel budget.
        shuffle: whether each epoch has an order of its own.
        drop_last: whether samples are left out rather than a batch be short.
        seed: everything random follows from it.
        world: the rank; default: asked for when each pass begins (`current_world`).
        workers: worker processes.
        prefetch: batches ahead where this process decodes in a thread.
        even: whether the short batch is filled up for all ranks.
        decorrelate: whether the ranks take batches of different buckets at a step.
        sizes: of a map-style dataset's images, if they are known.
        sampler: gives the order, where it is not planned.
        batch_sampler: the same by the batch.
        sampling: how often samples come in an epoch.

    Returns:
        A session over a plan; over a stream for iterable datasets and for shards at a URL that have no index.

    Raises:
        ConfigError: `dataset` is none of these, an argument does not go with it, or the device is not there.
    """
    if world is not None and not isinstance(world, World):
        raise ConfigError(f"world must be a World(rank, size); got {world!r}")
    size = batch_size if isinstance(batch_size, PixelBudget) else whole(batch_size, 1)
    if size is None:
        raise ConfigError(f"batch_size must be a whole number above 0, or a PixelBudget; got {batch_size!r}")
    check_seed(seed, 0)
    seed = int(seed)
    device = local_device(pipeline.device)
    if device != pipeline.device:
        pipeline = replace(pipeline, device=device)
    skips = is_of_sample if isinstance(pipeline.on_error, Skip) else None
    wide = not pipeline.pixels.plain
    data = _open(dataset, sizes, skips, workers, shuffle=shuffle, seed=seed, world=world, wide=wide)
    threads = workers or torch.get_num_threads()
    if isinstance(data, Source):
        return PlannedSession(
            data,
            pipeline,
            batch_size=size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            world=world,
            threads=threads,
            prefetch=prefetch,
            even=even,
            decorrelate=decorrelate,
            sampler=sampler,
            batch_sampler=batch_sampler,
            sampling=sampling,
        )
    no_meaning = {"shuffle": shuffle and data is dataset, "even": even, "decorrelate": decorrelate}
    no_meaning |= {"sampler": sampler is not None, "batch_sampler": batch_sampler is not None}
    no_meaning |= {"sampling": sampling is not None}
    for name, given in (no_meaning | {"sizes": sizes is not None}).items():
        if given:
            raise ConfigError(
                f"{name} has no meaning for a stream, which comes in its own order and is not known ahead; "
                f"got {type(dataset).__name__}. Drop it, shuffle in the dataset itself, or use a map-style dataset."
            )
    return StreamSession(
        data,
        pipeline,
        batch_size=size,
        drop_last=drop_last,
        seed=seed,
        world=world,
        workers=workers,
        threads=threads,
        prefetch=prefetch,
    )


def _open(
    dataset: Any,
    sizes: Any,
    skips: Skips | None,
    workers: int,
    *,
    shuffle: bool,
    seed: int,
    world: World | None,
    wide: bool,
) -> Source | Iterable[Any]:
    if isinstance(dataset, Source | IterableDataset):
        return dataset
    names = [dataset] if isinstance(dataset, str | Path) else dataset
    if isinstance(names, Sequence) and len(names) and all(isinstance(name, str | Path) for name in names):
        if any(is_remote(name) for name in names):
            return open_shards(dataset) or ShardStream(dataset, shuffle=shuffle, seed=seed, world=world)
        if sizes is not None:
            raise ConfigError("sizes has no meaning for shards and files of images, whose sizes are known. Drop it.")
        return open_named(dataset, on_error="raise" if skips is None else "drop")
    return dataset_source(dataset, sizes=sizes, skips=skips, workers=workers, wide=wide)
