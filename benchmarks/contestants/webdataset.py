"""webdataset: tar shards, a shuffle buffer, batches collated in the workers, as its documentation has it."""

from __future__ import annotations

from collections.abc import Iterator

import webdataset as wds

from contestants.job import Batches, Job, renewed
from contestants.torch_files import loading, tensor_transform

_BUFFER = 1000  # samples to shuffle among


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass."""

    def make(size: int) -> Batches:
        shards = job.shards
        data = wds.WebDataset(shards, shardshuffle=len(shards) if job.train else False, empty_check=False)
        if job.train:
            data = data.shuffle(_BUFFER)
        data = data.to_tuple("jpg", "cls").map_tuple(tensor_transform(job, size), int).batched(job.batch_size)
        return wds.WebLoader(data, **loading(job) | {"batch_size": None})

    return renewed(job, make)
