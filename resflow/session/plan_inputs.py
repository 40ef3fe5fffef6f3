"""What a plan is made of besides its arguments: learned buckets, and how often samples come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Subset, WeightedRandomSampler

from resflow.errors import ConfigError
from resflow.pipeline import Pipeline
from resflow.plan import Buckets, PixelBudget, Sampling, learn_buckets
from resflow.plan.sampling import Draws, Weighted
from resflow.sources import Source


def draws_of(sampling: Sampling, source: Source, *, mixed: bool) -> Draws:
    """How often each sample of a source comes in an epoch.

    Args:
        sampling: as the user gave it.
        source: whose labels it may name.
        mixed: whether the source is a mixture, which has proportions of its own.

    Raises:
        ConfigError: no sampling, a mixture, or a column that the source does not have.
    """
    if not isinstance(sampling, Sampling) or isinstance(sampling, type):
        raise ConfigError(
            f"sampling must be one of rf.sampling, such as rf.sampling.Balanced('label'); got {sampling!r}"
        )
    if mixed:
        raise ConfigError("sampling and rf.sources.Mix both decide how often samples come. Drop one of them.")
    return sampling.draws(len(source.index), lambda name: _column(source, name))


def weights_of(sampler: Any) -> tuple[Sampling | None, Any]:
    """A WeightedRandomSampler beside buckets, whose batches no order of indices can make: its weights and its number.

    Args:
        sampler: the user's.

    Returns:
        The sampling that it stands for and None; or None and the sampler.
    """
    if type(sampler) is not WeightedRandomSampler or not sampler.replacement:
        return None, sampler
    return Weighted(sampler.weights.numpy(), size=sampler.num_samples), None


def _column(source: Source, name: str) -> Any:
    """The values of a column of a source by its name."""
    own: Any = getattr(source, "column", None)
    found = own(name) if callable(own) else None
    if found is None and name == "label":
        found = _labels(getattr(source, "dataset", source))
    if found is not None:
        return found
    kind = type(getattr(source, "dataset", source)).__name__
    raise ConfigError(
        f"sampling asks for the column {name!r}, which {kind} does not have: "
        "'label' is the class of torchvision's datasets and of class folders, 'categories' those of annotated objects. "
        "Pass an array in its place, with one value for each sample."
    )


def _labels(dataset: Any) -> npt.NDArray[Any] | None:
    if type(dataset) is Subset:
        whole = _labels(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices)]
    if type(dataset) is ConcatDataset:
        parts = [found for part in dataset.datasets if (found := _labels(part)) is not None]
        return np.concatenate(parts) if len(parts) == len(dataset.datasets) else None
    found = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if found is None or (not isinstance(found, Sequence | np.ndarray) and not hasattr(found, "numpy")):
        return None
    try:
        values = np.asarray(found)
    except ValueError:
        return None
    return values if values.ndim == 1 else None


def learned_buckets(pipeline: Pipeline, source: Source) -> Buckets:
    """The pipeline's buckets, learned from the source's sizes where they are not given."""
    if isinstance(pipeline.buckets, Buckets):
        return pipeline.buckets
    return learn_buckets(
        source.index.size,
        pipeline.buckets,
        resolutions=pipeline.schedule.resolutions,
        stride=pipeline.stride,
        max_crop=pipeline.fit.max_crop,
        area_tolerance=pipeline.area_tolerance,
    )


def most_samples(batch_size: int | PixelBudget, buckets: Buckets) -> int:
    """The most samples that a rank's batch holds."""
    if not isinstance(batch_size, PixelBudget):
        return batch_size
    return max(batch_size.limit((int(height), int(width))) for height, width in buckets.shapes.reshape(-1, 2))
