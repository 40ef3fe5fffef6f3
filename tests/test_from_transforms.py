"""Pipelines of torchvision's transforms: the pixels of both."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as v1
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import resflow as rf
from resflow.augment import sample_seeds
from resflow.errors import ConfigError
from resflow.pipeline import Pipeline
from resflow.plan import Buckets

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(90, 130), (130, 90), (101, 77), (64, 64), (75, 203), (300, 220)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for number, (height, width) in enumerate(SIZES):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(str(folder / f"{number}.png"))
        image.save(paths[-1])
    return paths


class Photos(torch.utils.data.Dataset[Any]):
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[str, int]:
        return self.paths[number], number


def images_of(photos: list[str], transform: Any, **changes: Any) -> torch.Tensor:
    [batch] = rf.DataLoader(Photos(photos), batch_size=len(photos), seed=5, pipeline=made(transform, **changes))
    images: torch.Tensor = batch.images
    return images[batch.sample_ids.argsort()]


def made(transform: Any, **changes: Any) -> Pipeline:
    return Pipeline.from_transforms(transform, **changes)


def torchvisions(photos: list[str], transform: Any) -> torch.Tensor:
    return torch.stack([transform(Image.open(path)) for path in photos])


def end(*, second: bool = False) -> list[Any]:
    if second:
        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return [v1.ToTensor(), v1.Normalize(MEAN, STD)]


BICUBIC = v1.InterpolationMode.BICUBIC
FIXED = {
    "v1": v1.Compose([v1.Resize(72), v1.CenterCrop(64), *end()]),
    "v2": v2.Compose([v2.ToImage(), v2.Resize(72, antialias=True), v2.CenterCrop(64), *end(second=True)[1:]]),
    "pair": v1.Compose([v1.Resize((64, 64)), v1.ToTensor()]),
    "stretched": v1.Compose([v1.Resize((48, 48)), *end()]),
    "flipped": v1.Compose([v1.Resize(72), v1.RandomHorizontalFlip(1.0), v1.CenterCrop(64), *end()]),
    "upside down": v1.Compose([v1.Resize(72), v1.CenterCrop(64), v1.RandomVerticalFlip(1.0), *end()]),
    "grey": v1.Compose([v1.Resize(72), v1.CenterCrop(64), v1.Grayscale(3), *end()]),
    "bytes": v1.Compose([v1.Resize(72), v1.CenterCrop(64), v1.PILToTensor()]),
    "bicubic": v1.Compose([v1.Resize(72, BICUBIC), v1.CenterCrop(64), *end()]),
    "bicubic pair": v1.Compose([v1.Resize((64, 64), BICUBIC), *end()]),
    "sequential": nn.Sequential(
        v1.Resize(72), v1.CenterCrop(64), v2.PILToTensor(), v1.ConvertImageDtype(torch.float32)
    ),
}


@pytest.mark.parametrize("name", FIXED)
def test_the_pixels_are_torchvisions(photos: list[str], name: str) -> None:
    ours, theirs = images_of(photos, FIXED[name]), torchvisions(photos, FIXED[name])
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    scale = 1 if ours.dtype == torch.uint8 else 255 * (0.226 if name not in ("pair", "sequential") else 1)
    difference = (ours.float() - theirs.float()).abs() * scale
    assert difference.mean() < 0.8
    wrong = (ours.float().flip(-1) - theirs.float()).abs() * scale
    assert wrong.mean() > 5  # the check sees a mirrored image


@pytest.mark.parametrize("workers", [0, 1])
def test_bicubic_is_nearer_to_torchvisions_than_bilinear(photos: list[str], workers: int) -> None:
    small = v1.Compose([v1.Resize((24, 24), BICUBIC), v1.PILToTensor()])
    theirs = torchvisions(photos, small).float()
    difference = {}
    for name in ("bicubic", "bilinear"):
        pipeline = made(small, interpolation=name, stride=8, resolution=24)
        [batch] = rf.DataLoader(Photos(photos), batch_size=len(photos), num_workers=workers, pipeline=pipeline)
        difference[name] = float((batch.images[batch.sample_ids.argsort()] - theirs).abs().mean())
    assert difference["bicubic"] < 0.4 < difference["bilinear"]


def test_a_preset_of_torchvisions(photos: list[str]) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    preset = ImageClassification(crop_size=64, resize_size=72, interpolation=InterpolationMode.BILINEAR)
    difference = (images_of(photos, preset) - torchvisions(photos, preset)).abs().mean() * 255 * 0.226
    assert difference < 0.8


def test_colour_is_that_of_the_callables_run_by_hand(photos: list[str]) -> None:
    crop = [v1.Resize(72), v1.CenterCrop(64)]
    colour = [v1.ColorJitter(0.4, 0.4, 0.4), v1.RandAugment()]
    plain = images_of(photos, v1.Compose([*crop, v1.PILToTensor()]))
    ours = images_of(photos, v1.Compose([*crop, *colour, *end()]))
    for number, seed in enumerate(sample_seeds(5, 0, np.arange(len(photos))).tolist()):
        torch.manual_seed(seed)
        random.seed(seed)
        image = v1.ToPILImage()(plain[number])
        expected = v1.Compose([*colour, *end()])(image)
        torch.testing.assert_close(ours[number], expected, atol=1e-5, rtol=0)


class Inverted:
    """A class of the user's, for PIL images."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.point(lambda level: 255 - level)


