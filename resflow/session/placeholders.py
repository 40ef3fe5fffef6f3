"""Blank places in batches, where samples were bad: no picture, no object, a class that losses ignore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from resflow.augment.objects import select_objects
from resflow.batch import Batch
from resflow.geometry import Geometry
from resflow.pipeline import Pipeline
from resflow.plan import PlannedBatch
from resflow.session.builder import assemble
from resflow.session.labels import PixelClasses
from resflow.session.skip import Faults, skipped
from resflow.sources import Sample
from resflow.targets import Instances

NO_CLASS = -100
"""The class of a blank place: the `ignore_index` of PyTorch's losses unless it is told another."""


def with_placeholders(
    batch: Batch,
    planned: PlannedBatch,
    geometry: Geometry,
    samples: Sequence[Sample],
    faults: Faults,
    pipeline: Pipeline,
    *,
    offset: Callable[[int], int | None] = lambda _: None,
) -> Batch:
    """Spread the sound samples of a batch over the places of the whole one.

    Args:
        batch: of the sound samples.
        planned: the whole batch.
        geometry: of all its samples.
        samples: all of them; of those that could not be read, the names.
        faults: what is wrong with those that are not sound.
        pipeline: tells the colour of padding, and the class of pixels that show no image.
        offset: from a sample's number to its byte in its shard, where that is known.

    Returns:
        The whole batch, whose `present` tells the sound samples.
    """
    count, device = len(samples), batch.images.device
    at = torch.tensor([place for place in range(count) if place not in faults], dtype=torch.int64)
    present = torch.zeros(count, dtype=torch.bool).index_fill_(0, at, True)
    if not faults:
        return replace(batch, present=present)
    shape = (count, *batch.images.shape[1:])
    images = torch.empty(shape, dtype=batch.images.dtype, device=device, memory_format=torch.channels_last)
    images[:] = _colour(pipeline, images)
    for place, image in zip(at.tolist(), batch.images, strict=True):  # index_copy_ knows no uint16
        images[place] = image
    targets = _spread(batch.targets, at, count, pipeline.target_options.ignore_index)
    whole = assemble(images, targets, planned, geometry, samples)
    records = []
    for place, error in sorted(faults.items()):
        sample, number = samples[place], int(planned.sample_ids[place])
        records.append(skipped(error, sample.key, sample.shard, planned.epoch, planned.step, number, offset(number)))
    return replace(
        whole,
        valid=torch.where(present[:, None], whole.valid, 0),
        mixed=batch.mixed,
        present=present,
        skipped=tuple(records),
        tolerated=batch.tolerated,
    )


def restore_placeholders(batch: Batch, pipeline: Pipeline) -> Batch:
    """The batch after augmentation, with its blank places blank again, whatever was drawn or mixed into them.

    Args:
        batch: images floating, in [0, 1].
        pipeline: tells the colour of padding, and the class of pixels that show no image.
    """
    present = batch.present
    if present is None:
        return batch
    images = batch.images
    colour = _colour(pipeline, images) / pipeline.pixels.full
    return replace(
        batch,
        images=torch.where(present[:, None, None, None], images, colour),
        targets=_blanked(batch.targets, present, pipeline.target_options.ignore_index),
        valid=torch.where(present[:, None], batch.valid, 0),
    )


def _colour(pipeline: Pipeline, images: torch.Tensor) -> torch.Tensor:
    """What padding is filled with, [C, 1, 1] of the images' dtype."""
    fill = pipeline.padding if images.shape[1] == 3 else pipeline.padding[:1] * images.shape[1]
    return torch.tensor(fill, dtype=images.dtype, device=images.device)[:, None, None]


def _spread(targets: Any, at: torch.Tensor, count: int, ignore_index: int) -> Any:
    """Targets of n samples as those of a batch of `count`."""
    if isinstance(targets, Instances):
        counts = targets.counts.new_zeros(count).index_copy_(0, at, targets.counts)
        image_id = targets.image_id.new_full((count,), -1).index_copy_(0, at, targets.image_id)
        removed = targets.removed
        if removed is not None:
            removed = removed.new_zeros(count, removed.shape[1]).index_copy_(0, at, removed)
        return replace(targets, counts=counts, image_id=image_id, removed=removed)
    if isinstance(targets, PixelClasses):
        classes = targets.classes
        return replace(
            targets, classes=classes.new_full((count, *classes.shape[1:]), ignore_index).index_copy_(0, at, classes)
        )
    if isinstance(targets, tuple):
        return tuple(_spread(part, at, count, ignore_index) for part in targets)
    if isinstance(targets, dict):
        return {name: _spread(part, at, count, ignore_index) for name, part in targets.items()}
    if isinstance(targets, torch.Tensor):
        return targets.new_full((count, *targets.shape[1:]), _nothing(targets)).index_copy_(0, at, targets)
    if isinstance(targets, list):
        spread: list[Any] = [None] * count
        for place, target in zip(at.tolist(), targets, strict=True):
            spread[place] = target
        return spread
    return targets


def _nothing(targets: torch.Tensor) -> Any:
    """What stands for no target: -100, False; of unsigned numbers the largest; NaN, but 0 in vectors of shares."""
    if targets.dtype == torch.bool:
        return False
    if targets.is_floating_point():
        return float("nan") if targets.ndim == 1 else 0.0
    return NO_CLASS if targets.dtype.is_signed else torch.iinfo(targets.dtype).max


def _blanked(targets: Any, present: torch.Tensor, ignore_index: int) -> Any:
    if isinstance(targets, Instances):
        return select_objects(targets, present[targets.image])
    if isinstance(targets, PixelClasses):
        return replace(targets, classes=torch.where(present[:, None, None], targets.classes, ignore_index))
    if isinstance(targets, torch.Tensor) and targets.is_floating_point() and targets.ndim == 2:
        return torch.where(present[:, None], targets, 0)
    return targets
