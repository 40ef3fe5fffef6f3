"""Targets, label maps, augmentation and placement on a GPU are those on the CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import kornia.augmentation as kornia
import numpy as np
import pytest
import torch

from resflow.augment import Augment, CopyPaste, Mosaic
from resflow.augment.place import place_pixels
from resflow.batch import map_tensors
from resflow.geometry import Geometry
from resflow.targets import Instances, Targets, move_instances, move_label_maps, place_annotations
from tests.laws.test_decode_laws import placements
from tests.targets.scenes import annotation, placed, random_boxes, random_keypoints, turned

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BATCH, SIZE = 6, (96, 128)
EVERYTHING = Targets(masks=True, keypoints=True)
MATRICES = np.stack([turned(10.0 * n - 25, 0.8 + 0.1 * n, SIZE, SIZE, (3, -2)) for n in range(BATCH)])


def instances() -> Instances:
    def one(seed: int) -> Any:
        boxes = random_boxes(5, SIZE, seed)
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].tolist()
        return annotation(boxes, masks=[[polygon] for polygon in corners], keypoints=random_keypoints(5, 4, SIZE, seed))

    found: Instances = place_annotations([one(n) for n in range(BATCH)], placed([SIZE] * BATCH, SIZE), EVERYTHING)
    return found


def check_equal(one: Instances, other: Instances, tolerance: float = 1e-3) -> None:
    for field in (field for field in dataclasses.fields(one) if field.compare):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, torch.Tensor):
            assert left.is_cuda, field.name
            torch.testing.assert_close(left.cpu(), right, atol=tolerance, rtol=1e-4, msg=field.name)
        else:
            assert left == right, field.name


def test_objects_move_alike() -> None:
    here = instances()
    there = map_tensors(here, torch.Tensor.cuda)
    moved = move_instances(there, MATRICES, SIZE, EVERYTHING)
    check_equal(moved, move_instances(here, MATRICES, SIZE, EVERYTHING))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_label_maps_move_alike(dtype: torch.dtype) -> None:
    maps = torch.randint(0, 20, (BATCH, *SIZE), generator=torch.Generator().manual_seed(0)).to(dtype)
    moved = move_label_maps(maps.cuda(), MATRICES, SIZE, EVERYTHING)
    assert moved.is_cuda
    assert torch.equal(moved.cpu(), move_label_maps(maps, MATRICES, SIZE, EVERYTHING))


OPERATIONS: dict[str, Any] = {
    "flips": lambda: [kornia.RandomHorizontalFlip(), kornia.RandomVerticalFlip()],
    "affine": lambda: [kornia.RandomAffine(15.0, (0.1, 0.2), (0.8, 1.25), (-8.0, 8.0), p=0.8)],
    "colour": lambda: [kornia.ColorJiggle(0.2, 0.2, 0.2, 0.1, p=1.0)],
    "mosaic": lambda: [Mosaic()],
    "copy and paste": lambda: [CopyPaste()],
}


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_augmentation_is_alike(name: str) -> None:
    """Kornia draws its numbers on the CPU, so that one seed is one draw on both; if not, this shows it."""
    here = instances()
    images = torch.randint(0, 256, (BATCH, 3, *SIZE), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    valid = torch.tensor([[0, 0, SIZE[1], SIZE[0]]] * BATCH, dtype=torch.int32)
    rest = {"transform": torch.eye(3).repeat(BATCH, 1, 1), "valid": valid}
    there = map_tensors((images, here, rest), torch.Tensor.cuda)
    options = {"options": EVERYTHING, "seed": 7, "progress": 1.0}
    expected = Augment(OPERATIONS[name]())(images, here, **rest, **options)
    got = Augment(OPERATIONS[name]())(there[0], there[1], **there[2], **options)
    assert got.images.is_cuda
    difference = (got.images.cpu() - expected.images).abs()
    assert difference.mean() < 2e-3
    torch.testing.assert_close(got.transform.cpu(), expected.transform, atol=1e-4, rtol=1e-4)
    check_equal(got.targets, expected.targets)


@pytest.mark.parametrize("resample", ["linear", "nearest"])
def test_pixels_are_placed_alike(resample: str) -> None:
    cases = list(placements(90, 120, (48, 64)).values())
    images = torch.randint(0, 256, (3, 90, 120), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    where = Geometry(np.stack(cases), np.tile(np.array([[90, 120]], np.int32), (len(cases), 1)), (48, 64))
    expected = place_pixels([images] * len(cases), where, fill=9, resample=resample)
    got = place_pixels([images.cuda()] * len(cases), where, fill=9, resample=resample)
    difference = (got.cpu().int() - expected.int()).abs()
    assert difference.max() <= (1 if resample == "linear" else 0)
