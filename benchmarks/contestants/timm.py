"""timm's create_loader: PIL, its own transforms and collation; uint8 as its workers give it, before normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from timm.data import create_loader
from torch.utils.data import Dataset

from contestants.job import Batches, Job, renewed


class _Files(Dataset[Any]):
    def __init__(self, files: list[tuple[str, int]]) -> None:
        self.files = files
        self.transform: Any = None  # create_loader puts it here

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        path, label = self.files[number]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass."""

    def make(size: int) -> Batches:
        kind: dict[str, Any] = {"crop_mode": "squash", "crop_pct": 1.0}
        if job.train:
            kind = {"is_training": True, "scale": job.SCALE, "ratio": job.RATIO, "hflip": 0.5, "color_jitter": None}
        loader = create_loader(
            _Files(job.files()),
            (3, size, size),
            job.batch_size,
            interpolation="bilinear",
            num_workers=job.workers,
            persistent_workers=True,
            device=torch.device("cpu"),
            **kind,
        )
        return loader.loader

    return renewed(job, make)
