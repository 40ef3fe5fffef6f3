"""LitData: chunks of JPEG bytes, decoded and transformed in `StreamingDataset.__getitem__`'s transform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from litdata import StreamingDataLoader, StreamingDataset, optimize

from contestants.job import Batches, Job, renewed
from contestants.torch_files import loading, tensor_transform


def _sample(item: tuple[str, int]) -> dict[str, Any]:
    path, label = item
    return {"image": Path(path).read_bytes(), "label": label}


def prepare(job: Job, folder: Path) -> None:
    """Write the chunks."""
    # 16 MB, so that a set of these sizes has several chunks to shuffle and to share between workers.
    optimize(fn=_sample, inputs=job.files(), output_dir=str(folder), chunk_bytes="16MB", num_workers=job.workers)


class _Transform:
    def __init__(self, change: Callable[[bytes], torch.Tensor]) -> None:
        self.change = change

    def __call__(self, sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
        return self.change(sample["image"]), sample["label"]


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass."""

    def make(size: int) -> Batches:
        change = _Transform(tensor_transform(job, size))
        data = StreamingDataset(str(job.own("litdata")), shuffle=job.train, drop_last=False, transform=change)
        return StreamingDataLoader(data, **loading(job))

    return renewed(job, make)
