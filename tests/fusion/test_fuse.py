"""A fused dataset gives what the dataset gives, from the same seed."""

from __future__ import annotations

import copy
import logging
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, Subset, default_collate, random_split
from torch.utils.data._utils.collate import default_collate_fn_map
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

import resflow as rf
from resflow.errors import ConfigError
from resflow.fusion import FusedDataset

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NUMBERS = [v1.ToTensor(), v1.Normalize(MEAN, STD)]
NUMBERS_V2 = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
BICUBIC = v1.InterpolationMode.BICUBIC


class Preset:
    """As torchvision's training presets: a plain object that only calls what it made."""

    def __init__(self) -> None:
        self.transforms = v1.Compose([v1.RandomResizedCrop(64), v1.RandomHorizontalFlip(), *NUMBERS])

    def __call__(self, img: Any) -> Any:
        return self.transforms(img)


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "train": lambda: v1.Compose([v1.RandomResizedCrop(64), v1.RandomHorizontalFlip(), *NUMBERS]),
    "evaluation": lambda: v1.Compose([v1.Resize(72), v1.CenterCrop(64), *NUMBERS]),
    "evaluation nearest": lambda: v1.Compose(
        [v1.RandomResizedCrop(64, interpolation=v1.InterpolationMode.NEAREST), v1.RandomHorizontalFlip(), *NUMBERS]
    ),
    "evaluation lanczos": lambda: v1.Compose(
        [v1.Resize(72, v1.InterpolationMode.LANCZOS), v1.CenterCrop(64), *NUMBERS]
    ),
    "evaluation bicubic": lambda: v1.Compose([v1.Resize(72, BICUBIC), v1.CenterCrop(64), *NUMBERS]),
    "pair": lambda: v1.Compose([v1.Resize((50, 70)), v1.RandomVerticalFlip(), *NUMBERS]),
    "longest": lambda: v1.Compose([v1.Resize(60, max_size=80), v1.CenterCrop(90), *NUMBERS]),
    "crop": lambda: v1.Compose([v1.RandomCrop(100, padding=4, fill=7), v1.RandomHorizontalFlip(), *NUMBERS]),
    "large crop": lambda: v1.Compose([v1.RandomCrop(230, pad_if_needed=True, padding_mode="reflect"), *NUMBERS]),
    "rotation": lambda: v1.Compose([v1.RandomResizedCrop(64), v1.RandomRotation(30, fill=9), *NUMBERS]),
    "affine": lambda: v1.Compose([v1.Resize(64), v1.RandomAffine(9, (0.1, 0.1), (0.8, 1.2), 5), v1.CenterCrop(48)]),
    "two resizes": lambda: v1.Compose([v1.Resize(90), v1.RandomResizedCrop(48), *NUMBERS]),
    "jitter": lambda: v1.Compose([v1.RandomResizedCrop(64), v1.ColorJitter(0.4, 0.4, 0.4, 0.1), *NUMBERS]),
    "recipe": lambda: v1.Compose(
        [v1.RandomResizedCrop(64), v1.RandomHorizontalFlip(), v1.RandAugment(), *NUMBERS, v1.RandomErasing(0.5)]
    ),
    "choices": lambda: v1.Compose(
        [
            v1.RandomApply([v1.RandomResizedCrop(96)], 0.5),
            v1.RandomChoice([v1.Resize((64, 64)), v1.RandomResizedCrop(64)]),
            v1.RandomGrayscale(0.3),
            *NUMBERS,
        ]
    ),
    "lambda": lambda: v1.Compose([v1.RandomResizedCrop(64), v1.Lambda(lambda x: x.rotate(90)), *NUMBERS]),
    "bytes": lambda: v1.Compose([v1.RandomResizedCrop(64), v1.PILToTensor()]),
    "half": lambda: v1.Compose([v1.CenterCrop(64), v1.PILToTensor(), v1.ConvertImageDtype(torch.float16)]),
    "pil": lambda: v1.Compose([v1.Resize(72), v1.CenterCrop(64)]),
    "sequential": lambda: nn.Sequential(v1.RandomResizedCrop(64), v1.RandomHorizontalFlip()),
    "preset": Preset,
    "weights": lambda: __import__("torchvision").models.ResNet18_Weights.DEFAULT.transforms(),
    "v2": lambda: v2.Compose([v2.RandomResizedCrop(64), v2.RandomHorizontalFlip(), *NUMBERS_V2]),
    "v2 image first": lambda: v2.Compose(
        [v2.ToImage(), v2.RandomResizedCrop(64, antialias=True), v2.RandomHorizontalFlip(), *NUMBERS_V2[1:]]
    ),
    "v2 pure": lambda: v2.Compose([v2.Resize(72), v2.RandomCrop(64), *NUMBERS_V2, v2.ToPureTensor()]),
    "v2 colour on tensors": lambda: v2.Compose(
        [v2.PILToTensor(), v2.RandomResizedCrop(64), v2.TrivialAugmentWide(), v2.ToDtype(torch.float32, scale=True)]
    ),
    "v2 short side": lambda: v2.Compose([v2.RandomShortestSize([64, 80]), v2.CenterCrop(48), *NUMBERS_V2]),
    "v2 jitter of scale": lambda: v2.Compose(
        [v2.ScaleJitter((64, 64)), v2.RandomCrop(64, pad_if_needed=True), *NUMBERS_V2]
    ),
    "v2 erasing": lambda: v2.Compose([v2.RandomResizedCrop(64), *NUMBERS_V2, v2.RandomErasing(0.9)]),
    "none": lambda: None,
}


