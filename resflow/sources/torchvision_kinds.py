"""The classes of torchvision's datasets that are recognised, and how the items of each are had in parts."""

from __future__ import annotations

import copy
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from resflow.sources.base import Pixels
from resflow.targets.flags import as_whole


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of datasets that is recognised, and how its items are had in parts.

    Args:
        home: module that defines the class.
        name: the class.
        fixed: methods that a subclass must not have of its own.
        image: path, or pixels uint8 [H, W, 3], of an image by its number.
        target: what `dataset[number][1]` would be.
        plain: whether this dataset does nothing to its images.
        opened: gives the dataset that is read in its place; None reads itself.
    """

    home: str
    name: str
    fixed: tuple[str, ...]
    image: Callable[[Any, int], str | Pixels]
    target: Callable[[Any, int], object]
    plain: Callable[[Any], bool]
    opened: Callable[[Any], Any] | None = None

    def matches(self, dataset: Any) -> bool:
        """Whether a dataset is of this class, or of a subclass that leaves its items as they are."""
        cls = getattr(sys.modules.get(self.home), self.name, None)
        if cls is None or not isinstance(dataset, cls) or hasattr(type(dataset), "__getitems__"):
            return False
        methods = ("__getitem__", "__len__", *self.fixed)
        return all(getattr(type(dataset), method) is getattr(cls, method) for method in methods)


def _own_target(dataset: Any, target: object) -> object:
    return target if dataset.target_transform is None else dataset.target_transform(target)


def _joint_target(dataset: Any, target: object) -> object:
    change = None if dataset.transforms is None else dataset.transforms.target_transform
    return target if change is None else change(target)


def _own_plain(dataset: Any) -> bool:
    return dataset.transform is None


def _joint_plain(dataset: Any) -> bool:
    transforms = dataset.transforms
    if transforms is None:
        return True
    standard = sys.modules["torchvision.datasets.vision"].StandardTransform
    return type(transforms) is standard and transforms.transform is None


def _folder_plain(dataset: Any) -> bool:
    folder = sys.modules["torchvision.datasets.folder"]
    return dataset.transform is None and dataset.loader in (folder.default_loader, folder.pil_loader)


def _folder_image(dataset: Any, number: int) -> str:
    return str(dataset.samples[number][0])


def _folder_target(dataset: Any, number: int) -> object:
    return _own_target(dataset, dataset.samples[number][1])


def _cifar_image(dataset: Any, number: int) -> Pixels:
    pixels: Pixels = dataset.data[number]
    return pixels


def _cifar_target(dataset: Any, number: int) -> object:
    return _own_target(dataset, dataset.targets[number])


def _coco_image(dataset: Any, number: int) -> str:
    return str(Path(dataset.root, dataset.coco.loadImgs(dataset.ids[number])[0]["file_name"]))


def _coco_target(dataset: Any, number: int) -> object:
    return _joint_target(dataset, dataset._load_target(dataset.ids[number]))


def _coco_joined(dataset: Any) -> Any:
    """The dataset with annotations joined to their images where the two spell the same id otherwise: 7, 7.0 and "7".

    pycocotools finds annotations by equal ids, an image none of whose annotations are found has no objects, and it
    takes an id that is text for a list of characters.
    """
    coco, numbers = dataset.coco, {number: as_whole(number) for number in dataset.coco.imgs}
    records = coco.dataset.get("annotations", ())
    same = all(type(number) is int for number in numbers)
    if same and all(record.get("image_id") in coco.imgs for record in records):
        return dataset
    if len(set(numbers.values())) < len(numbers):
        return dataset  # 7 and "7" are two images
    joined, coco = copy.copy(dataset), copy.copy(coco)
    coco.imgs = {numbers[number]: record for number, record in coco.imgs.items()}
    coco.imgToAnns = defaultdict(list)
    lost = 0
    for record in records:
        number = as_whole(record.get("image_id"))
        if number in coco.imgs:
            coco.imgToAnns[number].append(record)
        else:
            lost += 1
    if lost:
        warnings.warn(
            f"{lost:,} annotations of {type(dataset).__name__} name images that are not in its list of images, so they "
            "are nobody's. Correct their image_id if that is not meant.",
            stacklevel=2,
        )
    joined.coco, joined.ids = coco, [numbers[number] for number in dataset.ids]
    return joined


def _voc_image(dataset: Any, number: int) -> str:
    return str(dataset.images[number])


def _voc_boxes(dataset: Any, number: int) -> object:
    from torchvision.datasets.voc import ET_parse

    return _joint_target(dataset, dataset.parse_voc_xml(ET_parse(dataset.annotations[number]).getroot()))


def _voc_mask(dataset: Any, number: int) -> object:
    return _joint_target(dataset, Image.open(dataset.masks[number]))


def _pet_image(dataset: Any, number: int) -> str:
    return str(dataset._images[number])


def _pet_target(dataset: Any, number: int) -> object:
    sources = {"category": dataset._labels, "binary-category": dataset._bin_labels}
    parts = [
        sources[kind][number] if kind in sources else Image.open(dataset._segs[number])
        for kind in dataset._target_types
    ]
    target = None if not parts else parts[0] if len(parts) == 1 else tuple(parts)
    return _joint_target(dataset, target)


_VISION = "torchvision.datasets"
KINDS = (
    Kind(f"{_VISION}.folder", "DatasetFolder", (), _folder_image, _folder_target, _folder_plain),
    Kind(f"{_VISION}.cifar", "CIFAR10", (), _cifar_image, _cifar_target, _own_plain),
    Kind(f"{_VISION}.coco", "CocoDetection", ("_load_image",), _coco_image, _coco_target, _joint_plain, _coco_joined),
    Kind(f"{_VISION}.voc", "VOCDetection", (), _voc_image, _voc_boxes, _joint_plain),
    Kind(f"{_VISION}.voc", "VOCSegmentation", (), _voc_image, _voc_mask, _joint_plain),
    Kind(f"{_VISION}.oxford_iiit_pet", "OxfordIIITPet", (), _pet_image, _pet_target, _joint_plain),
)
"""What is recognised; a subclass is too if it leaves `__getitem__`, `__len__` and the kind's fixed methods alone."""
