"""torchvision's datasets, with transforms of images and of images and targets together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as vision
from PIL import Image
from torch.utils import _pytree as pytree
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

import resflow as rf
from resflow.fusion import FusedDataset
from tests.fusion.conftest import draw

TRAIN = v1.Compose([v1.RandomResizedCrop(48), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize([0.5], [0.5])])
JOINT = v2.Compose(
    [
        v2.ToImage(),
        v2.RandomPhotometricDistort(p=0.3),
        v2.RandomZoomOut(p=0.4, fill=3),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.RandomRotation(15),
        v2.Resize((64, 64), antialias=True),
        v2.SanitizeBoundingBoxes(),
        v2.ToDtype(torch.float32, scale=True),
    ]
)
CROP = v2.Compose(
    [
        v2.ToImage(),
        v2.RandomResizedCrop(48, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
    ]
)


def write_voc(root: Path) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (base / name).mkdir(parents=True)
    names = [f"2008_{number:06}" for number in range(6)]
    for number, name in enumerate(names):
        width, height = 140 + 9 * number, 120
        draw(number, width, height).save(base / "JPEGImages" / f"{name}.jpg", quality=95)
        mask = Image.fromarray((np.add.outer(np.arange(height), np.arange(width)) // 60).astype(np.uint8))
        mask.save(base / "SegmentationClass" / f"{name}.png")
        (base / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size>"
            "<object><name>dog</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>90</xmax><ymax>100</ymax></bndbox></object>"
            "<object><name>cat</name><bndbox><xmin>5</xmin><ymin>50</ymin><xmax>60</xmax><ymax>90</ymax></bndbox></object>"
            "</annotation>"
        )
    for kind in ("Main", "Segmentation"):
        (base / "ImageSets" / kind / "train.txt").write_text("\n".join(names))
    return root


def assert_same(fused: Any, plain: Any, name: str) -> None:
    """The same structure and targets; images near one another."""
    (one, spec), (other, other_spec) = pytree.tree_flatten(plain), pytree.tree_flatten(fused)
    assert spec == other_spec, name
    for a, b in zip(one, other, strict=True):
        assert type(a) is type(b), name
        if isinstance(a, tv_tensors.Image | Image.Image) or (
            isinstance(a, torch.Tensor) and a.ndim == 3 and len(a) == 3
        ):
            scale = 255 if isinstance(a, torch.Tensor) and a.dtype.is_floating_point else 1
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert a.shape == b.shape
            assert np.abs(a - b).mean() * scale < 2.5, name
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a, b), name
            assert getattr(a, "canvas_size", 0) == getattr(b, "canvas_size", 0)
        else:
            assert a == b, name


def check(make: Callable[[], Any]) -> Any:
    plain, fused = make(), rf.fuse(make())
    assert isinstance(fused, FusedDataset)
    numbers = list(range(len(plain)))
    for draws in range(3):
        torch.manual_seed(draws)
        expected = [plain[number] for number in numbers]
        torch.manual_seed(draws)
        for one, other in zip(expected, fused.__getitems__(numbers), strict=True):
            assert_same(other, one, type(plain).__name__)
        torch.manual_seed(draws)
        for number in numbers:
            assert_same(fused[number], expected[number], type(plain).__name__)
    return fused


@pytest.mark.parametrize("kind", [vision.VOCDetection, vision.VOCSegmentation])
@pytest.mark.parametrize("joint", [JOINT, CROP], ids=["detection", "crop"])
def test_boxes_and_masks_are_those_of_torchvision(tmp_path: Path, kind: type[Any], joint: Any) -> None:
    root = write_voc(tmp_path)
    if kind is vision.VOCSegmentation and joint is JOINT:
        joint = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomRotation(9), v2.RandomCrop(64), v2.ToImage()])

    def make() -> Any:
        return vision.wrap_dataset_for_transforms_v2(kind(str(root), image_set="train", transforms=joint))

    fused = check(make)
    assert len(fused) == 6


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_coco(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="CocoDetection needs pycocotools")
    import json

    images, boxes = [], []
    for number in range(5):
        draw(number, 150 + number, 130).save(tmp_path / f"{number}.jpg", quality=95)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 150 + number, "height": 130})
        boxes.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [10.0, 20.0, 60.0, 50.0],
                "area": 3000.0,
                "iscrowd": 0,
                "segmentation": [[10.0, 20.0, 70.0, 20.0, 70.0, 70.0]],
            }
        )
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}))
    check(lambda: vision.CocoDetection(str(tmp_path), str(file), transform=TRAIN))
    keys = ("boxes", "labels", "masks")
    check(
        lambda: vision.wrap_dataset_for_transforms_v2(
            vision.CocoDetection(str(tmp_path), str(file), transforms=CROP), target_keys=keys
        )
    )


def test_pixels_in_memory(tmp_path: Path) -> None:
    steps = v1.Compose(
        [v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize([0.5], [0.2])]
    )

    def make() -> Any:
        dataset = object.__new__(vision.CIFAR10)
        dataset.__dict__.update(
            data=np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
            targets=list(range(20)),
            transform=steps,
            target_transform=str,
            transforms=vision.vision.StandardTransform(steps, str),
        )
        return dataset

    plain, fused = make(), rf.fuse(make())
    torch.manual_seed(0)
    expected = [plain[number] for number in range(20)]
    torch.manual_seed(0)
    for one, other in zip(expected, fused.__getitems__(range(20)), strict=True):
        assert torch.equal(one[0], other[0])
        assert one[1] == other[1]


def test_grey_digits() -> None:
    steps = v1.Compose([v1.RandomRotation(9), v1.ToTensor(), v1.Normalize((0.1307,), (0.3081,))])

    def make() -> Any:
        dataset = object.__new__(vision.MNIST)
        digits = torch.randint(0, 256, (12, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        dataset.__dict__.update(data=digits, targets=torch.arange(12), transform=steps, target_transform=None)
        return dataset

    plain, fused = make(), rf.fuse(make())
    torch.manual_seed(0)
    expected = [plain[number] for number in range(12)]
    torch.manual_seed(0)
    for one, other in zip(expected, fused.__getitems__(range(12)), strict=True):
        assert torch.equal(one[0], other[0])
        assert one[1] == other[1]


def test_pairs_of_images(tmp_path: Path) -> None:
    class Pairs(vision.LFWPairs):
        def __init__(self) -> None:
            for number in range(4):
                draw(number, 80, 70).save(tmp_path / f"{number}.jpg", quality=95)
            vision.VisionDataset.__init__(self, tmp_path, transform=TRAIN)
            self.pair_names = self.targets = [0, 1]
            self.data = [
                (str(tmp_path / "0.jpg"), str(tmp_path / "1.jpg")),
                (str(tmp_path / "2.jpg"), str(tmp_path / "3.jpg")),
            ]
            self._loader = vision.folder.default_loader

    check(Pairs)


def test_pets_and_traffic_signs(tmp_path: Path) -> None:
    signs = tmp_path / "gtsrb" / "GTSRB" / "Training" / "00000"
    signs.mkdir(parents=True)
    pets = tmp_path / "oxford-iiit-pet"
    (pets / "images").mkdir(parents=True)
    (pets / "annotations" / "trimaps").mkdir(parents=True)
    lines = []
    for number in range(4):
        draw(number, 70, 66).save(signs / f"{number}.ppm")
        draw(number, 150, 140).save(pets / "images" / f"Abyssinian_{number}.jpg", quality=95)
        Image.new("L", (150, 140), number).save(pets / "annotations" / "trimaps" / f"Abyssinian_{number}.png")
        lines.append(f"Abyssinian_{number} 1 1 1")
    (pets / "annotations" / "trainval.txt").write_text("\n".join(lines))
    check(lambda: vision.GTSRB(str(tmp_path), transform=TRAIN))
    check(lambda: vision.OxfordIIITPet(str(tmp_path), transform=TRAIN))
    check(lambda: vision.OxfordIIITPet(str(tmp_path), target_types=["category", "segmentation"], transforms=_halved))


def _halved(image: Any, target: Any) -> Any:
    label, mask = target
    return image.resize((40, 30), Image.Resampling.BILINEAR), (label, mask.resize((40, 30)))