def values(image: Any) -> np.ndarray[Any, Any]:
    found = np.asarray(image, dtype=np.float64)
    if isinstance(image, torch.Tensor) and image.dtype.is_floating_point:
        found = found * (255 * 0.225 if float(image.min()) < 0 else 255)
    return found


def assert_near(fused: Any, plain: Any, mean: float = 0.8) -> None:
    assert type(fused) is type(plain)
    if isinstance(plain, torch.Tensor):
        assert (fused.dtype, fused.shape) == (plain.dtype, plain.shape)
    else:
        assert (fused.mode, fused.size) == (plain.mode, plain.size)
    assert np.abs(values(fused) - values(plain)).mean() <= mean


def seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)


def folder(root: Path, name: str) -> datasets.ImageFolder:
    return datasets.ImageFolder(root, TRANSFORMS[name]())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_batch_is_that_of_the_dataset_with_the_same_seed(photos: Path, name: str) -> None:
    plain, fused = folder(photos, name), rf.fuse(folder(photos, name))
    order = torch.randperm(len(plain), generator=torch.Generator().manual_seed(0)).tolist()
    assert isinstance(fused, FusedDataset)
    seed(3)
    expected = [plain[number] for number in order]
    drawn = torch.rand(1)
    seed(3)
    batch = fused.__getitems__(order)
    assert torch.rand(1) == drawn
    seed(3)
    items = [fused[number] for number in order]
    for one, other, item in zip(expected, batch, items, strict=True):
        assert_near(other[0], one[0], 2.0)
        assert_near(item[0], one[0], 2.0)
        assert not isinstance(other[0], torch.Tensor) or other[0].is_contiguous()
        assert one[1] == other[1] == item[1]
    assert np.mean([np.abs(values(b[0]) - values(a[0])).mean() for a, b in zip(expected, batch, strict=True)]) < 0.8


