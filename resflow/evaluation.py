"""A pipeline without anything random in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from resflow.augment.per_image_kinds import deterministic_transforms
from resflow.errors import ConfigError
from resflow.geometry import Fit, RandomResizedCrop, View, at
from resflow.geometry.affine import identity
from resflow.plan import Buckets

_TRIES = 16


def evaluation_fields(
    pipeline: Any,
    *,
    resolution: int | None,
    resize: int | None,
    crop: int | None,
    transforms: Sequence[Callable[..., Any]] | None,
) -> dict[str, Any]:
    """The fields in which `Pipeline.evaluation` differs from a pipeline.

    Args:
        pipeline: a `Pipeline`.
        resolution: as there.
        resize: as there.
        crop: as there.
        transforms: as there.
    """
    kept = deterministic_transforms(pipeline.transforms) if transforms is None else transforms
    if resize is None and crop is None:
        fixed = max(pipeline.schedule.resolutions) if resolution is None else resolution
        views = _certain_views(pipeline, fixed)
        buckets = pipeline.buckets
        if isinstance(buckets, Buckets) and fixed not in buckets.resolutions:
            buckets = buckets.resized(fixed) if len(buckets) == 1 else len(buckets)
        augment = _certain_operations(pipeline, fixed)
        return {"resolution": fixed, "buckets": buckets, "views": views, "transforms": kept, "augment": augment}
    if resolution is not None or not all(type(side) is int and side > 0 for side in (resize, crop)):
        raise ConfigError(
            "evaluation takes either a resolution, or resize and crop together, in whole pixels; got "
            f"resolution={resolution!r}, resize={resize!r}, crop={crop!r}. Write evaluation(resize=256, crop=224); for "
            "a resize to a square without a crop, dataclasses.replace(pipeline.evaluation(), fit=Fit.stretch())."
        )
    side, stride = int(crop or 0), math.gcd(int(crop or 0), pipeline.stride)
    views = _certain_views(pipeline, side)
    return {
        "resolution": side,
        "buckets": Buckets.square(side, stride=stride),
        "stride": stride,
        "fit": Fit(short_side=resize, fill=pipeline.fit.fill),
        "views": [view for view in views if not isinstance(view, RandomResizedCrop)],
        "transforms": kept,
        "augment": _certain_operations(pipeline, side),
    }


def is_certain(view: View) -> bool:
    """Whether a view does the same whatever is drawn for it.

    Args:
        view: without ramps.
    """
    size = np.array([[48, 64], [64, 48], [50, 50], [500, 20]] * _TRIES, dtype=np.int32)
    placed = Fit().place(size, (64, 96)) if not isinstance(view, RandomResizedCrop) else identity(len(size))
    shape = (len(size), view.draws)
    drawn = np.random.default_rng(0).uniform(size=shape)
    least, most = np.zeros(shape), np.full(shape, np.nextafter(1.0, 0.0))
    first, *others = (np.asarray(view(placed, size, (64, 96), uniform)) for uniform in (drawn, least, most))
    return all(np.array_equal(first, other) for other in others)


def _certain_views(pipeline: Any, resolution: int) -> list[View]:
    views: Sequence[View] = [at(view, pipeline.progress(resolution)) for view in pipeline.views]
    return [view for view in views if is_certain(view)]


def _certain_operations(pipeline: Any, resolution: int) -> Sequence[Any]:
    if not pipeline.augment:
        return ()
    from resflow.augment import Augment  # with Kornia, which takes seconds

    return Augment(pipeline.augment).deterministic(pipeline.progress(resolution))
