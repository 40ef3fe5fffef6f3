"""Dataset classes of the user's own, timm's and Hugging Face's."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision import transforms as v1

import resflow as rf
from resflow.fusion import FusedDataset
from tests.fusion.test_fuse import NUMBERS, assert_near, seed

STEPS = [v1.RandomResizedCrop(48), v1.RandomHorizontalFlip(), v1.ColorJitter(0.3), *NUMBERS]


class Pets(Dataset[Any]):
    """As Accelerate's example has it."""

    def __init__(self, root: Path, image_transform: Any = None, named: bool = True) -> None:
        self.file_names = sorted(map(str, root.rglob("*.jpg")))
        self.image_transform = image_transform
        if named:
            self.paths = self.file_names

    def __len__(self) -> int:
        return len(self.file_names)

    def __getitem__(self, idx: int) -> Any:
        fname = self.file_names[idx]
        image = Image.open(fname).convert("RGB")
        if self.image_transform is not None:
            image = self.image_transform(image)
        return {"image": image, "label": int(re.findall(r"\d+", fname)[-1])}


class Bytes(Dataset[Any]):
    """Reads in a way of its own."""

    def __init__(self, root: Path, transform: Any = None) -> None:
        self.blobs = [path.read_bytes() for path in sorted(root.rglob("*.jpg"))]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.blobs)

    def read(self, index: int) -> bytes:
        return self.blobs[index]

    def target(self, index: int) -> Any:
        return index * 10


class Whole(Bytes):
    def __getitem__(self, index: int) -> Any:
        image = torch.from_numpy(np.array(Image.open(__import__("io").BytesIO(self.read(index))).convert("RGB")))
        return self.transform(Image.fromarray(image.numpy())), self.target(index)


class Indexed(datasets.ImageFolder):
    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.samples]

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return {"index": index, "image": image + 1, "label": label}


def check(plain: Any, fused: Any, number: Callable[[Any], Any] = lambda item: item) -> None:
    assert isinstance(fused, FusedDataset)
    order = list(range(len(plain)))[::-1]
    seed(5)
    expected = [plain[index] for index in order]
    for read in (fused.__getitems__, lambda order: [fused[index] for index in order]):
        seed(5)
        for one, other in zip(expected, read(order), strict=True):
            if isinstance(one, dict):
                assert list(one) == list(other)
                one, other = list(one.values()), list(other.values())
            assert len(one) == len(other)
            for a, b in zip(one, other, strict=True):
                if isinstance(a, torch.Tensor) and a.ndim == 3:
                    assert_near(b, a, 2.5)
                else:
                    assert a == b
    loader = rf.DataLoader(fused, batch_size=4, num_workers=1)
    assert sum(1 for _ in loader) == -(-len(fused) // 4)


def test_a_class_that_names_its_paths(photos: Path) -> None:
    steps = v1.Compose(STEPS)
    check(Pets(photos, steps), rf.fuse(Pets(photos, steps)))
    check(Indexed(photos, v1.Compose(STEPS)), rf.fuse(Indexed(photos, v1.Compose(STEPS))))
    fused = rf.fuse(Pets(photos, steps))
    assert len(pickle.loads(pickle.dumps(fused))) == len(fused)
    assert "decoded as one window: RandomResizedCrop" in repr(fused)


def test_a_class_that_reads(photos: Path) -> None:
    steps = v1.Compose([v1.RandomResizedCrop(48), *NUMBERS])
    check(Whole(photos, steps), rf.fuse(Whole(photos, steps)))
    check(Whole(photos, steps), rf.fuse(Bytes(photos, steps)))
    check(Whole(photos, steps), rf.fuse(Bytes(photos), transform=steps))


class Otherwise(Whole):
    def target(self, index: int) -> Any:
        return index

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.open(__import__("io").BytesIO(self.read(index))).convert("RGB")), index + 1


class Array(Pets):
    def __getitem__(self, idx: int) -> Any:
        return np.fromfile(self.file_names[idx], np.uint8)


def test_one_that_cannot_be_fused_stays_and_says_what_to_add(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps = v1.Compose(STEPS)
    cases = {
        "an attribute `paths`": Pets(photos, steps, named=False),
        "its first item would be another: got 0, expected 1": Otherwise(photos, steps),
        "no method of Array calls PIL.Image.open": Array(photos, steps),
    }
    for told, dataset in cases.items():
        caplog.clear()
        state = torch.get_rng_state()
        with caplog.at_level(logging.WARNING, "resflow"):
            assert rf.fuse(dataset) is dataset
        assert torch.equal(torch.get_rng_state(), state)
        assert told in caplog.text
