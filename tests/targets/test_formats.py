from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from resflow.targets import Instances, Targets, hand_out, place_annotations
from tests.targets.scenes import annotation, placed, random_boxes

SHAPE = (16, 24)


def instances(counts: list[int], options: Targets) -> Instances:
    given = [
        annotation(
            random_boxes(n, SHAPE, n),
            masks=[np.ones(SHAPE, np.uint8)] * n,
            keypoints=np.full((n, 4, 3), 2.0),
            image_id=100 + place,
        )
        for place, n in enumerate(counts)
    ]
    return place_annotations(given, placed([SHAPE] * len(counts), SHAPE), options)


def asked(form: str) -> Targets:
    return Targets(format=form, masks=True, keypoints=True, min_side=0)


@pytest.mark.parametrize("form", ["list", "tv_tensors"])
@pytest.mark.parametrize("counts", [[], [0], [3, 0, 2]])
def test_a_dict_for_each_image(counts: list[int], form: str) -> None:
    one = instances(counts, asked(form))
    dicts = hand_out(one, asked(form), SHAPE)
    assert isinstance(dicts, list)
    assert len(dicts) == len(counts)
    for place, (given, count) in enumerate(zip(dicts, counts, strict=True)):
        shapes = {
            "boxes": (torch.float32, (count, 4)),
            "labels": (torch.int64, (count,)),
            "area": (torch.float32, (count,)),
            "iscrowd": (torch.int64, (count,)),
            "masks": (torch.uint8, (count, *SHAPE)),
            "keypoints": (torch.float32, (count, 4, 3)),
        }
        assert {name: (part.dtype, tuple(part.shape)) for name, part in given.items() if name != "image_id"} == shapes
        assert given["image_id"] == 100 + place
        assert type(given["image_id"]) is int
        assert given["boxes"].data_ptr() == one.boxes[sum(counts[:place]) :].data_ptr() or not count
        if form == "tv_tensors":
            assert type(given["boxes"]) is tv_tensors.BoundingBoxes
            assert type(given["masks"]) is tv_tensors.Mask
            assert given["boxes"].canvas_size == SHAPE
            assert given["boxes"].format.name == "XYXY"
            assert type(given["keypoints"]) is torch.Tensor


def test_only_what_was_asked_for() -> None:
    dicts = hand_out(instances([2], Targets(min_side=0)), Targets(), SHAPE)
    assert isinstance(dicts, list)
    assert list(dicts[0]) == ["boxes", "labels", "area", "iscrowd", "image_id"]


@pytest.mark.parametrize("counts", [[], [0], [3, 0, 2], [0, 0]])
def test_padded(counts: list[int]) -> None:
    one = instances(counts, asked("padded"))
    padded: Any = hand_out(one, asked("padded"), SHAPE)
    dicts: Any = hand_out(one, asked("list"), SHAPE)
    assert padded["count"].tolist() == counts
    assert padded["image_id"].tolist() == [100 + place for place in range(len(counts))]
    longest = max(counts, default=0)
    for name in ("boxes", "labels", "area", "iscrowd", "masks", "keypoints"):
        part = padded[name]
        assert part.shape[:2] == (len(counts), longest), name
        for place, count in enumerate(counts):
            assert torch.equal(part[place, :count], dicts[place][name])
            assert (part[place, count:] == (-100 if name == "labels" else 0)).all()
