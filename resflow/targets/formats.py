"""Objects handed out as torchvision's detectors, tv_tensors or padded batches have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from resflow.extras import needed_for
from resflow.targets.options import Targets
from resflow.targets.types import Instances

_PADDING = {"labels": -100}  # what losses of PyTorch ignore; everything else is padded with 0


def hand_out(
    instances: Instances, options: Targets, output_size: tuple[int, int]
) -> list[dict[str, Any]] | dict[str, torch.Tensor]:
    """Objects of a batch in the format that was asked for.

    Args:
        instances: of the batch, on any device.
        options: `format`, and whether masks and keypoints are asked for.
        output_size: height and width of the batch.

    Returns:
        "list": for each image boxes float32 [N, 4], labels int64 [N], area float32 [N], iscrowd int64 [N], image_id as
        an int, and where asked for masks uint8 [N, H, W] and keypoints float32 [N, K, 3]; views, not copies.
        "tv_tensors": the same, with BoundingBoxes and Mask; keypoints stay a tensor, as KeyPoints has no visibility.
        "padded": one dict of the same names as tensors [B, M, ...], M the largest number of objects of an image, with
        count int64 [B] and image_id int64 [B]; labels beyond an image's count are -100, everything else there 0.
    """
    parts = {
        "boxes": instances.boxes,
        "labels": instances.labels,
        "area": instances.area,
        "iscrowd": instances.iscrowd,
        "masks": instances.masks if options.masks else None,
        "keypoints": instances.keypoints if options.keypoints else None,
    }
    shown = {name: part for name, part in parts.items() if part is not None}
    if options.format == "padded":
        return _padded(shown, instances)
    counts, numbers = instances.counts.tolist(), instances.image_id.tolist()
    split = {name: torch.split(part, counts) for name, part in shown.items()}
    dicts: list[dict[str, Any]] = [
        {name: pieces[place] for name, pieces in split.items()} | {"image_id": number}
        for place, number in enumerate(numbers)
    ]
    return [_wrapped(one, output_size) for one in dicts] if options.format == "tv_tensors" else dicts


def _wrapped(one: dict[str, Any], canvas: tuple[int, int]) -> dict[str, Any]:
    with needed_for('targets of format="tv_tensors" need'):
        from torchvision import tv_tensors  # on first use: slow to import

    wrap: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "boxes": lambda boxes: tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas),
        "masks": tv_tensors.Mask,
    }
    return {name: wrap[name](value) if name in wrap else value for name, value in one.items()}


def _padded(parts: dict[str, torch.Tensor], instances: Instances) -> dict[str, torch.Tensor]:
    counts, image = instances.counts, instances.image
    longest = int(counts.max()) if len(counts) else 0
    column = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    padded = {}
    for name, part in parts.items():
        padded[name] = part.new_full((len(counts), longest, *part.shape[1:]), _PADDING.get(name, 0))
        padded[name][image, column] = part
    return padded | {"count": counts, "image_id": instances.image_id}
