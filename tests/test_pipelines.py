"""The ready pipelines: each file loads, and says what Python would build."""

from __future__ import annotations

from pathlib import Path

import kornia.augmentation as K  # noqa: N812  (Kornia's own habit)
import pytest

import resflow
from resflow.augment import Ramped
from resflow.geometry import Ramp
from resflow.normalize import IMAGENET, UNIT
from resflow.pipeline import Pipeline
from resflow.schedules import Linear, RandomMultiScale, Steps
from resflow.targets import Targets
from resflow.views import HorizontalFlip, RandomResizedCrop

FOLDER = Path(resflow.__file__).parents[1] / "pipelines"

BUILT = {
    "classification": lambda: Pipeline(
        resolution=Linear(128, 224, epochs=16),
        buckets=8,
        fit=resflow.Fit(max_crop=0.1),
        views=[RandomResizedCrop(scale=(0.35, 1.0)), HorizontalFlip()],
        normalize=IMAGENET,
    ),
    "detection": lambda: Pipeline(
        resolution=RandomMultiScale((480, 544, 608, 640, 672, 736, 800), every=160),
        buckets=6,
        views=[HorizontalFlip()],
        augment=[K.ColorJiggle(0.2, 0.2, 0.2, 0.02, p=0.8)],
        normalize=UNIT,
        targets=Targets(member="json", min_side=2.0),
    ),
    "progressive_imagenet": lambda: Pipeline(
        resolution=Steps({0: 160, 12: 192}),
        buckets=8,
        fit=resflow.Fit(max_crop=0.1),
        views=[RandomResizedCrop(scale=(0.25, 1.0)), HorizontalFlip()],
        normalize=IMAGENET,
    ),
    "streaming": lambda: Pipeline(
        resolution=224,
        buckets=4,
        fit=resflow.Fit(max_crop=0.1),
        views=[RandomResizedCrop(scale=(0.35, 1.0)), HorizontalFlip()],
        normalize=IMAGENET,
        on_error=resflow.Skip(budget=0.01, grace=10),
    ),
    "segmentation": lambda: Pipeline(
        resolution=Linear(256, 512, epochs=40),
        buckets=4,
        fit=resflow.Fit(max_crop=0.1),
        views=[RandomResizedCrop(scale=(Ramp(0.7, 0.3), 1.0)), HorizontalFlip()],
        augment=[
            Ramped(K.ColorJiggle, brightness=Ramp(0.1, 0.3), contrast=Ramp(0.1, 0.3), saturation=0.2, hue=0.02, p=0.8)
        ],
        normalize=IMAGENET,
        targets=Targets(member="seg.png"),
    ),
}


def test_every_file_is_tested() -> None:
    if not FOLDER.exists():
        pytest.skip(f"no {FOLDER}: Resflow is installed, not checked out")
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(BUILT)


@pytest.mark.parametrize("name", BUILT)
def test_a_file_says_what_python_builds(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    if not path.exists():
        pytest.skip(f"no {path}: Resflow is installed, not checked out")
    read, built = Pipeline.from_yaml(path), BUILT[name]()
    assert read.describe() == built.describe()  # Kornia's modules are compared by what they say of themselves
    assert read.device == built.device == "cpu"
    assert [type(operation) for operation in read.augment] == [type(operation) for operation in built.augment]
