"""Modules that draw once for a batch are refused; those that draw nothing stay in evaluation."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as kornia
import numpy as np
import pytest
import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

import resflow as rf
from resflow.augment import Augment
from resflow.errors import ConfigError


class OncePerBatch(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * (0.5 + torch.rand(1))


class OncePerImage(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * (0.5 + torch.rand(len(images), 1, 1, 1))


class ByNumPy(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * float(np.random.uniform(0.5, 1))


class Swapped(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flip(1)


REFUSED: list[tuple[Any, str, str]] = [
    (v2.RandomErasing(), "RandomErasing", r"Pipeline\(transforms=\[RandomErasing"),
    (v2.RandomErasing(p=0.001), "RandomErasing", r"Pipeline\(transforms=\[RandomErasing"),
    (v1.RandomErasing(), "RandomErasing", r"Pipeline\(transforms=\[RandomErasing"),
    (v1.ColorJitter(0.4), "ColorJitter", r"Pipeline\(transforms=\[ColorJitter"),
    (v2.RandomHorizontalFlip(), "RandomHorizontalFlip", r"rf.views.HorizontalFlip\("),
    (v2.RandAugment(), "RandAugment", r"Pipeline\(transforms=\[RandAugment"),
    (v1.AutoAugment(), "AutoAugment", r"Pipeline\(transforms=\[AutoAugment"),
    (v2.Compose([v2.RandomHorizontalFlip()]), "Compose", r"rf.views.HorizontalFlip\("),
    (v1.Compose([v1.ColorJitter(0.4)]), "Compose", r"Pipeline\(transforms=\["),
    (torch.nn.Sequential(kornia.RandomErasing(), v2.GaussianBlur(3)), "GaussianBlur", r"Pipeline\(transforms=\["),
    (OncePerBatch(), "OncePerBatch", "same_on_batch=True"),
    (ByNumPy(), "ByNumPy", "same_on_batch=True"),
]


@pytest.mark.parametrize(("module", "name", "way_out"), REFUSED)
def test_what_draws_once_for_a_batch_is_refused_by_name(module: Any, name: str, way_out: str) -> None:
    with pytest.raises(ConfigError, match=f"augment: {name} of .* draws once for a whole batch.*{way_out}"):
        rf.Pipeline(resolution=64, augment=[module])


@pytest.mark.parametrize(
    ("module", "kept"),
    [
        (kornia.ColorJiggle(0.1, 0.1, 0.1, 0.1), False),
        (kornia.RandomHorizontalFlip(same_on_batch=True), False),
        (kornia.RandomErasing(p=0.001), False),
        (kornia.RandomGrayscale(p=1.0), True),
        (kornia.RandomGaussianBlur((3, 3), (1.0, 1.0), p=1.0), True),
        (v2.GaussianNoise(), False),
        (v2.Grayscale(3), True),
        (OncePerImage(), False),
        (Swapped(), True),
        (rf.augment.MixUp(), False),
    ],
)
def test_evaluation_keeps_what_is_not_left_to_chance(module: Any, kept: bool) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    pipeline = rf.Pipeline(resolution=64, augment=[module])
    assert pipeline.evaluation().augment == ((module,) if kept else ())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]


def test_a_ramp_is_taken_at_the_resolution_of_evaluation() -> None:
    ramp = rf.schedules.Ramp(0.0, 1.0)
    ramped = rf.augment.Ramped(kornia.RandomGrayscale, p=ramp)
    pipeline = rf.Pipeline(resolution=rf.schedules.Linear(64, 128, epochs=2), augment=[ramped])
    (kept,) = pipeline.evaluation().augment
    assert kept.p == 1.0
    images = torch.rand(2, 3, 64, 64)
    grey = Augment([kept])(images, seed=0).images
    assert torch.equal(grey[:, 0], grey[:, 2])
