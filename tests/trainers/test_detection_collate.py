"""torchvision's detection reference: batches as tuples, without a pipeline; beside one, its collate is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

import resflow as rf
from resflow.errors import ConfigError


class Detection(Dataset[Any]):
    """Images of many sizes with boxes, as torchvision's references give them."""

    def __len__(self) -> int:
        return 13

    def __getitem__(self, number: int) -> Any:
        generator = torch.Generator().manual_seed(number)
        height, width = torch.randint(20, 60, (2,), generator=generator).tolist()
        corners = torch.rand(number % 4, 2, 2, generator=generator).sort(1).values.flatten(1)
        boxes = tv_tensors.BoundingBoxes(corners * 20, format="XYXY", canvas_size=(height, width))  # type: ignore[call-overload]
        image = torch.rand(3, height, width, generator=generator)
        return image, {"boxes": boxes, "labels": torch.arange(number % 4), "image_id": number}


def collate(batch: Any) -> Any:
    return tuple(zip(*batch, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_as_torch(workers: int) -> None:
    def make(kind: type[torch.utils.data.DataLoader[Any]]) -> Any:
        sampler = torch.utils.data.RandomSampler(Detection(), generator=torch.Generator().manual_seed(5))
        batches = torch.utils.data.BatchSampler(sampler, 4, drop_last=True)
        return kind(Detection(), batch_sampler=batches, num_workers=workers, collate_fn=collate)

    ours, theirs = list(make(rf.DataLoader)), list(make(torch.utils.data.DataLoader))
    assert len(ours) == len(theirs) == 3
    for (images, targets), (right_images, right_targets) in zip(ours, theirs, strict=True):
        assert type(images) is type(targets) is tuple
        assert all(torch.equal(image, right) for image, right in zip(images, right_images, strict=True))
        for target, right in zip(targets, right_targets, strict=True):
            assert list(target) == list(right)
            assert type(target["boxes"]) is type(right["boxes"])
            assert torch.equal(target["boxes"], right["boxes"])
            assert torch.equal(target["labels"], right["labels"])
            assert target["image_id"] == right["image_id"]


class Bytes(Detection):
    """The same in uint8, as a pipeline takes them."""

    def __getitem__(self, number: int) -> Any:
        image, target = super().__getitem__(number)
        return (image * 255).to(torch.uint8), target


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1])
def test_beside_a_pipeline_samples_that_are_taken_apart_are_refused(size: int, workers: int) -> None:
    pipeline = rf.Pipeline(resolution=64, buckets=1, targets=rf.Targets(), normalize=rf.IMAGENET)
    loader = rf.DataLoader(Bytes(), size, num_workers=workers, pipeline=pipeline, collate_fn=collate)
    with pytest.raises(ConfigError, match=rf"given a finished Batch: it made {size} pairs.*Pass no collate_fn"):
        next(iter(loader))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_beside_a_pipeline_what_takes_a_batch_is_not(size: int) -> None:
    pipeline = rf.Pipeline(resolution=64, buckets=1, targets=rf.Targets(), normalize=rf.IMAGENET)
    for whole in (lambda batch: (list(batch.images), batch.targets), lambda batch: [batch.images, batch.images], tuple):
        for given in rf.DataLoader(Bytes(), size, pipeline=pipeline, collate_fn=whole):
            assert len(given[0]) == len(given[1])
