"""What people do with datasets, done with and without `fuse`: the same batches, from the same random numbers."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    Sampler,
    StackDataset,
    Subset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

import resflow as rf
from resflow.fusion import FusedDataset, runner
from resflow.fusion.lazy import LazyImage, open_lazily
from tests.fusion.conftest import draw
from tests.fusion.test_fuse import NUMBERS, seed


def crop() -> v1.Compose:
    return v1.Compose([v1.RandomResizedCrop(48), v1.RandomHorizontalFlip(), *NUMBERS])


def recipe() -> v1.Compose:
    steps = [v1.RandomResizedCrop(48), v1.RandomHorizontalFlip(), v1.ColorJitter(0.3, 0.3, 0.3)]
    return v1.Compose([*steps, *NUMBERS, v1.RandomErasing(0.5)])


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 images in three classes: of all modes, tiny, flat, progressive, turned, and of other formats."""
    root = tmp_path_factory.mktemp("odd")
    grey16 = Image.fromarray(np.arange(90 * 120, dtype=np.uint16).reshape(90, 120) * 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    one = draw(1, 140, 120)
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "cmyk.jpg": (one.convert("CMYK"), {}),
        "grey.jpg": (one.convert("L"), {}),
        "palette.png": (one.convert("P"), {}),
        "grey16.png": (grey16, {}),
        "turned.jpg": (one, {"exif": exif}),
        "tiny.jpg": (one.resize((3, 2)), {}),
        "tinier.jpg": (one.resize((1, 1)), {}),
        "small.jpg": (one.resize((17, 9)), {"subsampling": 0}),
        "alpha.png": (one.convert("RGBA"), {}),
        "greyalpha.png": (one.convert("LA"), {}),
        "bits.png": (one.convert("1"), {}),
        "a.bmp": (one, {}),
        "a.webp": (one, {}),
        "a.tif": (one, {}),
        "progressive.jpg": (one, {"progressive": True}),
        "flat.jpg": (one.resize((500, 20)), {}),
        "plain.jpg": (one, {}),
        "plainer.jpg": (draw(2, 90, 200), {}),
    }
    for number, (name, (image, options)) in enumerate(kinds.items()):
        folder = root / f"c{number % 3}"
        folder.mkdir(exist_ok=True)
        image.save(folder / name, quality=95, **options)
    return root


def differs(one: Any, other: Any, where: str = "") -> str:
    """The first difference between what a dataset gave and what it gave fused; "" if there is none."""
    if type(one) is not type(other):
        return f"{where}: {type(one)}, fused {type(other)}"
    if isinstance(one, tuple | list | dict):
        rows = list(one.items() if isinstance(one, dict) else enumerate(one))
        others = list(other.items() if isinstance(other, dict) else enumerate(other))
        if [key for key, _ in rows] != [key for key, _ in others]:
            return f"{where}: other keys or lengths"
        found = (differs(a, b, f"{where}[{key}]") for (key, a), (_, b) in zip(rows, others, strict=True))
        return next(filter(None, found), "")
    if isinstance(one, torch.Tensor | np.ndarray | Image.Image):
        a, b = np.asarray(one), np.asarray(other)
        if (a.shape, a.dtype) != (b.shape, b.dtype) or (isinstance(one, Image.Image) and one.mode != other.mode):
            return f"{where}: {a.dtype} {a.shape}, fused {b.dtype} {b.shape}"
        if a.ndim < 2:
            return "" if (a == b).all() else f"{where}: {a}, fused {b}"
        far = np.abs(a.astype(np.float64) - b).mean() / (a.std() + 1e-3)
        return f"{where}: differs by {far:.3f} of its spread" if far > 0.03 else ""
    return "" if one == other else f"{where}: {one}, fused {other}"


def check(make: Callable[[], Any], use: Callable[[Any], Any]) -> None:
    """The same values, and the same random numbers left."""
    fused = rf.fuse(make())
    assert isinstance(fused, FusedDataset)
    found = []
    for dataset in (make(), fused):
        seed(7)
        np.random.seed(7)
        found.append([use(dataset), torch.rand(1), random.random(), np.random.rand()])
    assert not differs(*found)


def loads(**options: Any) -> Callable[[Any], Any]:
    options = {"batch_size": 6, "shuffle": "sampler" not in options, **options}

    def use(dataset: Any) -> Any:
        made = {name: value(dataset) if name == "sampler" else value for name, value in options.items()}
        return list((rf.DataLoader if isinstance(dataset, FusedDataset) else DataLoader)(dataset, **made))

    return use


