"""The two halves that PyTorch's DataLoader runs: a sampler that walks the plan, a dataset that fills planned batches.

The sampler yields a `PlannedBatch` where PyTorch expects a list of indices, and hands it to a worker as it is. So the
shape travels with the request, and workers need to know neither the epoch nor the schedule.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from resflow.batch import Batch
from resflow.decode import Decoder, open_engine
from resflow.errors import ResflowError, SampleError, TargetError
from resflow.geometry import Geometry, apply_views
from resflow.pipeline import Pipeline
from resflow.plan import EpochPlan, PlannedBatch, World
from resflow.sources import Sample, Source

_NUMBER = re.compile(rb"\s*[+-]?\d{1,18}\s*")

Planner = Callable[[int], EpochPlan]
"""Gives the plan of an epoch."""


class PlanSampler(Sampler[Any]):
    """Walks one rank's part of the plan, an epoch a pass, and tells the source what will be read next.

    Args:
        planner: gives the plan of an epoch.
        length: gives an epoch's number of batches, without planning it.
        world: which part of each global batch is ours.
        source: told about each batch as it is handed to a worker, ahead of its being read.
    """

    def __init__(self, planner: Planner, length: Callable[[int], int], world: World, source: Source) -> None:
        self._planner, self._length, self._world, self._source = planner, length, world, source
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self._length(self.epoch)

    def __iter__(self) -> Iterator[PlannedBatch]:
        planned = self._planner(self.epoch).rank(self._world)
        for step in range(self.start, len(planned)):
            batch = planned.batch(step)
            self._source.read_ahead(batch.sample_ids)
            yield batch


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way from a worker to the loop, which raises it with its own type."""

    error: ResflowError


class PlannedDataset(Dataset[Batch]):
    """Reads, places and decodes planned batches; one engine for each process, opened when first used.

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
        self._seed, self._max_batch, self._threads = seed, max_batch, threads
        self._engine_name, self._engine_device = engine, engine_device
        self._engine: Decoder | None = None
        self._engine_process = self._home_process = os.getpid()

    def __len__(self) -> int:
        return len(self.source.index)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engine": None}

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
        geometry = self.place(planned)
        images = self._open().decode([sample.image for sample in samples], geometry)
        return Batch(
            images=images,
            targets=None if self.pipeline.target is None else class_labels(samples, self.pipeline.target),
            transform=torch.from_numpy(geometry.matrix.astype(np.float32)),
            valid=torch.from_numpy(geometry.valid),
            source_size=torch.from_numpy(geometry.source_size),
            sample_ids=torch.from_numpy(np.array(planned.sample_ids, dtype=np.int64)),
            keys=tuple(sample.key for sample in samples),
            resolution=planned.resolution,
        )

    def place(self, planned: PlannedBatch) -> Geometry:
        """The geometry of one batch: a function of the plan and the index alone, drawn before any byte is read."""
        size = np.ascontiguousarray(self.source.index.size[planned.sample_ids])
        matrix = self.pipeline.fit.place(size, planned.shape)
        matrix = apply_views(
            self.pipeline.views,
            matrix,
            size,
            planned.shape,
            seed=self._seed,
            epoch=planned.epoch,
            sample_ids=planned.sample_ids.astype(np.int64),
        )
        return Geometry(matrix, size, planned.shape)

    def close(self) -> None:
        """Close the engine of this process."""
        if self._engine is not None and self._engine_process == os.getpid():
            self._engine.close()
        self._engine = None

    def _open(self) -> Decoder:
        here = os.getpid()
        if self._engine is None or self._engine_process != here:
            self._engine = open_engine(
                self._engine_name,
                device=self._engine_device,
                fill=self.pipeline.fit.fill,
                threads=self._threads if here == self._home_process else 1,
                max_batch=self._max_batch,
            )
            self._engine_process = here
        return self._engine

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
        problem = None
        if text is None:
            problem = f"no class: expected a member .{member}; got {', '.join('.' + name for name in sample.members)}"
        elif not _NUMBER.fullmatch(text):
            problem = f"a class must be a decimal number; member .{member} holds {bytes(text[:40])!r}"
        else:
            labels[position] = int(bytes(text))
        if problem:
            way_out = "Name the right member in Pipeline(target=...), or None to read no targets."
            raise TargetError(f"{problem}. {way_out}", position=position, key=sample.key, shard=sample.shard)
    return labels
