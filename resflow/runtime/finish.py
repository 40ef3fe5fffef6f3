"""The last steps of a batch, in the loop's own process: errors raised, device, normalisation, the user's collate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import get_worker_info

from resflow.batch import Batch
from resflow.errors import ResflowError
from resflow.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way from a worker to the loop, which raises it with its own type."""

    error: ResflowError


@dataclass(frozen=True, slots=True)
class Finish:
    """Finishes batches; stands as the loader's `collate_fn`, so that loaders which trainers build anew finish, too.

    Args:
        pipeline: says the device, the normalisation and the dtype.
        collate: from the finished `Batch` to what the loop is given; None gives the `Batch`.
    """

    pipeline: Pipeline
    collate: Callable[[Batch], Any] | None = None

    def __call__(self, batch: Batch | Failure) -> Any:
        """Finish a batch.

        Args:
            batch: uint8, as a worker made it, or what went wrong there.

        Returns:
            The batch on the pipeline's device, normalised there, collated. In a worker process it stays on the CPU.

        Raises:
            ResflowError: what went wrong.
        """
        if isinstance(batch, Failure):
            raise batch.error
        pipeline = self.pipeline
        if torch.device(pipeline.device).type != "cpu" and get_worker_info() is None:
            batch = batch.to(pipeline.device, non_blocking=True)
        if pipeline.normalize is not None:
            batch = dataclasses.replace(batch, images=pipeline.normalize(batch.images, pipeline.dtype))
        return batch if self.collate is None else self.collate(batch)


def as_it_is(batch: Any) -> Any:
    """A collate function for batches that come whole."""
    return batch
