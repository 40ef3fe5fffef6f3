"""mosaicml-streaming: MDS shards of JPEG bytes, kept and read on local disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

from contestants.job import Batches, Job, renewed
from contestants.torch_files import loading, tensor_transform


def prepare(job: Job, folder: Path) -> None:
    """Write the shards."""
    columns = {"image": "bytes", "label": "int"}
    with MDSWriter(out=str(folder), columns=columns, size_limit="16mb") as writer:
        for path, label in job.files():
            writer.write({"image": Path(path).read_bytes(), "label": label})


class _Images(StreamingDataset):
    def __init__(self, change: Callable[[bytes], torch.Tensor], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.change = change

    def __getitem__(self, at: int) -> Any:
        sample = super().__getitem__(at)
        return self.change(sample["image"]), sample["label"]


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass."""

    def make(size: int) -> Batches:
        change = tensor_transform(job, size)
        data = _Images(change, local=str(job.own("streaming")), shuffle=job.train, batch_size=job.batch_size)
        return StreamingDataLoader(data, **loading(job))

    return renewed(job, make)