def halved(image: torch.Tensor) -> torch.Tensor:
    assert image.is_floating_point()
    return image / 2


def test_own_functions_see_what_they_were_written_for(photos: list[str]) -> None:
    transform = v1.Compose([v1.Resize(72), v1.CenterCrop(64), Inverted(), v1.ToTensor(), halved])
    difference = (images_of(photos, transform) - torchvisions(photos, transform)).abs().mean() * 255
    assert difference < 0.8


@pytest.mark.parametrize("value", [0, 0.7, (0.1, 0.2, 0.3), "random"])
def test_erasing_behind_normalize_erases_with_normalised_values(photos: list[str], value: Any) -> None:
    crop = [v1.Resize(72), v1.CenterCrop(64)]
    plain = images_of(photos, v1.Compose([*crop, *end()]))
    erasing = v1.RandomErasing(p=0.7, value=value)
    ours = images_of(photos, v1.Compose([*crop, *end(), erasing]))
    changed = 0
    for number, seed in enumerate(sample_seeds(5, 0, np.arange(len(photos))).tolist()):
        torch.manual_seed(seed)
        random.seed(seed)
        expected = erasing(plain[number].clone())
        changed += not torch.equal(expected, plain[number])
        low = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)])[:, None, None]
        high = torch.tensor([(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)])[:, None, None]
        torch.testing.assert_close(ours[number], expected.clamp(low, high), atol=0.01, rtol=0)
    assert 0 < changed < len(photos)


def test_erasing_before_normalize_erases_shares(photos: list[str]) -> None:
    crop = [v2.Resize(72), v2.CenterCrop(64)]
    erased = v2.Compose([*crop, v1.ToTensor(), v1.RandomErasing(p=1.0, value=0.5), v1.Normalize(MEAN, STD)])
    plain, ours = images_of(photos, v2.Compose([*crop, *end()])), images_of(photos, erased)
    grey = (0.5 - torch.tensor(MEAN)) / torch.tensor(STD)
    where = (ours - plain).abs().amax(1) > 1e-6
    assert where.any(2).any(1).all()
    found = ours.permute(0, 2, 3, 1)[where]
    assert (found - grey).abs().max() < 0.02


def test_what_becomes_of_each_step() -> None:
    train = v1.Compose(
        [
            v1.RandomResizedCrop(224, scale=(0.3, 1.0), ratio=(0.8, 1.25)),
            v1.RandomHorizontalFlip(0.4),
            v1.RandomRotation((-5, 10), fill=7),
            v1.RandomAffine((-4, 8), translate=(0.1, 0.2), scale=(0.9, 1.1), shear=(1, 3)),
            v1.TrivialAugmentWide(),
            *end(),
            v1.RandomErasing(p=0.1),
        ]
    )
    found = made(train, targets=None, device="cpu")
    assert found.resolution == 224
    assert found.targets is None
    assert [tuple(shape) for shape in found.shapes()] == [(224, 224)]
    assert found.normalize == rf.Normalize(MEAN, STD)
    assert found.fit.fill == (0, 0, 0)
    assert found.views == (
        rf.views.RandomResizedCrop(scale=(0.3, 1.0), ratio=(0.8, 1.25)),
        rf.views.HorizontalFlip(p=0.4),
        rf.views.Rotate((-5.0, 10.0)),
        rf.views.Affine((-8.0, 4.0), (0.1, 0.2), (0.9, 1.1), (-3.0, -1.0)),
    )
    assert [type(step).__name__ for step in found.transforms] == ["TrivialAugmentWide", "ErasingOfBytes"]
    assert found.evaluation().transforms == ()
    assert found.describe() == made(train, targets=None).describe()


def test_angles_and_shear_turn_as_torchvisions(photos: list[str]) -> None:
    for turn in (v1.RandomRotation((20, 20)), v1.RandomAffine((20, 20), scale=(0.8, 0.8), shear=(15, 15))):
        transform = v1.Compose([v1.Resize((64, 64)), turn, v1.PILToTensor()])
        difference = (images_of(photos, transform).float() - torchvisions(photos, transform).float()).abs().mean()
        assert difference < 6  # torchvision takes the nearest pixel