class Drawing(Sampler[Any]):
    """Draws each index when it is asked for, from two sources."""

    def __init__(self, dataset: Any) -> None:
        self.count = len(dataset)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.count):
            yield (int(torch.randint(self.count, ())) + random.randrange(self.count)) % self.count

    def __len__(self) -> int:
        return self.count


class DrawingBatches(Drawing):
    def __iter__(self) -> Iterator[Any]:
        for _ in range(4):
            yield [random.randrange(self.count) for _ in range(2 + int(torch.randint(3, ())))]

    def __len__(self) -> int:
        return 4


def _twice(dataset: Any, **options: Any) -> Any:
    loader = (rf.DataLoader if isinstance(dataset, FusedDataset) else DataLoader)(dataset, 4, shuffle=True, **options)
    return [list(loader), list(loader)]


_mix = v2.RandomChoice([v2.MixUp(num_classes=8), v2.CutMix(num_classes=8)])


def mixing(batch: Any) -> Any:
    return _mix(*default_collate(batch))


def first(worker: int) -> None:
    torch.manual_seed(100 + worker)


def later(label: int) -> int:
    return label + 5


def square(image: Any) -> Any:
    wide, high = image.size
    return v1.functional.pad(image, [0, 0, max(wide, high) - wide, max(wide, high) - high], 3)


def thumbnail(image: Any) -> Any:
    small = image.copy()
    small.thumbnail((64, 64))
    return small


class Turning:
    """Has a state that images change."""

    turned = 0

    def __call__(self, image: Any) -> Any:
        self.turned += 1
        return image.rotate(self.turned)


class Twice:
    def __init__(self) -> None:
        self.steps = recipe()

    def __call__(self, image: Any) -> Any:
        return [self.steps(image), self.steps(image)]


def crops() -> v1.Compose:
    return v1.Compose([v1.Resize(60), v1.FiveCrop(40)])


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "crop": crop,
    "recipe": recipe,
    "twice": Twice,
    "crops": crops,
    "function": lambda: lambda image: v1.functional.to_tensor(image.resize((32, 32))),
    "square": lambda: v1.Compose([square, v1.Resize((40, 40)), *NUMBERS]),
    "thumbnail": lambda: v1.Compose([thumbnail, v1.Resize((40, 40)), *NUMBERS]),
    "turning": lambda: v1.Compose([v1.Resize((40, 40)), Turning(), *NUMBERS]),
    "arrays": lambda: v1.Compose([v1.Resize((32, 32)), np.array, v1.ToTensor()]),
    "upwards": lambda: v1.Compose([v1.RandomCrop(40, pad_if_needed=True), v1.Resize(90, antialias=True), *NUMBERS]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_images_of_all_kinds(odd: Path, name: str) -> None:
    def make() -> Any:
        return datasets.ImageFolder(odd, TRANSFORMS[name]())

    check(make, lambda dataset: [dataset[number] for number in range(18)])
    if name not in ("crops", "turning"):
        check(make, loads())


USES: dict[str, Callable[[Any], Any]] = {
    "workers": loads(num_workers=2),
    "worker_init_fn": loads(num_workers=2, worker_init_fn=first),
    "MixUp and CutMix": loads(num_workers=1, collate_fn=mixing),
    "MixUp and CutMix here": loads(collate_fn=mixing),
    "weighted": loads(sampler=lambda whole: WeightedRandomSampler([1.0 + i for i in range(len(whole))], 30)),
    "distributed": loads(sampler=lambda whole: DistributedSampler(whole, 2, 1, seed=3)),
    "repeated": loads(sampler=lambda _: [1, 1, 1, 4, 4, 4, -2]),
    "batches of batches": lambda whole: loads(batch_size=1, shuffle=False, batch_sampler=[[1, 2], [3], [4, 0, 2]])(
        whole
    ),
    "no batches": loads(batch_size=None, shuffle=False),
    "drawing as it goes": loads(sampler=Drawing, num_workers=1),
    "drawing as it goes, here": loads(sampler=Drawing),
    "batches drawn as it goes": lambda whole: loads(batch_size=1, shuffle=False, batch_sampler=DrawingBatches(whole))(
        whole
    ),
    "a generator": lambda whole: loads(generator=torch.Generator().manual_seed(4), drop_last=True)(whole),
    "kept workers": lambda whole: _twice(whole, num_workers=2, persistent_workers=True),
    "subset of a subset": lambda whole: loads()(Subset(Subset(whole, [5, 3, 9, 1, 12]), [4, 0, 2])),
    "interleaved": lambda whole: list(itertools.zip_longest(loads()(whole), DataLoader(whole, 8), fillvalue=0)),
    "subset": lambda whole: list(DataLoader(Subset(whole, [3, 5, 2]), 2, shuffle=True)),
    "split": lambda whole: [list(DataLoader(part, 4)) for part in random_split(whole, [11, 7])],
    "joined": lambda whole: list(DataLoader(whole + whole, 5, shuffle=True)),
    "beside a plain one": lambda whole: list(
        DataLoader(ConcatDataset([whole, datasets.ImageFolder(whole.root, crop())]), 9, shuffle=True)
    ),
    "stacked": lambda whole: list(DataLoader(StackDataset(a=whole, b=range(18)), 5)),
    "two loaders": lambda whole: list(zip(DataLoader(whole, 4), DataLoader(whole, 4), strict=True)),
    "pickled": lambda whole: list(DataLoader(pickle.loads(pickle.dumps(whole)), 5)),
    "iterated": list,
    "indices of NumPy and PyTorch": lambda whole: [whole[np.int64(3)], whole[torch.tensor(4)], whole[-1]],
    "attributes": lambda whole: [whole.classes, whole.class_to_idx, whole.targets, whole.imgs, len(whole)],
    "changed in place": lambda whole: [images.mul_(2) for images, _ in DataLoader(whole, 4, num_workers=1)],
}


@pytest.mark.parametrize("name", USES)
def test_uses(odd: Path, name: str) -> None:
    check(lambda: datasets.ImageFolder(odd, recipe(), target_transform=later), USES[name])


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="one processor: there, no threads are started",
)
def test_without_workers_images_are_decoded_in_threads(odd: Path) -> None:
    runner._pools.clear()
    before = set(threading.enumerate())
    for _ in rf.DataLoader(rf.fuse(datasets.ImageFolder(odd, crop())), batch_size=6):
        pass
    assert [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("resflow-fuse")]


