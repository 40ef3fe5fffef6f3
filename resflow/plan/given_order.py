"""An epoch whose order is given, by a sampler or by whoever else: one bucket, so that any order makes whole batches."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, PlanError
from resflow.plan.batches import EpochPlan
from resflow.plan.buckets import Buckets
from resflow.plan.schedule import Schedule

Ids = npt.NDArray[np.int64]


def plan_given(
    sample_ids: Ids,
    lengths: Ids,
    buckets: Buckets,
    schedule: Schedule,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    world_size: int = 1,
    replicas: int = 1,
    replica: int = 0,
) -> EpochPlan:
    """Cut a given order into batches.

    The resolution of a batch is schedule(epoch * S + samples before it in the epoch), where S is the number of samples
    that the epoch uses over all ranks. A sample that is given again is drawn anew.

    Args:
        sample_ids: int64 [S], rows of the index; one may be there more than once.
        lengths: int64 [T], samples of each batch; together S.
        buckets: of one aspect ratio.
        schedule: resolution by progress.
        batch_size: samples of a global batch.
        seed: the run's seed.
        epoch: at least 0.
        world_size: ranks among which each batch is divided.
        replicas: ranks that each have such an order of their own.
        replica: which of them this is, where the same sample may be given to several, each to draw it for itself; else
            0, with `replicas` of the schedule's progress alone.

    Returns:
        The plan.

    Raises:
        PlanError: there is more than one bucket, or it lacks a resolution of the schedule.
    """
    if len(buckets) != 1:
        raise PlanError(f"a given order makes whole batches of one bucket only; got {len(buckets)}")
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
    used = len(sample_ids) * replicas
    resolutions = schedule(epoch * used + offsets[:-1] * replicas, used, seed)
    shapes = {int(resolution): buckets.shape(0, int(resolution)) for resolution in np.unique(resolutions)}
    repeats = _repeats(sample_ids) * replicas + replica
    return EpochPlan(
        epoch=epoch,
        seed=seed,
        sample_ids=sample_ids.astype(np.int32),
        offsets=offsets,
        shapes=np.array([shapes[int(one)] for one in resolutions], dtype=np.int32).reshape(-1, 2),
        resolutions=resolutions.astype(np.int32),
        batch_size=batch_size,
        world_size=world_size,
        repeats=repeats.astype(np.int32) if repeats.any() else None,
    )


def batch_lengths(samples: int, batch_size: int, *, drop_last: bool) -> Ids:
    """int64 [T]: how many samples each batch has.

    Args:
        samples: of the epoch.
        batch_size: of a whole batch.
        drop_last: whether samples that fill no batch are left out.
    """
    whole, rest = divmod(samples, batch_size)
    return np.array([batch_size] * whole + [rest] * (rest > 0 and not drop_last), dtype=np.int64)


def check_ids(values: Sequence[Any], count: int, name: str) -> Ids:
    """Indices that a sampler gave.

    Args:
        values: what it gave.
        count: samples of the dataset.
        name: of the sampler, for messages.

    Returns:
        int64 [S].

    Raises:
        ConfigError: something that is no index, or none of the dataset's.
    """
    try:
        ids = np.array([operator.index(value) for value in values], dtype=np.int64)
    except (TypeError, OverflowError):
        wrong = next(value for value in values if not _is_index(value))
        raise ConfigError(
            f"{name} gave {wrong!r}; a pipeline takes samplers of indices, whole numbers from 0 to {count - 1}"
        ) from None
    outside = np.flatnonzero((ids < 0) | (ids >= count))
    if len(outside):
        raise ConfigError(
            f"{name} gave the index {ids[outside[0]]}; the dataset has samples 0 to {count - 1}. Make the sampler for "
            "this dataset."
        )
    return ids


def _is_index(value: Any) -> bool:
    try:
        return -1 << 63 <= operator.index(value) < 1 << 63
    except TypeError:
        return False


def _repeats(sample_ids: Ids) -> Ids:
    """int64 [S]: how often each sample was given before."""
    order = np.argsort(sample_ids, kind="stable")
    in_order = sample_ids[order]
    begins = np.append(True, in_order[1:] != in_order[:-1]) if len(in_order) else np.empty(0, dtype=bool)
    starts = np.maximum.accumulate(np.where(begins, np.arange(len(in_order)), 0))
    repeats = np.empty(len(sample_ids), dtype=np.int64)
    repeats[order] = np.arange(len(in_order)) - starts
    return repeats