def test_buckets_and_a_schedule_where_told(photos: list[str]) -> None:
    crop = v2.Compose([v2.RandomResizedCrop(64), v2.RandomHorizontalFlip(), *end(second=True)])
    schedule = rf.schedules.Linear(64, 128, epochs=2)
    squares = made(crop, resolution=schedule)
    assert {height == width for height, width in squares.shapes()} == {True}
    assert len(squares.shapes()) == len(schedule.resolutions)
    buckets = made(crop, resolution=schedule, buckets=3, stride=16)
    assert (buckets.buckets, buckets.stride, buckets.resolution) == (3, 16, schedule)
    assert made(crop, buckets=2).resolution == 64
    classic = v1.Compose([v1.Resize(256), v1.CenterCrop(224), *end()])
    assert made(classic, resolution=288).fit == rf.Fit(short_side=329)
    assert made(classic, buckets=4).fit == rf.Fit()
    assert made(classic, resolution=schedule, fit=rf.Fit(max_crop=1)).fit == rf.Fit(max_crop=1)
    with pytest.raises(ConfigError, match=r"of one size, but resolution is Linear.*fit=rf.Fit\(max_crop=1\)"):
        made(classic, resolution=schedule)
    assert made(v1.Compose([v1.Resize(96), v1.ToTensor()]), buckets=4).resolution == 96
    assert isinstance(made(v1.ToTensor(), resolution=100).buckets, Buckets)
    assert made(v1.ToTensor(), resolution=100).stride == 4


def own_flip(image: Any) -> Any:
    return image


NEAREST = v1.InterpolationMode.NEAREST
REFUSED: list[tuple[list[Any], str]] = [
    ([v1.RandomCrop(32, padding=4), v1.ToTensor()], r"RandomCrop: RandomCrop changes the shape.*rf.fuse\(dataset\)"),
    ([v1.Resize(72), v1.RandomCrop(64)], "RandomCrop"),
    ([v1.Resize(72), v1.ToTensor()], r"Resize\(72\): it gives images of many shapes.*CenterCrop.*buckets=8"),
    ([v1.CenterCrop(64), v1.ToTensor()], "CenterCrop: it is not scaled before"),
    ([v1.RandomResizedCrop((64, 48)), v1.ToTensor()], r"RandomResizedCrop\(64, 48\): it is no square"),
    ([v1.RandomResizedCrop(64, interpolation=NEAREST)], r"RandomResizedCrop\(interpolation=nearest\)"),
    ([v1.Resize(72), v1.CenterCrop(64), v1.RandomResizedCrop(32)], "RandomResizedCrop: it comes after CenterCrop"),
    ([v1.RandomRotation(5), v1.RandomResizedCrop(32)], "RandomRotation: it comes before the images have their size"),
    ([v1.ColorJitter(0.1), v1.RandomResizedCrop(32)], "RandomResizedCrop: it comes after another operation"),
    ([v1.RandomResizedCrop(32), v1.RandomApply([v1.RandomRotation(5)])], "RandomRotation moves pixels"),
    ([v1.RandomResizedCrop(32), v1.Pad(4)], "Pad changes the shape"),
    ([v1.RandomResizedCrop(32), v1.RandomRotation(5, expand=True)], "expand"),
    ([v1.RandomResizedCrop(32), v1.RandomAffine(5, shear=(0, 0, 1, 2))], "shears along y"),
    ([v1.RandomResizedCrop(32), v2.Normalize(MEAN, STD)], "Normalize: it comes before images are floating"),
    ([v1.RandomResizedCrop(32), *end(), v1.Normalize(MEAN, STD)], "Normalize: it comes twice"),
    ([v1.RandomResizedCrop(32), *end(), own_flip], "own_flip: it follows Normalize"),
    (
        [v1.RandomResizedCrop(32), own_flip, v1.RandomHorizontalFlip()],
        "RandomHorizontalFlip: it comes after a function",
    ),
    ([v1.RandomResizedCrop(32), v2.ToImage(), v2.ToDtype(torch.float32)], r"ToDtype\(scale=False\)"),
    ([v1.ColorJitter(0.1), v1.ToTensor()], "gives images no size"),
    ([], "without any step"),
]


@pytest.mark.parametrize(("steps", "message"), REFUSED)
def test_what_cannot_be_taken_is_refused_by_name(steps: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(v1.Compose(steps))


def test_timms_training_transform(photos: list[str], tmp_path: Path) -> None:
    data = pytest.importorskip("timm.data")
    transform = data.create_transform(
        64, is_training=True, auto_augment="rand-m9", re_prob=0.5, interpolation="bilinear", re_mode="const"
    )
    found = made(transform)
    assert found.resolution == 64
    assert found.normalize is not None
    assert images_of(photos, transform).shape == (len(photos), 3, 64, 64)
    with pytest.raises(ConfigError, match="interpolation"):
        made(data.create_transform(64, is_training=True, interpolation="random"))
    assert made(data.create_transform(64, is_training=True, interpolation="bicubic")).interpolation == "bicubic"
    assert made(data.create_transform(64, interpolation="bicubic")).interpolation == "bicubic"
