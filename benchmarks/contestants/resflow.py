"""Resflow over WebDataset shards; squares only, so that all do equal work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from contestants.job import Batches, Job
from resflow import Buckets, DataLoader, Fit, Pipeline
from resflow.sources.index_build import build_index
from resflow.sources.index_file import write_index
from resflow.sources.index_lookup import index_path
from resflow.views import HorizontalFlip, RandomResizedCrop


def prepare(job: Job, folder: Path) -> None:
    """Index the shards. Those with tiers lie elsewhere (`resflow_tiers`), so that these have none."""
    write_index(build_index(job.shards), index_path(job.shards))
    folder.mkdir()


@dataclass(frozen=True)
class _Listed:
    """A schedule by a list, an epoch each: the warm pass and then the epochs of the others' schedule."""

    sizes: tuple[int, ...]

    @property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.sizes)))

    def __call__(self, samples: npt.NDArray[np.int64], epoch_size: int, seed: int) -> npt.NDArray[np.int32]:
        return np.array(self.sizes, np.int32)[np.minimum(samples // epoch_size, len(self.sizes) - 1)]


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass, by one loader, whatever the sizes are."""
    return passes_over(job.shards, job)


def passes_over(shards: list[str], job: Job) -> Iterator[Batches]:
    """The same over copies of the shards."""
    torch.set_num_threads(job.workers)
    sides = sorted(set(job.sizes))
    pipeline = Pipeline(
        resolution=_Listed(job.sizes) if len(sides) > 1 else sides[0],
        buckets=Buckets.square(*sides, stride=32),
        fit=Fit.stretch(),
        views=[RandomResizedCrop(scale=job.SCALE), HorizontalFlip()] if job.train else [],
    )
    workers = (
        {"num_workers": job.workers, "prefetch_factor": job.prefetch, "persistent_workers": True}
        if job.options["workers"]
        else {}
    )
    loader = DataLoader(shards, batch_size=job.batch_size, shuffle=job.train, pipeline=pipeline, **workers)
    for epoch in range(len(job.sizes)):
        loader.set_epoch(epoch)
        yield loader
