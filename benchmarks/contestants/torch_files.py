"""PyTorch's DataLoader over files: the baseline with PIL, and torchvision's decoder with transforms on tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from contestants.job import Batches, Job, renewed


def transform(job: Job, size: int) -> list[Any]:
    """torchvision's transforms of the job, on tensors and PIL images alike."""
    if not job.train:
        return [v2.Resize((size, size), antialias=True)]
    crop = v2.RandomResizedCrop(size, scale=job.SCALE, ratio=job.RATIO, antialias=True)
    return [crop, v2.RandomHorizontalFlip()]


def tensor_transform(job: Job, size: int) -> Callable[[bytes], torch.Tensor]:
    """From encoded bytes to a uint8 tensor [3, size, size], by torchvision alone."""
    change = v2.Compose(transform(job, size))

    def read(encoded: bytes) -> torch.Tensor:
        data = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        return change(decode_jpeg(data, mode=ImageReadMode.RGB))

    return read


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Images of a list.

    Args:
        files: path and label of each.
        pil: decode with PIL; else with torchvision.
        change: from the decoded image to a tensor.
    """

    def __init__(self, files: list[tuple[str, int]], pil: bool, change: Callable[[Any], torch.Tensor]) -> None:
        self.files, self.pil, self.change = files, pil, change

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        path, label = self.files[number]
        if self.pil:
            with Image.open(path) as image:
                return self.change(image.convert("RGB")), label
        return self.change(decode_jpeg(read_file(path), mode=ImageReadMode.RGB)), label


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass."""
    pil = job.options["decode"] == "pil"

    def make(size: int) -> Batches:
        change = v2.Compose([*transform(job, size), *([v2.PILToTensor()] if pil else [])])
        return DataLoader(Files(job.files(), pil, change), shuffle=job.train, **loading(job))

    return renewed(job, make)


def loading(job: Job) -> dict[str, Any]:
    """Arguments that PyTorch's DataLoader and its subclasses share."""
    return {
        "batch_size": job.batch_size,
        "num_workers": job.workers,
        "prefetch_factor": job.prefetch,
        "persistent_workers": True,
    }
