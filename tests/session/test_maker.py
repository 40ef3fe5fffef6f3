"""Images that are pixels already: placed on the device as an engine would place them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

import resflow as rf
from resflow.session.run import PlannedRun
from resflow.sources import dataset_source


class Pictures(Dataset[Any]):
    """Smooth pictures as tensors [3, H, W]."""

    def __len__(self) -> int:
        return 12

    def get_height_and_width(self, number: int) -> tuple[int, int]:
        return 60 + 7 * number, 120 - 3 * number

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(number))
        size = self.get_height_and_width(number)
        smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
        return (smooth[0] * 255).clamp(0, 255).to(torch.uint8), number


def batches(*, on_device: bool, shift: float = 0.0) -> list[rf.Batch]:
    pipeline = rf.Pipeline(
        resolution=64, stride=16, buckets=3, views=[rf.views.RandomResizedCrop(), rf.views.Rotate(10 + shift)]
    )
    run = PlannedRun(
        dataset_source(Pictures()), pipeline, batch_size=4, shuffle=False, drop_last=False, seed=0, world=None,
        threads=1, prefetch=1,
    )  # fmt: skip
    run.dataset._maker.places_on_device = on_device
    planned = run.plan(0).rank(rf.World(0, 1))
    return [run.dataset.fill(planned.batch(step)) for step in range(len(planned))]


def difference(one: list[rf.Batch], other: list[rf.Batch]) -> float:
    pairs = zip(one, other, strict=True)
    return float(np.mean([(left.images.float() - right.images.float()).abs().mean() for left, right in pairs]))


def test_pixels_placed_on_the_device_are_those_of_an_engine() -> None:
    by_engine, on_device = batches(on_device=False), batches(on_device=True)
    for left, right in zip(by_engine, on_device, strict=True):
        assert right.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(left.transform, right.transform)
        assert torch.equal(left.targets, right.targets)
        assert (left.images.int() - right.images.int()).abs().max() <= 3
    assert difference(by_engine, on_device) < 0.5
    assert difference(by_engine, batches(on_device=True, shift=1.0)) > 1.0  # the check sees a degree
