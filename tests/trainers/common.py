"""What the tests of all trainers share: data, loaders, a model, and the law that batches follow the plan."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torchvision.datasets as vision
from torch import nn

import resflow as rf
from tests.shards import make_shards, samples

COUNT = 29
CLASSES = 7
BATCH = 6  # 29 samples: 5 batches, the last one short
SCHEDULE = rf.schedules.Steps({0: 32, 1: 48, 2: 64})
PIPELINE = rf.Pipeline(
    resolution=SCHEDULE, buckets=3, stride=8, views=[rf.views.HorizontalFlip()], normalize=rf.IMAGENET
)
EVALUATION = PIPELINE.evaluation(resolution=48)
KINDS = ("shards", "folder")

Seen = list[tuple[int, list[int], int]]
"""Of each batch in turn: epoch, sample ids, resolution."""


def make_data(root: Path) -> None:
    """The same pictures as shards and as class folders."""
    make_shards(root / "shards", COUNT, per_shard=12)
    for sample in samples(COUNT):
        path = root / "folder" / f"class{sample['cls']}" / f"{sample['__key__']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = sample["jpg"]
        assert isinstance(data, bytes)
        path.write_bytes(data)


def make_loader(
    root: Path, kind: str = "shards", *, pipeline: rf.Pipeline = PIPELINE, batch_size: int = BATCH, **arguments: Any
) -> rf.DataLoader[Any]:
    """A loader over the data: shuffled for training, in order with the evaluation pipeline."""
    data: Any = (
        str(root / "shards" / "train-{000000..000002}.tar")
        if kind == "shards"
        else vision.ImageFolder(str(root / "folder"))
    )
    shuffle = arguments.pop("shuffle", pipeline is PIPELINE)
    return rf.DataLoader(data, batch_size=batch_size, shuffle=shuffle, pipeline=pipeline, **arguments)


def planned(loader: rf.DataLoader[Any], epochs: Iterable[int]) -> Seen:
    """What the plan says of all ranks' batches."""
    said: Seen = []
    for epoch in epochs:
        plan = loader.plan(epoch)
        said += [
            (epoch, plan.sample_ids[first:end].tolist(), int(resolution))
            for first, end, resolution in zip(plan.offsets, plan.offsets[1:], plan.resolutions, strict=False)
        ]
    return said


def assert_planned(
    seen: Seen, loader: rf.DataLoader[Any], epochs: Iterable[int], *, start: int = 0, ranks: int = 1
) -> None:
    """What a trainer was given is the plan of these epochs, from a step of the first on, in order.

    A batch of fewer samples than `ranks` is filled up from its beginning, since no rank's part is empty.
    """
    said = [
        (epoch, ids + (ids * ranks)[: max(0, ranks - len(ids))], resolution)
        for epoch, ids, resolution in planned(loader, epochs)[start:]
    ]
    assert [epoch for epoch, _, _ in seen] == [epoch for epoch, _, _ in said]
    assert [ids for _, ids, _ in seen] == [ids for _, ids, _ in said]
    assert [resolution for _, _, resolution in seen] == [resolution for _, _, resolution in said]


class Net(nn.Module):
    """A classifier for images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.head(self.convolution(images).mean((2, 3)))
        return features


def as_torch_gives(count: int = 16) -> torch.utils.data.Dataset[Any]:
    """A dataset that needs no pipeline: images of one size, and their classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return torch.utils.data.TensorDataset(images, torch.arange(count) % CLASSES)
