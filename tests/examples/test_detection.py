"""Real detectors and segmentation models train on what the loader gives: 8 images, learned by heart."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchvision.models import segmentation

import resflow as rf
from tests.examples.loading import load
from tests.figures import coco_folder


@pytest.fixture(scope="module")
def detection() -> ModuleType:
    return load("detection")


def test_the_loss_falls(detection: ModuleType) -> None:
    losses, _ = detection.main(["--model", "fasterrcnn", "--epochs", "5", "--resolutions", "64", "96"])
    assert sum(losses[-2:]) / 2 < 0.7 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "epochs", "least"),
    [("fasterrcnn", 40, 0.3), ("retinanet", 80, 0.3), ("maskrcnn", 40, 0.3), ("keypointrcnn", 12, 0.0)],
)
def test_eight_images_are_learned_by_heart(detection: ModuleType, model: str, epochs: int, least: float) -> None:
    losses, precision = detection.main(["--model", model, "--epochs", str(epochs)])
    assert sum(losses[-3:]) / 3 < 0.7 * losses[0]
    assert precision >= least


def test_the_models_own_resize_is_bypassed(detection: ModuleType) -> None:
    model = detection.detector("fasterrcnn", 3)
    for shape in ((96, 160), (128, 128)):
        images = torch.rand(2, 3, *shape)
        detection.at_its_own_size(model, images)
        boxes = [{"boxes": torch.tensor([[3.0, 5.0, 40.0, 50.0]]), "labels": torch.tensor([1])} for _ in images]
        taken, moved = model.transform(list(images), boxes)
        mean, std = (
            torch.tensor(values).view(3, 1, 1) for values in (model.transform.image_mean, model.transform.image_std)
        )
        assert taken.image_sizes == [shape, shape]
        torch.testing.assert_close(taken.tensors * std + mean, images)
        assert torch.equal(moved[0]["boxes"], boxes[0]["boxes"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_segmentation_models_learn(name: str, tmp_path: Path) -> None:
    folder, _ = coco_folder(tmp_path, 8)
    torch.manual_seed(0)
    model = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=4).train()
    loader = rf.DataLoader(
        rf.sources.MaskFolder(folder, folder.parent / "masks"),
        batch_size=4,
        shuffle=True,
        pipeline=rf.Pipeline(
            resolution=rf.schedules.RandomMultiScale((64, 96)),
            buckets=3,
            views=[rf.views.HorizontalFlip()],
            targets=rf.Targets(),
            normalize=rf.IMAGENET,
        ),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    losses = []
    for _epoch in range(15):
        for images, labels in loader:
            loss = cross_entropy(model(images)["out"], labels, ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-4:]) / 4 < 0.5 * sum(losses[:2]) / 2