def grey(path: str) -> Any:
    with Path(path).open("rb") as file:
        return Image.open(file).convert("L").convert("RGB")


def upright(path: str) -> Any:
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def loaded(path: str) -> Any:
    image = Image.open(path)
    image.load()
    return image.convert("RGB")


def in_mode(path: str, mode: str) -> Any:
    return Image.open(path).convert(mode)


@pytest.mark.parametrize(
    "loader",
    [grey, upright, loaded, pytest.param(functools.partial(in_mode, mode="RGB"), id="partial")],
)
def test_loaders_of_ones_own(odd: Path, loader: Any) -> None:
    def make() -> Any:
        return datasets.ImageFolder(odd, crop(), loader=loader, is_valid_file=lambda path: path.endswith(".jpg"))

    check(make, loads())


def test_copies_are_changed_alone(odd: Path) -> None:
    small = v1.Compose([v1.Resize((20, 24)), v1.ToTensor()])
    for duplicate in (copy.copy, copy.deepcopy):

        def use(whole: Any, duplicate: Any = duplicate) -> Any:
            other = duplicate(whole)
            other.transform, other.transforms = small, datasets.vision.StandardTransform(small)
            return [loads()(whole), loads()(other)]

        check(lambda: datasets.ImageFolder(odd, recipe()), use)


def test_changes_within_a_transform_are_seen(odd: Path) -> None:
    def use(whole: Any) -> Any:
        found = [loads()(whole)]
        steps = whole.transform.transforms
        steps[0].size = (20, 30)
        found.append(loads()(whole))
        steps[-1].p = 1.0
        steps[-2].mean = [0.0, 0.0, 0.0]
        found.append(loads()(whole))
        steps.insert(0, v1.Grayscale(3))
        return [*found, loads()(whole), whole[1]]

    check(lambda: datasets.ImageFolder(odd, copy.deepcopy(recipe())), use)


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_what_lies_around_a_crop_does_not_show_where_it_is_enlarged(resample: Image.Resampling) -> None:
    edge = np.zeros((30, 40, 3), np.uint8)
    edge[8:20, 11:24] = 255  # white within the crop, black around it
    file = io.BytesIO()
    Image.fromarray(edge).save(file, "JPEG", quality=100, subsampling=0)
    found = []
    for image in (Image.open(file), open_lazily(io.BytesIO(file.getvalue()))):
        cut = image.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((16, 8, 29, 20))
        shown = cut.resize((64, 48), resample).crop((0, 3, 60, 45)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        assert isinstance(shown, LazyImage) == (image.__class__ is LazyImage)
        found.append(np.asarray(shown).astype(int))
    assert np.abs(found[0] - found[1]).max() <= 6
    assert found[1].min() > 230


def test_images_of_many_shapes_share_no_memory(odd: Path) -> None:
    fused = rf.fuse(datasets.ImageFolder(odd, v1.ToTensor()))
    for _ in range(2):
        for image, _ in fused.__getitems__(range(18)):
            assert image.untyped_storage().nbytes() == image.numel() * 4
