"""What a model decides about a pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from resflow.errors import ConfigError
from resflow.models.spec import SpatialSpec, spatial_spec
from resflow.plan import Buckets, as_schedule


def pipeline_options(model: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a pipeline, with stride and, of a model of one size, resolution and bucket filled in.

    Args:
        model: see `spatial_spec`.
        options: fields of `Pipeline`, as the user gave them.

    Returns:
        Fields of `Pipeline`.

    Raises:
        ConfigError: a resolution or bucket is below the model's minimum, a stride no multiple of its total stride, or
            the model takes one size only and other resolutions or several buckets were asked for.
    """
    spec = spatial_spec(model)
    name = type(model).__name__
    if spec.fixed_size is not None:
        return _of_one_size(spec, spec.fixed_size, name, options)
    if "resolution" not in options:
        raise ConfigError(
            f"Pipeline.for_model needs a resolution: {name} takes any from {spec.minimum[0]}x{spec.minimum[1]} pixels "
            "up"
        )
    stride = options.get("stride", spec.stride)
    if not isinstance(stride, int) or stride < 1 or stride % spec.stride:
        raise ConfigError(
            f"Pipeline.stride must be a multiple of {name}'s total stride of {spec.stride} pixels; got {stride!r}. "
            "Leave it out, and the model's is used."
        )
    buckets = options.get("buckets")
    for resolution in as_schedule(options["resolution"]).resolutions:
        side = max(1, math.floor(resolution / stride + 0.5)) * stride
        if isinstance(buckets, Buckets) and resolution in buckets.resolutions:
            spec.check(buckets.shape(bucket, resolution) for bucket in range(len(buckets)))
        else:
            spec.check([(resolution, resolution), (side, side)])
    return {**options, "stride": stride}


def _of_one_size(spec: SpatialSpec, size: tuple[int, int], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    height, width = size
    resolution = options.get("resolution", height)
    spec.check((side, side) for side in as_schedule(resolution).resolutions)
    buckets = options.get("buckets", 1)
    if isinstance(buckets, Buckets):
        spec.check(buckets.shape(bucket, height) for bucket in range(len(buckets)))
    elif buckets == 1:
        # One square, so the ratio and the stride that others would be learned at have no part in it.
        buckets = Buckets(
            edges=np.zeros(0),
            resolutions=np.array([height], dtype=np.int32),
            shapes=np.array([[[height, width]]], dtype=np.int32),
            stride=math.gcd(height, width),
        )
    else:
        raise ConfigError(
            f"{name} takes images of {height}x{width} only, because of {spec.where}, so Pipeline.buckets must be 1; "
            f"got {buckets!r}. resflow.models.adapt_classifier makes a classifier take many shapes."
        )
    return {**options, "resolution": resolution, "buckets": buckets, "stride": options.get("stride", buckets.stride)}
