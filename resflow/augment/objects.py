"""The objects of a batch taken from other images of it, and joined with one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from resflow.errors import TargetError
from resflow.targets import Instances

_OF_OBJECTS = ("boxes", "labels", "area", "iscrowd", "visible", "masks", "keypoints")


def select_objects(objects: Instances, which: torch.Tensor) -> Instances:
    """Some of the objects.

    Args:
        objects: of a batch.
        which: bool [M].
    """
    counts = torch.bincount(objects.image[which], minlength=len(objects))
    return _each(replace(objects, counts=counts), lambda part: part[which])


def take_images(objects: Instances, images: torch.Tensor) -> Instances:
    """For each place of a batch, the objects of another image of the same batch.

    Args:
        objects: of a batch.
        images: int64 [B], whose objects each place gets.
    """
    starts = objects.counts.cumsum(0) - objects.counts
    counts = objects.counts[images]
    first = starts[images] - (counts.cumsum(0) - counts)  # what turns a running number into a place in `objects`
    places = torch.repeat_interleave(first, counts)
    places += torch.arange(len(places), device=places.device)
    result = replace(objects, counts=counts, image_id=objects.image_id[images])
    return _each(result, lambda part: part[places])


def join_objects(parts: Sequence[Instances]) -> Instances:
    """The objects of several batches of the same length, image by image; image ids are those of the first.

    Raises:
        TargetError: some parts have masks or keypoints and others have none.
    """
    first = parts[0]
    order = torch.argsort(torch.cat([part.image for part in parts]), stable=True)
    pieces: dict[str, Any] = {}
    for name in _OF_OBJECTS:
        values = [getattr(part, name) for part in parts]
        given = [value for value in values if value is not None]
        if given and len(given) < len(values):
            raise TargetError(f"objects with and without {name} cannot be joined; give {name} to all images or to none")
        pieces[name] = torch.cat(given)[order] if given else None
    pairs = next((part.keypoint_pairs for part in parts if part.keypoint_pairs is not None), None)
    counts = torch.stack([part.counts for part in parts]).sum(0)
    return replace(first, counts=counts, keypoint_pairs=pairs, **pieces)


def _each(objects: Instances, change: Callable[[torch.Tensor], torch.Tensor]) -> Instances:
    """With every tensor that has a row for each object changed."""
    parts = {field.name: getattr(objects, field.name) for field in fields(objects) if field.name in _OF_OBJECTS}
    changed: dict[str, Any] = {name: change(part) for name, part in parts.items() if part is not None}
    return replace(objects, **changed)
