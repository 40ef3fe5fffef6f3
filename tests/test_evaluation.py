"""Pipelines for evaluation: nothing random, what was asked for is kept, and torchvision's classic to the grey level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import resflow as rf
from resflow.errors import ConfigError
from resflow.geometry import Fit
from resflow.plan import learn_buckets
from tests.data import real


class Paths:
    """Paths and their numbers."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[str, int]:
        return str(self.paths[number]), number


def assert_as_torchvision(paths: list[Path], resize: int, crop: int, **fields: Any) -> None:
    pipeline = rf.Pipeline(resolution=160, fit=rf.Fit(fill=(0, 0, 0)), **fields).evaluation(resize=resize, crop=crop)
    classic = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])
    differences = []
    for images, numbers in rf.DataLoader(Paths(paths), batch_size=8, pipeline=pipeline):
        for image, number in zip(images, numbers.tolist(), strict=True):
            with Image.open(paths[number]) as file:
                expected = np.asarray(classic(file.convert("RGB")), dtype=np.float32)
            differences.append(np.abs(image.permute(1, 2, 0).float().numpy() - expected).mean())
    assert len(differences) == len(paths)
    assert np.mean(differences) < 0.5
    assert max(differences) < 1


@pytest.mark.parametrize("engine", ["turbo", "pillow"])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (235, 224), (224, 256)])
def test_resize_and_crop_are_torchvisions(engine: str, resize: int, crop: int) -> None:
    paths = sorted(real("imagenet500").glob("*.JPEG"))[::25]
    assert_as_torchvision(paths, resize, crop, engine=engine)


def test_resize_and_crop_replace_shapes_and_random_crops() -> None:
    views = [rf.views.RandomResizedCrop(scale=(1, 1), ratio=(1, 1)), rf.views.HorizontalFlip()]
    pipeline = rf.Pipeline(resolution=rf.schedules.Linear(128, 224, epochs=4), views=views, normalize=rf.IMAGENET)
    evaluation = pipeline.evaluation(resize=256, crop=224)
    assert evaluation.shapes() == ((224, 224),)
    assert (evaluation.stride, evaluation.views, evaluation.normalize) == (32, (), rf.IMAGENET)
    assert pipeline.evaluation(resize=40, crop=36).stride == 4


@pytest.mark.parametrize("arguments", [{"crop": 224}, {"resize": 256}, {"resize": 256, "crop": 224, "resolution": 224}])
def test_resize_and_crop_belong_together(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\(resize=256, crop=224\)"):
        rf.Pipeline(resolution=224).evaluation(**arguments)


def test_squares_stay_squares() -> None:
    pipeline = rf.Pipeline(resolution=224, buckets=rf.Buckets.square(224, stride=32))
    assert pipeline.evaluation(resolution=256).shapes() == ((256, 256),)
    with pytest.raises(ConfigError, match=r"multiples of stride 32; got \[\[\[250, 250\]\]\]"):
        pipeline.evaluation(resolution=250)


def test_one_bucket_keeps_its_ratio() -> None:
    wide = learn_buckets(np.array([[100, 200]], dtype=np.int32), 1, resolutions=[128], stride=16)
    (height, width) = wide.shape(0, 128)
    ((high, wide_at),) = rf.Pipeline(resolution=128, stride=16, buckets=wide).evaluation(resolution=256).shapes()
    assert (high, wide_at) == (2 * height, 2 * width)


@pytest.mark.parametrize(
    ("view", "kept"),
    [
        (rf.views.HorizontalFlip(1.0), True),
        (rf.views.HorizontalFlip(0.999), False),
        (rf.views.Rotate((90, 90)), True),
        (rf.views.Rotate(5), False),
        (rf.views.Affine(scale=(1.1, 1.1), shear=(3, 3)), True),
        (rf.views.Affine(translate=(0.1, 0)), False),
        (rf.views.RandomResizedCrop(), False),
        (rf.views.RandomResizedCrop(scale=(1, 1), ratio=(1, 1)), True),
    ],
)
def test_views_that_draw_nothing_stay(view: Any, kept: bool) -> None:
    assert rf.Pipeline(resolution=64, views=[view]).evaluation().views == ((view,) if kept else ())


def test_views_follow_their_ramps_to_the_resolution() -> None:
    ramp = rf.schedules.Ramp(1.0, 1.2)
    schedule = rf.schedules.Linear(64, 128, epochs=3)
    pipeline = rf.Pipeline(resolution=schedule, views=[rf.views.Affine(scale=(ramp, ramp))])
    for resolution, scale in ((64, 1.0), (96, 1.1), (128, 1.2), (160, 1.2)):
        (view,) = pipeline.evaluation(resolution=resolution).views
        assert view.scale == pytest.approx((scale, scale))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fit(short_side=0), r"Fit.short_side must be a whole number of pixels above 0; got 0"),
        (lambda: Fit(short_side=256, max_crop=0.5), "can't be combined"),
        (lambda: rf.Buckets.square(), r"got \(\). Write Buckets.square\(224\)"),
        (lambda: rf.Buckets.square(224.5), r"got \(224.5\)"),  # type: ignore[arg-type]
        (lambda: rf.Buckets.square(-1), r"got \(-1\)"),
    ],
)
def test_bad_values_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_labels_and_a_crop_larger_than_the_image() -> None:
    size = np.array([[100, 201], [300, 200]], dtype=np.int32)
    matrix = Fit(short_side=50).place(size, (64, 64))
    placed = torch.from_numpy(matrix) @ torch.tensor([[201.0, 100.0, 1.0], [200.0, 300.0, 1.0]])[..., None].double()
    # 50 x 100 and 75 x 50 (H x W), as torchvision rounds, centred in 64 x 64
    assert placed[:, :2, 0].tolist() == [[82.0, 57.0], [57.0, 69.0]]
