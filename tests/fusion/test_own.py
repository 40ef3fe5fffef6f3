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
from torch.utils.data import Dataset, Subset
from torchvision import datasets
from torchvision import transforms as v1

import resflow as rf
from resflow.fusion import FusedDataset
from resflow.fusion.lazy import LazyImage
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


class Arrays(Pets):
    """As albumentations' documentation has it, with a mask."""

    def __getitem__(self, idx: int) -> Any:
        image = np.array(Image.open(self.file_names[idx]).convert("RGB"))
        found = self.image_transform(image=image, mask=image[..., 0])
        return found["image"], found["mask"], idx


class Masks(Pets):
    """Hands an image and its mask to a function of two, which is called `transform`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.transform = lambda image, mask: (image.crop((3, 4, 60, 70)), np.asarray(mask)[2:7])

    def __getitem__(self, idx: int) -> Any:
        image = Image.open(self.file_names[idx]).convert("RGB")
        image, mask = self.transform(image, image.convert("L"))
        return {"image": image.size, "mask": int(mask.sum())}


class Optional(Pets):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.transform = None

    def __getitem__(self, idx: int) -> Any:
        image = Image.open(self.file_names[idx]).convert("RGB").crop((0, 0, 9, 7))
        return image.size if self.transform is None else self.transform(image)


def test_what_a_class_does_without_a_transform_is_done(photos: Path) -> None:
    fused = rf.fuse(Optional(photos))
    assert isinstance(fused, FusedDataset)
    assert fused.__getitems__([0, 1]) == [(9, 7), (9, 7)]
    for transform in (v1.ToTensor(), None):  # seen from the next batch on
        fused.transform = transform
        [item] = fused.__getitems__([2])
        assert (item if transform is None else item.shape) == ((9, 7) if transform is None else (3, 7, 9))


def test_transforms_that_are_called_in_another_way_run_as_they_are(photos: Path) -> None:
    plain, fused = Masks(photos), rf.fuse(Masks(photos))
    assert isinstance(fused, FusedDataset)
    assert fused.__getitems__(range(4)) == [plain[number] for number in range(4)]


def test_albumentations(photos: Path) -> None:
    A = pytest.importorskip("albumentations")  # noqa: N806

    def recipe() -> Any:
        return A.Compose(
            [A.RandomResizedCrop((40, 48)), A.HorizontalFlip(), A.ColorJitter(), A.Normalize(), A.ToTensorV2()], seed=4
        )

    class OwnRecipe(Arrays):
        def __init__(self) -> None:
            super().__init__(photos)
            self.transform = self.image_transform = recipe()

    plain, fused = OwnRecipe(), rf.fuse(OwnRecipe())
    assert "albumentations.Compose is handed an array of all pixels" in repr(fused)
    folder, given = datasets.ImageFolder(photos), rf.fuse(datasets.ImageFolder(photos), transform=recipe())
    blobs, steps = rf.fuse(Bytes(photos, recipe())), recipe()
    assert "albumentations.Compose is handed an array of all pixels" in repr(given)
    for number, one in enumerate(blobs.__getitems__(range(4))):
        opened = Image.open(sorted(photos.rglob("*.jpg"))[number]).convert("RGB")
        assert torch.equal(one[0], steps(image=np.array(opened))["image"])
    steps = recipe()
    for number, one in enumerate(given.__getitems__(range(4))):
        assert torch.equal(one[0], steps(image=np.array(folder[number][0]))["image"])
    for number, one in enumerate(fused.__getitems__(range(4))):
        assert all(map(torch.equal, *(map(torch.as_tensor, item) for item in (one, plain[number]))))


class Otherwise(Whole):
    def target(self, index: int) -> Any:
        return index

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.open(__import__("io").BytesIO(self.read(index))).convert("RGB")), index + 1


class Around(Dataset[Any]):
    """Gives a part of a dataset a transform, as many scripts do."""

    def __init__(self, part: Any, transform: Any) -> None:
        self.part, self.transform = part, transform

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> Any:
        image, label = self.part[index]
        return self.transform(image), label


class Array(Pets):
    def __getitem__(self, idx: int) -> Any:
        return np.fromfile(self.file_names[idx], np.uint8)


def test_one_that_cannot_be_fused_stays_and_says_what_to_add(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps = v1.Compose(STEPS)
    cases = {
        "an attribute `paths`": Pets(photos, steps, named=False),
        "its first item would be another: got 0, expected 1": Otherwise(photos, steps),
        "around the dataset in `part`. Fuse that one": Around(datasets.ImageFolder(photos), steps),
        "no method of Array calls PIL.Image.open": Array(photos, steps),
    }
    for told, dataset in cases.items():
        caplog.clear()
        state = torch.get_rng_state()
        with caplog.at_level(logging.WARNING, "resflow"):
            assert rf.fuse(dataset) is dataset
        assert torch.equal(torch.get_rng_state(), state)
        assert told in caplog.text
    part = Subset(datasets.ImageFolder(photos), range(0, 24, 2))
    check(Around(part, steps), rf.fuse(part, transform=steps))  # which is the way out


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm leaves files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_timm(photos: Path) -> None:
    timm = pytest.importorskip("timm.data", reason="timm is not installed; `pip install timm`")
    options: list[dict[str, Any]] = [
        {"is_training": True, "auto_augment": "rand-m9-mstd0.5", "re_prob": 0.25, "interpolation": "random"},
        {"is_training": True, "use_prefetcher": True, "interpolation": "bilinear"},
        {"is_training": False, "crop_pct": 0.9, "interpolation": "bicubic"},
        {"is_training": False, "crop_mode": "border", "interpolation": "bilinear"},
    ]
    for chosen in options:
        steps = timm.create_transform(48, **chosen)
        plain, fused = timm.ImageDataset(photos), rf.fuse(timm.ImageDataset(photos))
        plain.transform = fused.transform = steps  # timm's create_loader sets it later, too
        assert isinstance(fused, FusedDataset)
        seed(1)
        np.random.seed(1)
        expected = [plain[number] for number in range(len(plain))]
        seed(1)
        np.random.seed(1)
        for one, other in zip(expected, fused.__getitems__(range(len(plain))), strict=True):
            assert one[1] == other[1]
            a, b = torch.as_tensor(one[0]).double(), torch.as_tensor(other[0]).double()
            assert type(one[0]) is type(other[0])
            assert (a.shape, one[0].dtype) == (b.shape, other[0].dtype)
            assert (a - b).abs().mean() / (a.std() + 1e-3) < 0.1


def test_hugging_face(photos: Path) -> None:
    hub = pytest.importorskip("datasets", reason="datasets is not installed; `pip install datasets`")
    paths = sorted(map(str, photos.rglob("*.*")))
    steps = v1.Compose(STEPS)

    def make(bytes_too: bool) -> Any:
        images = [{"bytes": Path(path).read_bytes(), "path": None} if bytes_too else path for path in paths]
        features = hub.Features({"image": hub.Image(), "label": hub.Value("int64")})
        return hub.Dataset.from_dict({"image": images, "label": list(range(len(paths)))}, features=features)

    def preprocess(batch: Any) -> Any:
        batch["pixel_values"] = [steps(image.convert("RGB")) for image in batch["image"]]
        return batch

    for bytes_too in (True, False):
        plain = make(bytes_too).with_transform(preprocess)
        fused = rf.fuse(make(bytes_too).with_transform(preprocess))
        assert isinstance(fused, FusedDataset)
        order = list(range(len(plain)))[::-1]
        seed(2)
        expected = plain.__getitems__(order)
        seed(2)
        for one, other in zip(expected, fused.__getitems__(order), strict=True):
            assert list(one) == list(other)
            assert one["label"] == other["label"]
            assert one["image"].size == other["image"].size
            assert isinstance(other["image"], LazyImage) == (one["image"].format == "JPEG")
            assert_near(other["pixel_values"], one["pixel_values"], 2.0)
        seed(2)
        given = rf.fuse(make(bytes_too).select_columns(["image", "label"]), transform=v1.Compose([v1.CenterCrop(40)]))
        assert [item["image"].size for item in given.__getitems__([0, 1])] == [(40, 40), (40, 40)]
        assert "decoded as one window: RandomResizedCrop" in repr(fused)
    assert fused.column_names == ["image", "label"]
    assert fused["label"][3] == 3


def test_what_hugging_face_cannot_be_fused(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub = pytest.importorskip("datasets", reason="datasets is not installed; `pip install datasets`")
    numbers = hub.Dataset.from_dict({"x": [1, 2]})
    images = hub.Dataset.from_dict({"image": [str(next(photos.rglob("*.jpg")))]}).cast_column("image", hub.Image())
    for told, dataset in {
        "none of its columns ['x'] holds images": numbers,
        "its format is 'torch'": images.with_format("torch"),
        "it has no transform": images,
    }.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING, "resflow"):
            assert rf.fuse(dataset) is dataset
        assert told in caplog.text