@pytest.mark.parametrize("collate", ["torch", "resflow"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["train", "recipe", "v2 erasing"])
def test_loaders_give_the_same_batches(photos: Path, name: str, workers: int, collate: str) -> None:
    kind = torch.utils.data.DataLoader if collate == "torch" else rf.DataLoader
    seen = []
    for dataset in (folder(photos, name), rf.fuse(folder(photos, name))):
        loader = kind(
            dataset, batch_size=7, shuffle=True, num_workers=workers, generator=torch.Generator().manual_seed(1)
        )
        torch.manual_seed(0)
        seen.append([*loader, *loader])
    for (images, labels), (fused, fused_labels) in zip(*seen, strict=True):
        assert torch.equal(labels, fused_labels)
        assert_near(fused, images, 1.5)


def test_batches_are_handed_over_and_not_stacked(photos: Path) -> None:
    fused = rf.fuse(folder(photos, "train"))
    loader = rf.DataLoader(fused, batch_size=6)
    assert loader.collate_fn is not None
    loader.collate_fn(fused.__getitems__([0]))  # from the second batch of a process on
    items = fused.__getitems__([3, 1, 2])
    images, _ = loader.collate_fn(items)
    assert images.shape == (3, 3, 64, 64)
    assert images.data_ptr() == items[0][0].data_ptr()
    for changed in ([items[1], items[0], items[2]], items[:2]):
        assert loader.collate_fn(changed)[0].data_ptr() not in {item[0].data_ptr() for item in items}
        assert torch.equal(loader.collate_fn(changed)[0], default_collate(changed)[0])
    assert rf.DataLoader(Subset(fused, [1, 2]), batch_size=2).collate_fn is loader.collate_fn
    assert rf.DataLoader(folder(photos, "train"), batch_size=2).collate_fn is default_collate


class HandsBatches(torch.utils.data.Dataset[Any]):
    """Notes where a worker's items lie."""

    def __init__(self, fused: Any) -> None:
        self.fused = fused

    def __len__(self) -> int:
        return len(self.fused)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [(image, label, image.data_ptr()) for image, label in self.fused.__getitems__(indices)]


def keeps_its_place(batch: Any) -> tuple[bool, torch.Tensor]:
    images, _, places = default_collate(batch)
    assert torch.equal(images, torch.stack([item[0] for item in batch]))
    again = default_collate(batch)[0]  # a second one is a copy
    assert again.data_ptr() != images.data_ptr()
    return images.data_ptr() == places[0].item(), images


def test_pytorchs_own_collating_hands_batches_over_in_workers(photos: Path) -> None:
    fused = HandsBatches(rf.fuse(folder(photos, "train")))
    stack = default_collate_fn_map[torch.Tensor]
    loader = torch.utils.data.DataLoader(fused, batch_size=6, num_workers=1, collate_fn=keeps_its_place)
    kept, images = zip(*loader, strict=True)
    assert kept == (False, True, True, True)  # a batch tells what shape to expect of the next
    assert all(image.shape == (6, 3, 64, 64) for image in images)
    assert default_collate_fn_map[torch.Tensor] is stack  # here, nothing has changed


@pytest.mark.parametrize("steps", [[], [v1.PILToTensor()], [v1.RandomHorizontalFlip(), v1.ColorJitter(0.4)]])
def test_where_nothing_is_to_be_gained_the_dataset_gives_its_items(photos: Path, steps: list[Any]) -> None:
    plain = datasets.ImageFolder(photos, v1.Compose(steps) if steps else None)
    fused = rf.fuse(plain)
    seed(3)
    expected = [plain[number][0] for number in range(24)]
    seed(3)
    for (found, _), own in zip(fused.__getitems__(range(24)), expected, strict=True):
        assert type(found) is type(own)
        assert np.array_equal(np.asarray(found), np.asarray(own))
        assert not isinstance(own, torch.Tensor) or found.stride() == own.stride()
    fused.transform = TRANSFORMS["train"]()  # seen from the next batch on
    assert fused.__getitems__([0])[0][0].shape == (3, 64, 64)


def test_pixels_by_the_table_are_bit_for_bit_those_of_the_steps(photos: Path) -> None:
    pixels = v1.Compose([v1.RandomResizedCrop(64), v1.PILToTensor()])
    numbers = rf.fuse(datasets.ImageFolder(photos, v1.Compose([v1.RandomResizedCrop(64), *NUMBERS])))
    levels = rf.fuse(datasets.ImageFolder(photos, pixels))
    torch.manual_seed(0)
    expected = [NUMBERS[1](image.float().div(255)) for image, _ in levels.__getitems__(range(24))]
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, (b, _) in zip(expected, numbers.__getitems__(range(24)), strict=True))


def test_exact_is_nearer(photos: Path) -> None:
    shrink = v1.Compose([v1.Resize((24, 24)), *NUMBERS])
    plain = datasets.ImageFolder(photos, shrink)
    far, near = (
        np.mean([np.abs(values(fused[i][0]) - values(plain[i][0])).mean() for i in range(24)])
        for fused in (rf.fuse(plain), rf.fuse(plain, exact=True))
    )
    assert near <= 0.5
    assert near < far <= 0.8


def test_subsets_and_concatenations_both_ways_round(photos: Path) -> None:
    torch.manual_seed(0)
    whole = folder(photos, "evaluation")
    part, rest = random_split(whole, [10, 14])
    joined = ConcatDataset([part, rest, Subset(whole, [3, 1])])
    ways = {
        "of a subset": (rf.fuse(part), part),
        "in a subset": (Subset(rf.fuse(whole), part.indices), part),
        "of a concatenation": (rf.fuse(joined), joined),
        "in a concatenation": (ConcatDataset([rf.fuse(part), rf.fuse(rest), rf.fuse(Subset(whole, [3, 1]))]), joined),
        "twice": (rf.fuse(Subset(rf.fuse(whole), part.indices)), part),
    }
    for fused, plain in ways.values():
        assert len(fused) == len(plain)
        loader = torch.utils.data.DataLoader(fused, batch_size=5)
        images = torch.cat([images for images, _ in loader])
        for number, image in enumerate(images):
            assert_near(image, plain[number][0], 2.0)
        assert_near(fused[-1][0], plain[-1][0], 2.0)
    assert isinstance(ways["of a subset"][0], FusedDataset)
    assert rf.fuse(part).indices is part.indices


