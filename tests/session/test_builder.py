"""Images that are pixels already: placed on the device as an engine would place them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

import resflow as rf
from resflow.augment.place import place_pixels
from resflow.geometry import Geometry


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


def test_pixels_placed_on_the_device_are_those_of_an_engine() -> None:
    views = [rf.views.RandomResizedCrop(), rf.views.Rotate(10)]
    pipeline = rf.Pipeline(resolution=64, stride=16, buckets=3, views=views)
    exact, turned = [], []
    for batch in rf.DataLoader(Pictures(), 4, pipeline=pipeline):
        pixels = [Pictures()[number][0] for number in batch.targets.tolist()]
        size = batch.source_size.numpy()
        matrix = batch.transform.double().numpy()
        shape = (batch.images.shape[2], batch.images.shape[3])
        placed = place_pixels(pixels, Geometry(matrix, size, shape), fill=pipeline.fit.fill)
        assert placed.is_contiguous(memory_format=torch.channels_last)
        assert (placed.int() - batch.images.int()).abs().max() <= 3
        exact.append(float((placed.float() - batch.images.float()).abs().mean()))
        sine, cosine = np.sin(np.pi / 180), np.cos(np.pi / 180)
        degree = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ matrix
        other = place_pixels(pixels, Geometry(degree, size, shape), fill=pipeline.fit.fill)
        turned.append(float((other.float() - batch.images.float()).abs().mean()))
    assert np.mean(exact) < 0.5
    assert np.mean(turned) > 1.0  # the check sees a degree