def test_attributes_are_those_of_the_dataset(photos: Path) -> None:
    plain = folder(photos, "train")
    fused = rf.fuse(plain)
    assert fused.classes == ["class0", "class1", "class2"]
    assert fused.class_to_idx == plain.class_to_idx
    assert fused.samples is plain.samples
    assert len(fused) == 24
    with pytest.raises(AttributeError, match="nothing"):
        fused.nothing  # noqa: B018
    fused.transform = plain.transforms = None
    assert plain.transform is None
    assert isinstance(fused[0][0], Image.Image)


def test_changes_after_fusing_are_seen(photos: Path) -> None:
    plain = folder(photos, "evaluation")
    fused = rf.fuse(plain)
    assert fused.__getitems__([0])[0][0].shape == (3, 64, 64)
    plain.transform = v1.Compose([v1.Resize((40, 44)), v1.ToTensor()])
    plain.transforms = None
    assert fused.__getitems__([0])[0][0].shape == (3, 40, 44)
    plain.transform.transforms[0] = v1.Resize((24, 28))
    assert fused.__getitems__([0])[0][0].shape == (3, 24, 28)
    plain.samples = plain.samples[::-1]
    assert fused[0][1] == 2


def test_it_is_pickled_and_copied(photos: Path) -> None:
    fused = rf.fuse(folder(photos, "train"))
    fused.__getitems__([0, 1])
    for other in (pickle.loads(pickle.dumps(fused)), copy.deepcopy(fused), copy.copy(fused)):
        torch.manual_seed(0)
        expected = fused[3][0]
        torch.manual_seed(0)
        assert torch.equal(other[3][0], expected)


class Overrides(datasets.ImageFolder):
    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image, label, index


def test_what_cannot_be_fused_stays_and_says_why(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases = {
        "Overrides overrides __getitem__": Overrides(photos),
        "does not open files with PIL": datasets.ImageFolder(photos, loader=_own_loader),
        "only map-style": _Stream(),
    }
    for told, dataset in cases.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING, "resflow"):
            assert rf.fuse(dataset) is dataset
        assert told in caplog.text
        assert type(dataset).__name__ in caplog.text
    with pytest.raises(ConfigError, match="has one of its own"):
        rf.fuse(folder(photos, "train"), transform=v1.ToTensor())
    with pytest.raises(ConfigError, match="cannot apply a transform to Overrides"):
        rf.fuse(Overrides(photos), transform=v1.ToTensor())


def _own_loader(path: str) -> Any:
    return np.fromfile(path, np.uint8)


class _Stream(torch.utils.data.IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


def test_a_transform_can_be_given(photos: Path) -> None:
    plain = datasets.ImageFolder(photos)
    parts = random_split(plain, [12, 12], torch.Generator().manual_seed(0))
    train = rf.fuse(parts[0], TRANSFORMS["evaluation"]())
    expected = Subset(folder(photos, "evaluation"), parts[0].indices)
    for one, other in zip(expected, train, strict=True):
        assert_near(other[0], one[0], 2.0)
    assert plain.transform is None


def test_damaged_files_fail_as_they_did(tmp_path: Path) -> None:
    from tests.fusion.conftest import draw

    (tmp_path / "a").mkdir()
    draw(0, 200, 150).save(tmp_path / "a" / "0.jpg")
    whole = (tmp_path / "a" / "0.jpg").read_bytes()
    (tmp_path / "a" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a" / "2.jpg").write_bytes(b"nothing")
    plain = folder(tmp_path, "train")
    fused = rf.fuse(plain)
    for number in (1, 2):
        errors = []
        for read in (plain.__getitem__, fused.__getitem__, lambda one: fused.__getitems__([0, one, 0])):
            with pytest.raises(OSError) as caught:  # noqa: PT011 (each kind is compared)
                read(number)
            errors.append((type(caught.value), str(caught.value).split(" at 0x")[0]))
        assert len({kind for kind, _ in errors}) == 1
    assert fused.__getitems__([0])[0][0].shape == (3, 64, 64)  # goes on after an error


def test_it_says_what_it_does(photos: Path) -> None:
    told = repr(rf.fuse(folder(photos, "recipe")))
    assert "decoded as one window: RandomResizedCrop, RandomHorizontalFlip\n" in told
    assert "then on its pixels: RandAugment" in told
    assert "written to the batch: ToTensor, Normalize" in told
    assert "then on the tensor: RandomErasing" in told
    assert "RandAugment works on pixels" in told
    assert "RandomResizedCrop is a second resize" in repr(rf.fuse(folder(photos, "two resizes")))
    assert "RandomRotation runs on the decoded window" in repr(rf.fuse(folder(photos, "rotation")))
